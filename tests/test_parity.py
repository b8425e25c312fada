"""Compiled optimizers against torch.optim and against references written by hand, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from tests import differences
from tests.oracles import problems
from tests.oracles.blends import REFERENCES
from tests.oracles.references import AVGrad, Lion, Yogi
from tests.oracles.rules import ELEMENTWISE

pytestmark = pytest.mark.broad(8)

STEPS = 200
TOLERANCE = 1e-12

# Powers of ten between which the scales of the elements' gradients lie. Rules that divide by the
# gradient's own scale take all of them; the others would carry the parameters so far away that
# 1e-12 is less than their rounding (the legacy rule by its initial n, the square of a gradient).
WIDE = (-7.0, 4.0)
NARROW = (-4.0, 0.5)
SCALES = {"sgd": NARROW, "adaptivity": NARROW, "mada_legacy": (-7.0, 0.5)}

CoefficientMemory = dict[str, float]
# From the gradients of a step, None where a tensor has none, to the parameters after it.
Step = Callable[[Mapping[str, Tensor | None], float], Mapping[str, Tensor]]


class Compiled:
    """A compiled optimizer in its ordinary use."""

    def __init__(self, spec: str, start: Mapping[str, Tensor], settings: CoefficientMemory) -> None:
        self._parameters = {name: x.detach().requires_grad_() for name, x in start.items()}
        cls = optdsl.load(spec, learn=False, backend="eager")
        self._optimizer = cls(list(self._parameters.values()), **settings)

    def step(self, gradients: Mapping[str, Tensor | None], lr: float) -> Mapping[str, Tensor]:
        return _stepped(self._optimizer, self._parameters, gradients, lr)


class Torch:
    """An optimizer of torch.optim on contiguous copies."""

    def __init__(
        self,
        cls: type[torch.optim.Optimizer],
        start: Mapping[str, Tensor],
        options: dict[str, Any],
    ) -> None:
        self._parameters = {
            name: x.detach().clone(memory_format=torch.contiguous_format).requires_grad_()
            for name, x in start.items()
        }
        self._optimizer = cls(list(self._parameters.values()), foreach=False, **options)

    def step(self, gradients: Mapping[str, Tensor | None], lr: float) -> Mapping[str, Tensor]:
        return _stepped(self._optimizer, self._parameters, gradients, lr)


class ByHand:
    """The references, one a tensor."""

    def __init__(self, spec: str, start: Mapping[str, Tensor], settings: CoefficientMemory) -> None:
        self._parameters = {name: x.clone() for name, x in start.items()}
        self._references = {name: REFERENCES[spec](**settings) for name in start}

    def step(self, gradients: Mapping[str, Tensor | None], lr: float) -> Mapping[str, Tensor]:
        for name, gradient in gradients.items():
            if gradient is not None:
                reference = self._references[name]
                vars(reference)["lr"] = lr
                self._parameters[name] = reference.step(self._parameters[name], gradient)
        return self._parameters


def _stepped(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    gradients: Mapping[str, Tensor | None],
    lr: float,
) -> Mapping[str, Tensor]:
    optimizer.param_groups[0]["lr"] = lr
    for name, gradient in gradients.items():
        parameters[name].grad = gradient
    optimizer.step()
    return {name: p.detach() for name, p in parameters.items()}


def largest_deviation(
    start: Mapping[str, Tensor], scales: tuple[float, float], lr: float, one: Step, other: Step
) -> float:
    """How far two implementations ever part; the learning rate falls in the second half."""
    gradients = problems.Gradients(problems.seeded(1), start, *scales)
    worst = 0.0
    for t in range(1, STEPS + 1):
        rate = lr if t <= STEPS // 2 else lr * 0.3
        found = gradients.at(t)
        left, right = one(found, rate), other(found, rate)
        for name in start:
            assert left[name].shape == start[name].shape
            differences.note(left[name], right[name])
        gaps = torch.cat([(left[name] - right[name]).flatten() for name in start]).abs()
        assert torch.isfinite(gaps).all()
        worst = max(worst, float(gaps.max()))
    return worst


@pytest.fixture
def start() -> dict[str, Tensor]:
    return problems.parameters(problems.seeded(0))


def names(settings: CoefficientMemory) -> str:
    return ",".join(f"{key}={value:g}" for key, value in settings.items())


SGD_SETTINGS: list[CoefficientMemory] = [
    {**settings, "weight_decay": decay}
    for decay in (0.0, 0.1)
    for settings in (
        {"lr": 0.01},
        {"lr": 0.01, "dampening": 0.5},  # without momentum it does nothing
        {"lr": 0.01, "momentum": 0.9},
        {"lr": 0.01, "momentum": 0.9, "dampening": 0.3},
        {"lr": 0.01, "momentum": 0.9, "dampening": -0.2},
        {"lr": 0.01, "momentum": 0.9, "nesterov": 1.0},
        {"lr": 0.003, "momentum": 0.99, "nesterov": 1.0},
    )
]


@pytest.mark.parametrize("settings", SGD_SETTINGS, ids=names)
def test_sgd_is_torch_sgd(start: dict[str, Tensor], settings: CoefficientMemory) -> None:
    options = {**settings, "nesterov": bool(settings.get("nesterov", 0))}
    other = Torch(torch.optim.SGD, start, options)
    compiled = Compiled("sgd", start, settings)
    worst = largest_deviation(start, NARROW, settings["lr"], compiled.step, other.step)
    assert worst <= TOLERANCE


ADAM_SETTINGS: list[CoefficientMemory] = [
    {"lr": 1e-3, "weight_decay": 0.0},
    {"lr": 0.03, "beta1": 0.7, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1},
    {"lr": 0.01, "beta1": 0.0, "beta2": 0.99, "eps": 1e-6, "weight_decay": 0.01},
    {"lr": 0.01, "beta1": 0.95, "beta2": 0.5, "eps": 1e-10, "weight_decay": 0.0},
]
TORCH_ADAMS: dict[str, tuple[type[torch.optim.Optimizer], dict[str, bool]]] = {
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {}),
    "amsgrad": (torch.optim.Adam, {"amsgrad": True}),
}


@pytest.mark.parametrize("settings", ADAM_SETTINGS, ids=names)
@pytest.mark.parametrize("spec", TORCH_ADAMS)
def test_the_adam_family_is_torchs(
    start: dict[str, Tensor], spec: str, settings: CoefficientMemory
) -> None:
    cls, flags = TORCH_ADAMS[spec]
    betas = settings.get("beta1", 0.9), settings.get("beta2", 0.999)
    plain = {key: settings[key] for key in ("lr", "eps", "weight_decay") if key in settings}
    other = Torch(cls, start, {**plain, "betas": betas, **flags})
    compiled = Compiled(spec, start, settings)
    worst = largest_deviation(start, WIDE, settings["lr"], compiled.step, other.step)
    assert worst <= TOLERANCE


# Those that torch has too need one look only: it vouches for the reference, not for the rule.
BY_HAND: dict[str, list[CoefficientMemory]] = {
    "sgd": [{"lr": 0.01, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}],
    "adam": ADAM_SETTINGS[1:2],
    "adamw": ADAM_SETTINGS[1:2],
    "amsgrad": ADAM_SETTINGS[1:2],
    "avgrad": ADAM_SETTINGS,
    "yogi": [
        {"lr": 0.01, "weight_decay": 0.0},
        {"lr": 0.01, "beta1": 0.5, "beta2": 0.9, "eps": 1e-6, "weight_decay": 0.1},
        {"lr": 0.01, "m0": 0.0, "v0": 0.0, "eps": 1e-8},
        {"lr": 0.03, "beta1": 0.0, "beta2": 0.99, "m0": 0.2, "v0": 1.0, "weight_decay": 0.01},
    ],
    "adan": [
        {"lr": 1e-3, "weight_decay": 0.0},
        {"lr": 0.01, "beta1": 0.9, "beta2": 0.5, "beta3": 0.9, "eps": 1e-6, "weight_decay": 0.1},
        {"lr": 0.01, "beta1": 0.0, "beta2": 0.0, "beta3": 0.99, "weight_decay": 1.0},
    ],
    "schedule_free_adamw": [
        {"lr": 1e-3, "weight_decay": 0.0},
        {"lr": 0.01, "warmup_steps": 20.0, "r": 1.0, "weight_lr_power": 1.0, "weight_decay": 0.1},
        {"lr": 0.03, "beta1": 0.98, "beta2": 0.9, "eps": 1e-6, "warmup_steps": 300.0},
    ],
    "lion": [
        {"lr": 1e-3, "weight_decay": 0.0},
        {"lr": 0.01, "beta1": 0.95, "beta2": 0.98, "weight_decay": 0.1},
        {"lr": 0.01, "beta1": 0.0, "beta2": 0.5},
    ],
    "lamb": [
        {"lr": 1e-2},
        {"lr": 1e-3, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.0},
    ],
    "lars": [
        {"lr": 1e-1},
        {"lr": 1e-2, "momentum": 0.0, "weight_decay": 0.0, "trust_coef": 0.1},
        {"lr": 1e-1, "momentum": 0.5, "weight_decay": 0.1, "trust_coef": 0.02},
    ],
    "mada_legacy": [
        {"lr": 1e-3},
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.9, "beta3": 0.3, "rho": 0.4, "c": 0.6, "gamma": 0.7},
        {"beta2": 0.99, "beta3": 0.9, "rho": 1.0, "c": 0.0, "gamma": 0.9, "weight_decay": 0.1},
        {"beta1": 0.0, "beta3": 0.1, "rho": 0.0, "c": 0.3, "gamma": 1.0, "eps": 1e-3},
        {"lr": 0.01, "beta3": 0.5, "rho": 0.9, "c": 1.0, "gamma": 0.0, "weight_decay": 0.01},
        {"beta3": 0.5, "rho": 0.4, "c": 0.6, "gamma": 0.7, "difference": 0.0},
    ],
    "mada": [
        {"lr": 1e-3},
        {"lr": 0.01, "c": 0.3, "rho": 0.6, "kappa": 0.4, "gamma": 0.7, "weight_decay": 0.1},
        {"lr": 0.01, "beta1": 0.8, "beta2": 0.99, "kappa": 1.0, "rho": 0.0, "adan_beta2": 0.5},
        {"lr": 0.01, "c": 0.0, "gamma": 0.2, "lr_ratio": 0.5, "lion_beta2": 0.9, "eps": 1e-3},
    ],
    "hyperadam": ADAM_SETTINGS[1:],
    "adam_avgrad": [{"lr": 1e-3}, {"lr": 0.01, "rho": 0.3, "beta2": 0.9, "weight_decay": 0.1}],
    "two_speed": [
        {"lr": 1e-3},
        {"lr": 0.01, "slow": 0.2, "beta1_fast": 0.5, "beta1_slow": 0.99, "weight_decay": 0.1},
    ],
    "memory": [
        {"lr": 1e-3},
        {"lr": 0.01, "w_adam": 0.2, "w_avgrad": 0.7, "w_amsgrad": 0.1, "weight_decay": 0.1},
    ],
    "adaptivity": [
        {"lr": 1e-3},
        {"lr": 0.003, "w_sgd": 0.2, "w_adamw": 0.7, "w_lion": 0.1, "weight_decay": 0.1},
    ],
}


@pytest.mark.parametrize(
    ("spec", "settings"),
    [(spec, s) for spec, several in BY_HAND.items() for s in several],
    ids=lambda x: x if isinstance(x, str) else names(x),
)
def test_every_rule_is_its_reference(
    start: dict[str, Tensor], spec: str, settings: CoefficientMemory
) -> None:
    scales = SCALES.get(spec, WIDE)
    other = ByHand(spec, start, settings)
    compiled = Compiled(spec, start, settings)
    lr = settings.get("lr", 6e-4)
    worst = largest_deviation(start, scales, lr, compiled.step, other.step)
    assert worst <= TOLERANCE


def test_every_rule_of_the_library_has_a_reference() -> None:
    """A rule that is added brings its reference along."""
    assert set(BY_HAND) == set(REFERENCES) == set(ELEMENTWISE)


# --- what the legacy blend contains, and what it misses -------------------------------------------


def deviation_from_legacy(
    coefficients: CoefficientMemory, other: type, settings: CoefficientMemory
) -> float:
    """The largest |Δθ| between the legacy rule and a reference, at equal lr, on 64 elements."""
    generator = problems.seeded(2)
    start = {"x": problems.randn(generator, 64)}
    common = {"lr": 0.01, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, **coefficients}
    compiled = Compiled("mada_legacy", start, common)
    reference, x = other(lr=0.01, **settings), start["x"].clone()
    worst = 0.0
    for _ in range(STEPS):
        gradient = problems.randn(generator, 64)
        x = reference.step(x, gradient)
        found = compiled.step({"x": gradient}, 0.01)["x"]
        worst = max(worst, float((found - x).abs().max()))
    return worst


ADAM_LIKE: CoefficientMemory = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}


def test_legacy_at_its_corner_is_adam_up_to_the_initial_second_moment() -> None:
    corner: CoefficientMemory = {"beta3": 0.0, "rho": 1.0, "c": 1.0, "gamma": 1.0}
    worst = deviation_from_legacy(corner, REFERENCES["adam"], ADAM_LIKE)
    assert 0 < worst <= 1e-11


def test_legacy_with_rho_0_is_avgrad_up_to_the_initial_second_moment() -> None:
    corner: CoefficientMemory = {"beta3": 0.0, "rho": 0.0, "c": 1.0, "gamma": 1.0}
    worst = deviation_from_legacy(corner, AVGrad, ADAM_LIKE)
    assert 0 < worst <= 1e-11


def test_legacy_with_c_0_is_yogi_from_the_same_initial_values() -> None:
    corner: CoefficientMemory = {"beta3": 0.0, "rho": 1.0, "c": 0.0, "gamma": 1.0}
    same = {**ADAM_LIKE, "m0": 0.0, "v0": 1e-15}
    assert deviation_from_legacy(corner, Yogi, same) <= 1e-14
    # The canonical initial values are seen.
    assert deviation_from_legacy(corner, Yogi, ADAM_LIKE) > 1e-9


def test_legacy_with_gamma_0_is_a_lion_but_not_the_one_its_betas_name() -> None:
    corner: CoefficientMemory = {"gamma": 0.0}
    assert deviation_from_legacy(corner, Lion, {"beta1": 0.931, "beta2": 0.98}) == 0
    assert deviation_from_legacy(corner, Lion, {"beta1": 0.95, "beta2": 0.98}) > 0.05


def test_legacy_misses_adan() -> None:
    betas = {"beta1": 0.98, "beta2": 0.99, "eps": 1e-8}
    corner: CoefficientMemory = {**betas, "beta3": 0.92, "rho": 1.0, "c": 1.0, "gamma": 1.0}
    adan: CoefficientMemory = {"beta1": 0.98, "beta2": 0.92, "beta3": 0.99, "eps": 1e-8}
    assert deviation_from_legacy(corner, REFERENCES["adan"], adan) > 0.1
