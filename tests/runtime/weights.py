"""What the tests of weight vectors share: specifications, a probe, and an exact projection."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import torch
from torch import nn

import optdsl
from optdsl import Learn

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

LABELS = ("fast", "slow", "flat")

# Three directions on a simplex; {learn} is for a `learn` statement.
MIX = """\
optimizer Mix
hyper lr = 0.05 in [0, inf)
hyper w = {start} on simplex(fast, slow, flat)
state m = 0
m' = ema(m, g, 0.9)
theta' = theta - lr * (w.fast * g + w.slow * m' + w.flat * sign(g))
{learn}
"""

# Every element of theta belongs to one weight, whose hyper-gradient is four times the gradient of
# that element: so a finite gradient makes an infinite one, and leaves the others as they are.
PROBE = """\
optimizer Probe
hyper w = {start} on simplex(fast, slow, flat)
state x = theta
x' = x
theta' = (theta + w.fast * where(x == 0, 4, 0) + w.slow * where(x == 1, 4, 0)
  + w.flat * where(x == 2, 4, 0))
"""


def mix(
    learn: str | Learn | bool = True,
    order: str = "overlapped",
    start: str = "uniform",
    backend: str = "auto",
) -> type[CompiledOptimizer]:
    """The mixture, which learns by a statement, by a `Learn`, or not."""
    statement = learn if isinstance(learn, str) else ""
    text = MIX.format(learn=statement, start=start)
    how: dict[str, Learn] | bool = {"w": learn} if isinstance(learn, Learn) else bool(learn)
    return optdsl.compile(text, order=order, learn=how, backend=backend)


def vector(optimizer: torch.optim.Optimizer, group: int = 0) -> list[float]:
    """The weights of an optimizer."""
    return [optimizer.param_groups[group][f"w_{label}"] for label in LABELS]


def named(values: Sequence[float]) -> dict[str, float]:
    """Weights as arguments."""
    return {f"w_{label}": value for label, value in zip(LABELS, values, strict=True)}


def gradient(hypergradients: Sequence[float]) -> torch.Tensor:
    """The gradient that makes a probe measure these; NaN spoils all."""
    exact = torch.tensor(hypergradients, dtype=torch.float64) / 4
    return exact.clamp(-1e308, 1e308)


class Probe:
    """Three weights whose hyper-gradients a test dictates."""

    def __init__(
        self,
        learn: Learn,
        weights: Sequence[float] | None = None,
        order: str = "exact",
        start: str = "uniform",
        backend: str = "auto",
    ) -> None:
        self.parameter = nn.Parameter(torch.arange(3, dtype=torch.float64))
        text = PROBE.format(start=start)
        cls = optdsl.compile(text, order=order, learn={"w": learn}, backend=backend)
        self.optimizer = cls([self.parameter], **named(weights) if weights else {})

    @property
    def weights(self) -> list[float]:
        return vector(self.optimizer)

    @property
    def hypergradients(self) -> list[float]:
        metrics = self.optimizer.metrics()
        return [metrics[f"hypergradient/w_{label}"] for label in LABELS]

    def entries(self) -> dict[str, float]:
        """What the rules of the weights remember."""
        group = self.optimizer.param_groups[0]
        return {k: v for k, v in group.items() if k.startswith("learn/")}

    def step(self, *hypergradients: float) -> list[float]:
        """One step with these; the weights after it."""
        self.parameter.grad = gradient(hypergradients)
        self.optimizer.step()
        return self.weights

    def feed(self, hypergradients: Sequence[Sequence[float]]) -> list[list[float]]:
        """A first step, which has no hyper-gradient yet, then these; the weights after each."""
        self.step(0.0, 0.0, 0.0)
        return [self.step(*h) for h in hypergradients]


def differences(hypergradients: Sequence[float]) -> list[float]:
    """What is left of hyper-gradients without what all have in common."""
    common = math.fsum(hypergradients) / len(hypergradients)
    return [h - common for h in hypergradients]


def nearest(point: Sequence[float]) -> list[Fraction]:
    """The nearest point of the simplex in exact arithmetic, by trying all supports.

    On a support the nearest point of the plane "sum = 1" has equal distances; it is the answer
    where no weight is negative and none outside would gain (the conditions of Kuhn and Tucker).
    """
    exact = [Fraction(x) for x in point]
    for size in range(1, len(exact) + 1):
        for support in itertools.combinations(range(len(exact)), size):
            threshold = (sum(exact[i] for i in support) - 1) / size
            inside = all(exact[i] >= threshold for i in support)
            outside = all(x <= threshold for i, x in enumerate(exact) if i not in support)
            if inside and outside:
                return [max(x - threshold, Fraction(0)) for x in exact]
    raise AssertionError("every point has a nearest one")


def exponentials(logits: Sequence[float]) -> list[float]:
    """exp(z) / Z, for logits that need no care."""
    total = sum(math.exp(z) for z in logits)
    return [math.exp(z) / total for z in logits]
