"""Every rule, dtype, backend and order, through real optimizers, against the interpreter.

Bounds: in float64, parameters and states are within 1e-12 of the largest number of the tensor. In
float32 they are within the error that `tests.oracles.rounding32` finds that float32 may have made
by then, four roundings an operation. Parameters of narrow dtypes are also rounded to one of the
two numbers around. A hyper-gradient is a sum, and is within 1e-10 or 1e-4 of its magnitudes.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from tests.oracles.by_interpreter import ByInterpreter, Parameter, Sum
from tests.oracles.rounding32 import SINGLE, Near

from . import rules

pytestmark = pytest.mark.broad(8)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

STEPS = {torch.float64: 8, torch.float32: 8, torch.bfloat16: 5, torch.float16: 5}
NARROW = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Snapshot:
    """A parameter before a step, and all about it after it."""

    start: Tensor
    theta: Near
    state: dict[str, Near]
    before: dict[str, Near]


@dataclass(frozen=True)
class Expected:
    """A step by the interpreter."""

    parameters: list[Snapshot]
    sums: dict[str, Sum]


@functools.cache
def schedule(rule: str, steps: int) -> list[list[dict[str, float]]]:
    return rules.hypers(rule, steps)


@functools.cache
def stream(dtype: torch.dtype) -> list[list[Tensor | None]]:
    return rules.gradients(dtype, STEPS[dtype])


def expected(rule: str, dtype: torch.dtype, t: int) -> Expected:
    """Step `t` of the trajectory, which is computed as far as somebody asks."""
    known, coming = _trajectory(rule, dtype)
    while len(known) <= t:
        known.append(next(coming))
    return known[t]


@functools.cache
def _trajectory(rule: str, dtype: torch.dtype) -> tuple[list[Expected], Iterator[Expected]]:
    return [], _steps(rule, dtype)


def _steps(rule: str, dtype: torch.dtype) -> Iterator[Expected]:
    """The trajectory; parameters of a narrow dtype are rounded after each step."""
    unit = 0.0 if dtype is torch.float64 else SINGLE
    steps = STEPS[dtype]
    reference = ByInterpreter(rules.differentiated(rule), rules.tensors(dtype), unit)
    for own, gradients in zip(schedule(rule, steps), stream(dtype), strict=True):
        start = [p.theta.value for p in reference.parameters]
        sums = reference.step(gradients, rules.by_parameter(own))
        pairs = zip(start, reference.parameters, strict=True)
        yield Expected([_snapshot(x, p) for x, p in pairs], sums)
        for parameter in reference.parameters if dtype in NARROW else ():
            parameter.theta = Near.exactly(parameter.theta.value.to(dtype).double())


def _snapshot(start: Tensor, parameter: Parameter) -> Snapshot:
    return Snapshot(start, parameter.theta, parameter.state, parameter.before)


class Run:
    """An optimizer that is compared with the interpreter after every step."""

    def __init__(
        self, rule: str, dtype: torch.dtype, cls: type[CompiledOptimizer], device: str = "cpu"
    ) -> None:
        self.rule, self.dtype = rule, dtype
        self.held = [nn.Parameter(p.detach().to(device)) for p in rules.tensors(dtype)]
        self.optimizer = rules.grouped(cls, self.held)

    def step(self, t: int, off: str | None = None) -> list[str]:
        """Take step `t`, from 0; where it disagrees by more than it may.

        Args:
            t: the step.
            off: a hyperparameter that the optimizer gets a thousandth too small.
        """
        here = expected(self.rule, self.dtype, t)
        hypers = schedule(self.rule, STEPS[self.dtype])[t]
        for group, values in zip(self.optimizer.param_groups, hypers, strict=True):
            group.update(values)
            if off is not None:
                group[off] *= 0.999
                for other in rules.sharing(self.rule, off):
                    group[other] += 0.001 * values[off]
        for parameter, gradient, there in zip(self.held, stream(self.dtype)[t], here.parameters,
                                              strict=True):  # fmt: skip
            parameter.grad = None if gradient is None else gradient.to(parameter.device)
            if self.dtype in NARROW:
                # What a tie has rounded the other way must not go on.
                with torch.no_grad():
                    parameter.copy_(there.start)
        self.optimizer.step()
        return [*self._parameters(here), *self._hypergradients(here)]

    def _parameters(self, here: Expected) -> list[str]:
        found = []
        for name, actual, there in zip(rules.SHAPES, self.held, here.parameters, strict=True):
            state = self.optimizer.state[actual]
            # While a step is pending, the states of a replay lag.
            kind = self.optimizer.compiled.parts.whole.of(actual).plan.kind
            states = there.before if kind == "replay" else there.state
            pairs = {key: (state[key], value) for key, value in states.items()}
            if not self._agree(actual, there.theta, parameter=True):
                found.append(f"theta of {name}")
            found += [f"{k} of {name}" for k, pair in pairs.items() if not self._agree(*pair)]
        return found

    def _agree(self, ours: Tensor, theirs: Near, parameter: bool = False) -> bool:
        assert ours.shape == theirs.value.shape
        ours = ours.cpu()
        value = theirs.value
        if not ours.numel():
            return True
        allowed = theirs.radius
        if self.dtype is torch.float64:
            allowed = 1e-12 * value.abs().max().clamp_min(1e-3)
        elif parameter and self.dtype in NARROW:
            allowed = allowed + unit(value, self.dtype)
        same = ours.isnan() & value.isnan()  # a mean of no elements
        return bool((same | ((ours.double() - value).abs() <= allowed)).all())

    def _hypergradients(self, here: Expected) -> list[str]:
        metrics, found = self.optimizer.metrics(), []
        for hyper in rules.learnable(self.rule):
            sum_ = here.sums.get(hyper, Sum())
            # Some tangents are differences of equal numbers, which have no relative accuracy.
            allowed = (
                1e-10 * sum_.size + 1e-12 * sum_.weight
                if self.dtype is torch.float64
                else 1e-4 * sum_.size + sum_.radius
            )
            error = abs(metrics[f"hypergradient/{hyper}"] - sum_.value)
            if not error <= allowed:
                found.append(f"the hyper-gradient of {hyper}, by {error:.2g} and not {allowed:.2g}")
        return found


def unit(value: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance of the numbers of a dtype around a value."""
    info = torch.finfo(dtype)
    exponent = torch.floor(torch.log2(value.abs().clamp_min(info.tiny)))
    return info.eps * 2**exponent


def loaded(rule: str, backend: str, order: str) -> type[CompiledOptimizer]:
    return rules.load(rule, backend=backend, order=order, learn=rules.learning(rule))


# What a dtype changes is not what an order changes: float32 runs in both orders, each other dtype
# in one, and rules of every kind of plan and loop in all.
FULL = {"mada", "memory", "lamb", "every_operation"}
ALONE = {
    torch.float64: "exact",
    torch.bfloat16: "overlapped",
    torch.float16: "exact",
}
CELLS = [
    pytest.param(
        rule, dtype, backend, order, id=f"{rule}-{str(dtype)[6:]}-{backend}-{order}",
        # What a narrow dtype changes is the same for every rule.
        marks=[] if rule in FULL or dtype not in NARROW else pytest.mark.exhaustive,
    )
    for rule in rules.RULES
    for dtype in rules.DTYPES
    for backend in rules.BACKENDS
    for order in rules.ORDERS
    if rule in FULL or ALONE.get(dtype, order) == order
]  # fmt: skip


@pytest.mark.parametrize(("rule", "dtype", "backend", "order"), CELLS)
def test_a_trajectory_is_the_interpreters(
    rule: str, dtype: torch.dtype, backend: str, order: str
) -> None:
    run = Run(rule, dtype, loaded(rule, backend, order))
    for t in range(STEPS[dtype]):
        assert run.step(t) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("rule", rules.RULES)
def test_an_error_of_one_in_a_thousand_is_not_explained_by_rounding(
    rule: str, dtype: torch.dtype
) -> None:
    """In any one coefficient; the bounds above are not too wide."""
    cls = loaded(rule, "eager", "overlapped")
    for hyper in rules.continuous(rule):
        run = Run(rule, dtype, cls)
        assert any(run.step(t, hyper) for t in range(STEPS[dtype])), hyper
