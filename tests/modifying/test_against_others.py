"""Schedules, decays and changes of gradients against torch's and packages' own, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import pytorch_optimizer as others
import torch
from pytorch_optimizer.optimizer.agc import agc
from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient
from torch import Tensor, nn
from torch.optim import lr_scheduler

import optdsl

pytestmark = pytest.mark.broad(2)

BACKENDS = ["eager", "auto"]
STEPS = 100
# Packages read parameters of three dimensions in ways of their own.
SHAPES: list[tuple[int, ...]] = [(7, 5), (11,), (), (2, 3, 2, 2)]

Held = list[nn.Parameter]


def parameters() -> Held:
    generator = torch.Generator().manual_seed(0)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64)) for s in SHAPES]


def trained(
    make: Callable[[Held], Any],
    before: Callable[[Held], Any] = lambda held: None,
    after: Callable[[], Any] = lambda: None,
    scale: float = 1.0,
) -> list[Tensor]:
    held = parameters()
    optimizer = make(held)
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(1000 + step)
        for p in held:
            p.grad = scale * torch.randn(p.shape, generator=generator, dtype=torch.float64)
        before(held)
        optimizer.step()
        after()
    return [p.detach().clone() for p in held]


def assert_same(ours: list[Tensor], theirs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


# --- schedules ------------------------------------------------------------------------------------


def wsd(optimizer: Any) -> Any:
    parts = [
        lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=9),
        lr_scheduler.ConstantLR(optimizer, factor=1.0),
        lr_scheduler.LinearLR(optimizer, start_factor=1.0, end_factor=0.2, total_iters=30),
    ]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[9, 60])


SCHEDULES: dict[str, Callable[[Any], Any]] = {
    "linear(steps = 80, start = 0.25, final = 0.5)": lambda o: lr_scheduler.LinearLR(
        o, start_factor=0.25, end_factor=0.5, total_iters=80
    ),
    "exponential(gamma = 0.97)": lambda o: lr_scheduler.ExponentialLR(o, gamma=0.97),
    "stepwise(every = 7, gamma = 0.8)": lambda o: lr_scheduler.StepLR(o, 7, gamma=0.8),
    "polynomial(steps = 80, power = 1.5)": lambda o: lr_scheduler.PolynomialLR(
        o, total_iters=80, power=1.5
    ),
    "one_cycle(steps = 101)": lambda o: lr_scheduler.OneCycleLR(
        o, max_lr=0.1, total_steps=101, cycle_momentum=False
    ),
    "wsd(steps = 90, warmup = 10, cooldown = 30, final = 0.2)": wsd,
    "inverse_sqrt(warmup = 20)": lambda o: lr_scheduler.LambdaLR(
        o, lambda k: min((k + 1) / 20, (20 / (k + 1)) ** 0.5)
    ),
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_is_a_scheduler_of_torch(schedule: str, backend: str) -> None:
    schedulers: list[Any] = []

    def make(held: Held) -> Any:
        optimizer = torch.optim.SGD(held, lr=0.1)
        schedulers.append(SCHEDULES[schedule](optimizer))
        return optimizer

    theirs = trained(make, after=lambda: schedulers[0].step())
    cls = optdsl.load(f"sgd with {schedule}", backend=backend)
    assert_same(trained(lambda held: cls(held, lr=0.1)), theirs)


# --- momentum and gradients -----------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_nesterovs_step_is_that_of_sgd(backend: str) -> None:
    """The model is evaluated where the rule is, and not ahead of it: after its momentum alone."""
    cls = optdsl.load("sgd with nesterov(momentum = 0.8)", backend=backend)
    made: list[Any] = []

    def theirs(held: Held) -> Any:
        made[:] = [torch.optim.SGD(held, lr=0.1, momentum=0.8, nesterov=True)]
        return made[0]

    expected = trained(theirs)
    buffers = [made[0].state[p]["momentum_buffer"] for p in made[0].param_groups[0]["params"]]

    def ours(held: Held) -> Any:
        made[:] = [cls(held, lr=0.1)]
        return made[0]

    assert_same(trained(ours), expected)
    made[0].eval()
    points = [p.detach() for p in made[0].param_groups[0]["params"]]
    shifts = zip(expected, buffers, strict=True)
    assert_same(points, [p + 0.1 * 0.8 * buffer for p, buffer in shifts])


def clipped(held: Held) -> None:
    for p in held:
        assert p.grad is not None
        p.grad = agc(p.detach(), p.grad, agc_eps=0.5, agc_clip_val=0.8)


def centralized(held: Held) -> None:
    for p in held:
        assert p.grad is not None
        centralize_gradient(p.grad)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("modifier", "before"),
    [("agc(limit = 0.8, eps = 0.5)", clipped), ("centralize", centralized)],
    ids=["agc", "centralize"],
)
def test_gradients_are_changed_as_by_a_package(
    modifier: str, before: Callable[[Held], None], backend: str
) -> None:
    cls = optdsl.load(f"sgd with {modifier}", backend=backend)
    theirs = trained(lambda held: torch.optim.SGD(held, lr=0.01, momentum=0.9), before)
    assert_same(trained(lambda held: cls(held, lr=0.01, momentum=0.9)), theirs)


# --- decay ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_matrices_alone_decay(backend: str) -> None:
    def grouped(held: Held) -> Any:
        decayed = [p for p in held if p.dim() > 1]
        others = [p for p in held if p.dim() < 2]
        groups = [{"params": decayed, "weight_decay": 0.3}, {"params": others, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.01)

    cls = optdsl.load("adam with matrix_decay(rate = 0.3)", backend=backend)
    assert_same(trained(lambda held: cls(held, lr=0.01)), trained(grouped))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("by", ["a scheduler", "a modifier"])
def test_decay_is_corrected_as_by_adamc(by: str, backend: str) -> None:
    """The package adds 1e-15 to moments, which is less than rounding where gradients are large."""
    schedulers: list[Any] = []

    def scheduled(optimizer: Any) -> Any:
        schedulers[:] = [lr_scheduler.CosineAnnealingLR(optimizer, STEPS)]
        return optimizer

    def stepped() -> None:
        for scheduler in schedulers:
            scheduler.step()

    def package(held: Held) -> Any:
        groups = [{"params": held, "normalized": True}]
        return scheduled(others.AdamC(groups, lr=0.01, eps=0.0, weight_decay=0.5))

    theirs = trained(package, after=stepped, scale=1e4)
    schedulers.clear()
    rule = "adam with corrected_decay(rate = 0.5, peak = 0.01)"
    rule += f", cosine(steps = {STEPS})" if by == "a modifier" else ""
    cls = optdsl.load(rule, backend=backend)

    def own(held: Held) -> Any:
        optimizer = cls(held, lr=0.01, eps=0.0)
        return optimizer if by == "a modifier" else scheduled(optimizer)

    assert_same(trained(own, after=stepped, scale=1e4), theirs)


# --- changes of Adam's update ---------------------------------------------------------------------


class OfAdam:
    """Steps by torch's Adam from zero, which are its updates, that a function has changed."""

    def __init__(self, held: Held, change: Callable[[Tensor, Tensor], Tensor]) -> None:
        self._held, self._change = held, change
        self._zeros = [nn.Parameter(torch.zeros_like(p)) for p in held]
        self._adam = torch.optim.Adam(self._zeros, lr=1.0)

    def step(self) -> None:
        for p, z in zip(self._held, self._zeros, strict=True):
            z.data.zero_()
            z.grad = p.grad
        self._adam.step()
        for p, z in zip(self._held, self._zeros, strict=True):
            p.data -= 0.01 * self._change(-z.detach(), p.detach())


def cautiously_decayed(update: Tensor, theta: Tensor) -> Tensor:
    """Chen et al., 2025, equation 3."""
    return update + 0.3 * theta.where(update * theta >= 0, 0)


def of_one_size(update: Tensor, theta: Tensor) -> Tensor:
    return 0.2 * update / (update.square().mean().sqrt() + 1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("modifier", "change"),
    [("cautious_decay(rate = 0.3)", cautiously_decayed), ("unit_rms(size = 0.2)", of_one_size)],
    ids=["cautious_decay", "unit_rms"],
)
def test_updates_of_adam_are_changed(
    modifier: str, change: Callable[[Tensor, Tensor], Tensor], backend: str
) -> None:
    cls = optdsl.load(f"adam with {modifier}", backend=backend)
    ours = trained(lambda held: cls(held, lr=0.01))
    assert_same(ours, trained(lambda held: OfAdam(held, change)))
