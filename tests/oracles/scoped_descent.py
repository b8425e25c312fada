"""Coefficients of groups and tensors by autograd: every last update stays on a tape of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.oracles.hypergradient_descent import Coefficient
from tests.oracles.references import Reference


@dataclass
class Pending:
    """The last update of a tensor, with what it was made with on the tape."""

    updated: Tensor
    used: dict[str, Tensor]


@dataclass
class ScopedDescent:
    """Tensors whose optimizers' hyperparameters are learned by any partition of the tensors.

    Attributes:
        values: the tensors, in double precision.
        references: the optimizer of each.
        units: by hyperparameter, which unit each tensor belongs to.
        coefficients: by hyperparameter and unit.
        signals: by hyperparameter, "raw", "sign" or "cosine".
        exact: whether coefficients learn before the step that their gradient takes.
        measured: the last hyper-gradients, by hyperparameter and unit.
    """

    values: list[Tensor]
    references: Sequence[Reference]
    units: Mapping[str, Sequence[int]]
    coefficients: Mapping[str, Mapping[int, Coefficient]]
    signals: Mapping[str, str]
    exact: bool
    measured: dict[tuple[str, int], float] = field(default_factory=dict)
    pending: dict[int, Pending] = field(default_factory=dict)

    def step(
        self,
        gradients: Sequence[Tensor | None],
        observed: Sequence[Sequence[Tensor | None]] | None = None,
    ) -> None:
        """One step; a tensor without a gradient stays as it is.

        Args:
            gradients: what the tensors step by.
            observed: what is learned from, in several rounds; None where that is `gradients`.
        """
        present = {i: g for i, g in enumerate(gradients) if g is not None}
        learn = self._learning(present, [gradients] if observed is None else observed)
        if self.exact:
            learn()
        for i, gradient in present.items():
            reference = self.references[i]
            used = {
                name: torch.tensor(
                    self.coefficients[name][units[i]].value,
                    dtype=torch.float64,
                    requires_grad=True,
                )
                for name, units in self.units.items()
            }
            vars(reference).update(used)
            reference.detach()
            updated = reference.step(self.values[i], gradient)
            reference.detach()
            self.pending[i] = Pending(updated, used)
            self.values[i] = updated.detach()
        if not self.exact:
            learn()

    def _learning(
        self, present: Mapping[int, Tensor], rounds: Sequence[Sequence[Tensor | None]]
    ) -> Callable[[], None]:
        """Measure now, learn when called."""
        todo = []
        for name, units in self.units.items():
            for unit in sorted(set(units)):
                mine = [i for i, u in enumerate(units) if u == unit]
                taken = max(self.references[i].t for i in mine)
                found = [
                    (g, self.pending[i])
                    for gradients in rounds
                    for i in mine
                    if i in present and i in self.pending and (g := gradients[i]) is not None
                ]
                if not found:
                    continue
                tangents = [tangent(p.updated, p.used[name]) for _, p in found]
                products = zip((g for g, _ in found), tangents, strict=True)
                raw = math.fsum(float((g * t).sum()) for g, t in products)
                signal = raw
                if self.signals[name] == "sign":
                    signal = math.copysign(1, raw) if raw else 0.0
                if self.signals[name] == "cosine":
                    all_g = torch.cat([g.reshape(-1) for g, _ in found])
                    all_t = torch.cat([t.reshape(-1) for t in tangents])
                    lengths = float(torch.linalg.vector_norm(all_g)) * float(
                        torch.linalg.vector_norm(all_t)
                    )
                    signal = raw / lengths if lengths else 0.0
                todo.append((name, unit, raw, signal, taken))

        def learn() -> None:
            for name, unit, raw, signal, taken in todo:
                self.measured[name, unit] = raw
                self.coefficients[name][unit].learn(signal, taken)

        return learn


def tangent(updated: Tensor, by: Tensor) -> Tensor:
    """The derivative of each element, one backward pass each."""
    rows = [
        torch.autograd.grad(x, by, retain_graph=True, allow_unused=True)[0]
        for x in updated.reshape(-1)
    ]
    zero = torch.zeros((), dtype=torch.float64)
    return torch.stack([zero if r is None else r for r in rows]).reshape(updated.shape)
