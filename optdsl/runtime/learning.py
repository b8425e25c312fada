"""Coefficients that learn: hyper-gradient in, coefficient out.

All of it is arithmetic on Python floats. What a coefficient remembers lives in flat keys of the
parameter groups, because checkpoints of every kind carry those.
"""

from __future__ import annotations

import math
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from optdsl.ir.program import Learned
from optdsl.runtime.build import Rule

Group = MutableMapping[str, Any]


@dataclass(frozen=True)
class Coefficient:
    """A learned hyperparameter and the built rule that runs on it.

    Attributes:
        learned: how it is learned.
        rule: the rule of the library, scalarized.
        states: the names of the rule's states.
        hypers: a value for each of the rule's hyperparameters.
    """

    learned: Learned
    rule: Rule
    states: tuple[str, ...]
    hypers: dict[str, float]

    @property
    def name(self) -> str:
        """The hyperparameter."""
        return self.learned.hyper

    @property
    def hypergradient_key(self) -> str:
        """Where a group keeps the last hyper-gradient, as it was measured (before the clip)."""
        return f"hypergradient/{self.name}"

    @property
    def step_key(self) -> str:
        """Where a group keeps the number of updates of the coefficient."""
        return f"learn/{self.name}/step"

    def state_key(self, state: str) -> str:
        """Where a group keeps a state of the coefficient's rule."""
        return f"learn/{self.name}/{state}"

    def defaults(self) -> dict[str, float]:
        """The entries of a group before the first hyper-gradient."""
        keys = [self.hypergradient_key, *(self.state_key(s) for s in self.states)]
        return {**dict.fromkeys(keys, 0.0), self.step_key: 0}

    def adopt(self, group: Group) -> None:
        """Make the entries of a loaded group this coefficient's; another rule's start anew."""
        own = self.defaults()
        prefix = f"learn/{self.name}/"
        found = {key for key in group if key.startswith(prefix)}
        if found != {key for key in own if key.startswith(prefix)}:
            for key in found:
                del group[key]
        for key, value in own.items():
            group.setdefault(key, value)

    def update(self, groups: Sequence[Group], hypergradient: float, steps: int) -> None:
        """Move the coefficient in every group.

        Args:
            groups: the parameter groups, which share the coefficient.
            hypergradient: the derivative of the loss by the coefficient.
            steps: how many steps were taken before this one; learning starts after some.

        A hyper-gradient that is not finite is recorded and moves nothing, and so is one that
        would leave the coefficient or the memory of its rule not finite.
        """
        entries: dict[str, float] = {self.hypergradient_key: hypergradient}
        if steps >= self.learned.after and math.isfinite(hypergradient):
            entries |= self._moved(groups[0], hypergradient)
        for group in groups:
            group.update(entries)

    def _moved(self, group: Group, hypergradient: float) -> dict[str, float]:
        clip = self.learned.clip
        if clip is not None:
            hypergradient = min(max(hypergradient, -clip), clip)
        value, count = float(group[self.name]), int(group[self.step_key])
        if count:
            state = {s: group[self.state_key(s)] for s in self.states}
        else:
            state = self.rule.initialize(value, hypergradient, {}, self.hypers, 1.0)
        result = self.rule.step(value, hypergradient, state, self.hypers, float(count + 1))
        if not all(map(math.isfinite, result.values())):
            return {}
        return {
            **{self.state_key(s): float(result[s]) for s in self.states},
            self.name: self.learned.bounds.project(float(result["theta"])),
            self.step_key: count + 1,
        }
