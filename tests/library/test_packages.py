"""Rules that torch lacks against packages that others wrote, in float64.

Where a package and the paper differ, the settings leave the difference out, and a comment says what
it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import dadaptation
import pytest
import pytorch_optimizer as others
import schedulefree
import torch
from pytorch_optimizer.optimizer import scion as scion_module
from pytorch_optimizer.optimizer.muon import adamuon as adamuon_module
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from torch import Tensor, nn

import optdsl

pytestmark = pytest.mark.broad(3)

STEPS = 100
BACKENDS = ["eager", "auto"]
SHAPES: list[tuple[int, ...]] = [(3, 4), (5,)]

Make = Callable[[list[nn.Parameter]], Any]


def parameters(shapes: Iterable[tuple[int, ...]] = SHAPES) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in shapes]


def trained(
    make: Make, shapes: Iterable[tuple[int, ...]] = SHAPES, scale: float = 1.0
) -> list[Tensor]:
    """The parameters after some steps towards 3, with noise."""
    held = parameters(shapes)
    optimizer = make(held)
    if hasattr(optimizer, "train"):
        optimizer.train()
    generator = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        for p in held:
            noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = (scale * (0.1 * (p.detach() - 3) + 0.5 * noise)).clone()
        optimizer.step()
    return [p.detach() for p in held]


# A rule, its settings, and the same optimizer of a package.
CASES: list[tuple[str, dict[str, float], Make]] = [
    (
        "ademamix",
        {"lr": 0.01, "beta3": 0.99, "warmup": 60, "weight_decay": 0.1},
        lambda p: others.AdEMAMix(
            p,
            lr=0.01,
            betas=(0.9, 0.999, 0.99),
            alpha=5.0,
            t_alpha_beta3=60,
            weight_decay=0.1,
            weight_decouple=True,
        ),
    ),
    (
        "ademamix",
        {"beta1": 0.8, "alpha": 2.0},
        lambda p: others.AdEMAMix(p, lr=1e-3, betas=(0.8, 0.999, 0.9999), alpha=2.0),
    ),
    # The package's own limit is a power of t, and the authors' one of t - 1. The package decays in
    # the first step, too.
    (
        "adopt",
        {"lr": 0.01, "beta2": 0.99},
        lambda p: others.ADOPT(
            p, lr=0.01, betas=(0.9, 0.99), clip_lambda=lambda step: (step - 1) ** 0.25
        ),
    ),
    # In the package eps is added to roots before their bias is corrected, and 1e-15 to moments.
    (
        "mars",
        {"lr": 0.01, "eps": 0.0, "weight_decay": 0.1, "adamw_weight_decay": 0.2},
        lambda p: others.MARS(
            p,
            lr=0.01,
            eps=0.0,
            weight_decay=0.1,
            weight_decay_1d=0.2,
            betas_1d=(0.9, 0.999),
            lr_1d_factor=1.0,
        ),
    ),
    # In the package the decay goes with the learning rate before it is lowered.
    (
        "stable_adamw",
        {"lr": 0.01, "weight_decay": 0.0},
        lambda p: others.StableAdamW(p, lr=0.01, weight_decay=0.0, kahan_sum=False),
    ),
    # In the package the decay comes after the step, and moments have 1e-15 more, which is less than
    # rounding where gradients are large.
    (
        "laprop",
        {"lr": 0.01, "beta1": 0.8, "eps": 0.0},
        lambda p: others.LaProp(p, lr=0.01, betas=(0.8, 0.999), eps=0.0, foreach=False),
    ),
    (
        "adabelief",
        {"lr": 0.01, "eps": 1e-8, "weight_decay": 0.1},
        lambda p: others.AdaBelief(p, lr=0.01, eps=1e-8, weight_decay=0.1, adam_debias=False),
    ),
    (
        "novograd",
        {"lr": 0.01, "weight_decay": 0.1},
        lambda p: others.NovoGrad(
            p, lr=0.01, betas=(0.95, 0.98), weight_decay=0.1, weight_decouple=False
        ),
    ),
    (
        "novograd",
        {"lr": 0.01, "grad_averaging": 1.0},
        lambda p: others.NovoGrad(p, lr=0.01, betas=(0.95, 0.98), grad_averaging=True),
    ),
    (
        "signum",
        {"lr": 0.01, "weight_decay": 0.1},
        lambda p: others.SignSGD(p, lr=0.01, weight_decay=0.1),
    ),
    ("tiger", {"lr": 0.01}, lambda p: others.Tiger(p, lr=0.01)),
    (
        "schedule_free_sgd",
        {"lr": 0.05, "warmup_steps": 20, "r": 1.0, "weight_decay": 0.1},
        lambda p: schedulefree.SGDScheduleFree(
            p, lr=0.05, warmup_steps=20, r=1.0, weight_decay=0.1
        ),
    ),
    (
        "schedule_free_sgd",
        {"lr": 0.05, "momentum": 0.5},
        lambda p: schedulefree.SGDScheduleFree(p, lr=0.05, momentum=0.5),
    ),
    *(
        (
            "d_adapt_adam",
            {name: float(value) for name, value in settings.items()},
            functools.partial(dadaptation.DAdaptAdam, **settings),
        )
        for settings in (
            {"weight_decay": 0.1},
            {"decouple": True, "weight_decay": 0.1, "use_bias_correction": True},
            {"growth_rate": 1.1, "lr": 0.5},
        )
    ),
    (
        "came",
        {"lr": 0.01, "weight_decay": 0.1, "beta3": 0.99},
        lambda p: others.CAME(p, lr=0.01, weight_decay=0.1, betas=(0.9, 0.999, 0.99)),
    ),
    # In the package eps is added to roots before their bias is corrected, and 1e-15 to moments.
    (
        "adanorm",
        {"lr": 0.01, "eps": 0.0, "r": 0.9, "weight_decay": 0.1},
        lambda p: others.AdaNorm(p, lr=0.01, betas=(0.9, 0.999), eps=0.0, r=0.9, weight_decay=0.1),
    ),
    *(
        (
            "amos",
            {name: float(value) for name, value in settings.items()},
            functools.partial(others.Amos, **settings),
        )
        for settings in ({"lr": 0.05}, {"lr": 0.01, "momentum": 0.9, "beta": 0.98, "extra_l2": 0.1})
    ),
    *(
        (
            "d_adapt_sgd",
            {name: float(value) for name, value in settings.items()},
            functools.partial(dadaptation.DAdaptSGD, **settings),
        )
        for settings in ({}, {"momentum": 0.9, "weight_decay": 0.1, "growth_rate": 1.2, "lr": 0.5})
    ),
    (
        "d_adapt_lion",
        {"weight_decay": 0.1, "lr": 0.5},
        lambda p: dadaptation.DAdaptLion(p, weight_decay=0.1, lr=0.5, betas=(0.9, 0.99)),
    ),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("rule", "settings", "other"), CASES, ids=[f"{rule}-{settings}" for rule, settings, _ in CASES]
)
def test_a_rule_is_that_of_a_package(
    rule: str, settings: dict[str, float], other: Make, backend: str
) -> None:
    cls = optdsl.load(rule, backend=backend)
    shapes = [*SHAPES, (2, 3, 2)] if rule == "came" else SHAPES
    scale = 1e4 if rule in {"laprop", "adanorm"} else 1.0
    ours = trained(lambda p: cls(p, **settings), shapes, scale)
    theirs = trained(other, shapes, scale)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sophia_h_is_that_of_a_package(backend: str) -> None:
    """Estimates are given at every tenth step. The package limits m / h itself, by its `p`."""
    limit, lr = 0.1, 0.05
    ours, theirs = parameters(), parameters()
    options = {"gamma": limit, "eps": 1e-12 * limit, "weight_decay": 0.1 / limit}
    one = optdsl.load("sophia_h", backend=backend)(
        ours, lr=lr * limit, betas=(0.96, 0.99), **options
    )
    other = others.SophiaH(theirs, lr=lr, p=limit, weight_decay=0.1, update_period=10**9)
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        noise = [torch.randn(2, *p.shape, generator=generator, dtype=torch.float64) for p in ours]
        hessian = [x[1] + 0.5 for x in noise] if step % 10 == 0 else None
        for p, q, x in zip(ours, theirs, noise, strict=True):
            p.grad = 0.1 * (p.detach() - 3) + x[0]
            q.grad = p.grad.clone()
        one.step(inputs={"hessian": dict(zip(ours, hessian, strict=True))} if hessian else None)
        other.step(hessian=hessian)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


# --- rules of matrices ----------------------------------------------------------------------------


@pytest.fixture
def precise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newton-Schulz steps of the package in float64, which it takes in bfloat16."""
    exact = functools.partial(zero_power_via_newton_schulz_5, dtype=torch.float64)
    for module in (adamuon_module, scion_module):
        monkeypatch.setattr(module, "zero_power_via_newton_schulz_5", exact)


WIDE = [(3, 4), (4, 3), (3, 3)]


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("backend", BACKENDS)
def test_adamuon_is_that_of_a_package(backend: str) -> None:
    """Which has the first version, without signs; rounding is amplified by the iteration."""
    cls = optdsl.load("adamuon", backend=backend)
    ours = trained(lambda p: cls(p, lr=0.01, beta=0.9, eps=1e-10, signs=0.0), WIDE)
    theirs = trained(
        lambda p: others.AdaMuon(
            [{"params": p, "use_muon": True}], lr=0.01, weight_decay=0.1, betas=(0.9, 0.95)
        ),
        WIDE,
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_the_slow_average_of_ademamix_grows_from_a_beta1_of_zero() -> None:
    """Which the paper recommends for its memory; the authors' code adds 1e-8 to beta1, too."""
    p = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optdsl.load("ademamix", backend="eager")([p], beta1=0.0, beta3=0.99, warmup=4)
    slow, half = 0.0, torch.tensor(0.5).double().log()
    start, end = (half / torch.tensor(b).double().log() - 1 for b in (1e-8, 0.99))
    for t in range(1, 7):
        p.grad = torch.full_like(p, t)
        optimizer.step()
        ramp = min(1.0, t / 4)
        beta = float(0.5 ** (1 / ((1 - ramp) * start + ramp * end + 1)))
        slow = beta * slow + (1 - beta) * t
        assert float(optimizer.state[p]["m2"]) == pytest.approx(slow, rel=1e-6)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("unconstrained", [0.0, 1.0])
def test_scion_is_that_of_a_package(unconstrained: float, backend: str) -> None:
    """Matrices, a vector, and the last layer, whose group has its own kind and radius."""
    cls = optdsl.load("scion", backend=backend)
    shapes = [*WIDE, (5,), (2, 4)]

    def groups(held: list[nn.Parameter], **last: Any) -> list[dict[str, Any]]:
        return [{"params": held[:-1]}, {"params": held[-1:], "scale": 10.0, **last}]

    def ours(held: list[nn.Parameter]) -> Any:
        made = groups(held, kind="heads")
        return cls(made, lr=0.01, unconstrained=unconstrained)

    def theirs(held: list[nn.Parameter]) -> Any:
        made = groups(held, norm_type=scion_module.LMONorm.SIGN)
        return others.SCION(made, lr=0.01, constraint=unconstrained == 0)

    torch.testing.assert_close(trained(ours, shapes), trained(theirs, shapes), rtol=0, atol=1e-9)


@pytest.mark.usefixtures("precise")
@pytest.mark.parametrize("backend", BACKENDS)
def test_scion_scales_convolutions_as_a_package(backend: str) -> None:
    """By the number of positions of the kernel, which differs where matrices are alike."""
    cls = optdsl.load("scion", backend=backend)
    shapes = [(4, 12), (4, 4, 3), (4, 3, 2, 2), (4, 12, 1, 1), (5,)]

    def theirs(held: list[nn.Parameter]) -> Any:
        norms = [None, *[scion_module.LMONorm.SPECTRALCONV] * 3, None]
        groups = [
            {"params": [p]} | ({"norm_type": norm} if norm else {})
            for p, norm in zip(held, norms, strict=True)
        ]
        return others.SCION(groups, lr=0.01, constraint=True)

    ours = trained(lambda p: cls(p, lr=0.01), shapes)
    torch.testing.assert_close(ours, trained(theirs, shapes), rtol=0, atol=1e-9)


def test_amos_counts_the_positions_of_a_kernel_as_its_authors(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The expected size is 1 / sqrt(inputs); the package has the channels alone for these."""
    monkeypatch.setattr(others.Amos, "get_scale", lambda self, p: (p[0].numel()) ** -0.5)
    shapes = [(4, 3, 2), (2, 3, 2, 2)]
    ours = trained(lambda p: optdsl.load("amos")(p, lr=0.05), shapes)
    theirs = trained(lambda p: others.Amos(p, lr=0.05), shapes)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
