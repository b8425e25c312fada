"""Learned coefficients by autograd: the last update stays on the tape until the next loss.

What the compiler does with tangents and dot products, done the way a paper describes it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.oracles.references import Reference


@dataclass
class Coefficient:
    """A number that learns by SGD with momentum, within bounds.

    Attributes:
        value: where it stands.
        hypergradient: the last one, before the clip.
        hits: how often the clip, the lower and the upper bound were at work.
    """

    value: float
    lr: float
    momentum: float
    clip: float
    lower: float
    upper: float
    after: int = 0
    buffer: float | None = None
    hypergradient: float = 0.0
    hits: tuple[int, int, int] = (0, 0, 0)

    def learn(self, hypergradient: float, steps_before: int) -> None:
        """Move against the hyper-gradient."""
        self.hypergradient = hypergradient
        if steps_before < self.after:
            return
        h = max(-self.clip, min(self.clip, hypergradient))
        self.buffer = h if self.buffer is None else self.momentum * self.buffer + h
        moved = self.value - self.lr * self.buffer
        self.value = max(self.lower, min(self.upper, moved))
        clipped, low, high = self.hits
        self.hits = (
            clipped + (h != hypergradient),
            low + (moved < self.lower),
            high + (moved > self.upper),
        )


class HypergradientDescent:
    """A model whose optimizer's coefficients learn.

    Args:
        start: the initial parameters.
        references: an optimizer for each of them.
        coefficients: what learns, shared by all optimizers.
        exact: whether coefficients learn before the step that their gradient takes, or after.
    """

    def __init__(
        self,
        start: Sequence[Tensor],
        references: Sequence[Reference],
        coefficients: Mapping[str, Coefficient],
        *,
        exact: bool,
    ) -> None:
        self.parameters = [x.detach().clone() for x in start]
        self.coefficients = dict(coefficients)
        self._references = list(references)
        self._exact = exact
        self._used: dict[str, Tensor] = {}
        self._steps = 0

    def step(self, loss: Callable[[Sequence[Tensor]], Tensor]) -> float:
        """One step of everything; returns the loss before it."""
        for x in self.parameters:
            x.requires_grad_() if x.is_leaf else x.retain_grad()
        value = loss(self.parameters)
        value.backward()
        gradients = [x.grad for x in self.parameters]
        if self._exact:
            self._learn()
            self._advance(gradients)
        else:
            hypergradients = dict(self._used)
            self._advance(gradients)
            self._learn(hypergradients)
        self._steps += 1
        return float(value.detach())

    def _learn(self, used: Mapping[str, Tensor] | None = None) -> None:
        """Learn from what the backward pass left on the values that the last update used."""
        for name, tensor in (self._used if used is None else used).items():
            assert tensor.grad is not None
            self.coefficients[name].learn(float(tensor.grad), self._steps)

    def _advance(self, gradients: Sequence[Tensor | None]) -> None:
        self._used = {
            name: torch.tensor(c.value, dtype=torch.float64, requires_grad=True)
            for name, c in self.coefficients.items()
        }
        for i, (reference, gradient) in enumerate(zip(self._references, gradients, strict=True)):
            assert gradient is not None
            vars(reference).update(self._used)
            before = self.parameters[i].detach()
            reference.detach()
            self.parameters[i] = reference.step(before, gradient.detach())
