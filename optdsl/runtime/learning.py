"""Coefficients that learn: hyper-gradient in, coefficient out.

All of it is arithmetic on Python floats. What a coefficient remembers lives in flat keys of the
parameter groups, because checkpoints of every kind carry those.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any

from optdsl.ir.program import Learned, Program, Simplex
from optdsl.runtime.build import Rule
from optdsl.runtime.engines import square_keys
from optdsl.runtime.simplex import logarithms, project, softmax

Group = MutableMapping[str, Any]


@dataclass(frozen=True)
class Coefficient:
    """A learned hyperparameter and the built rule that runs on it.

    Attributes:
        learned: how it is learned.
        rule: the rule of the library, scalarized.
        states: the names of the rule's states.
        hypers: a value for each of the rule's hyperparameters.
        program: what the rule was built from.
    """

    learned: Learned
    rule: Rule
    states: tuple[str, ...]
    hypers: dict[str, float]
    program: Program

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

    @property
    def memory_keys(self) -> set[str]:
        """The keys of what the rule remembers."""
        return self.defaults().keys() - {self.hypergradient_key}

    def adopt(self, group: Group) -> None:
        """Make the entries of a loaded group this coefficient's; another rule's start anew."""
        own = self.defaults()
        prefix = f"learn/{self.name}/"
        found = {key for key in group if str(key).startswith(prefix)}
        if found != self.memory_keys:
            for key in found:
                del group[key]
        for key, value in own.items():
            group.setdefault(key, value)

    def measured(self, sums: Mapping[str, float]) -> float:
        """What the rule follows, before a sign is taken: the hyper-gradient, or the cosine.

        Args:
            sums: finite hyper-gradients by coefficient, and squares for a cosine.
        """
        if self.learned.signal != "cosine":
            return sums[self.name]
        norms = [math.sqrt(sums[key]) for key in square_keys(self.name)]
        if 0 in norms:
            return 0.0
        # Divided one after the other: the product of norms may leave the range of floats.
        return min(max(sums[self.name] / norms[0] / norms[1], -1.0), 1.0)

    def stepped(self, group: Group, value: float, hypergradient: float) -> dict[str, float]:
        """One step of the rule, not yet back within any bounds.

        Args:
            group: a parameter group, for what the rule remembers.
            value: where the rule steps from.
            hypergradient: the derivative of the loss by the coefficient, or its cosine, before
                sign and clip.

        Returns:
            The new entries of the groups, where the rule went under the coefficient's name.
        """
        if self.learned.signal == "sign":
            hypergradient = float((hypergradient > 0) - (hypergradient < 0))
        clip = self.learned.clip
        if clip is not None:
            hypergradient = min(max(hypergradient, -clip), clip)
        count = int(group[self.step_key])
        if count:
            state = {s: group[self.state_key(s)] for s in self.states}
        else:
            state = self.rule.initialize(value, hypergradient, {}, self.hypers, 1.0)
        result = self.rule.step(value, hypergradient, state, self.hypers, float(count + 1))
        return {
            **{self.state_key(s): float(result[s]) for s in self.states},
            self.name: float(result["theta"]),
            self.step_key: count + 1,
        }


@dataclass(frozen=True)
class Block:
    """Coefficients that move as one: a single one, or the weights of a vector.

    Attributes:
        coefficients: what moves; each by its own rule.
        vector: whether they are a weight vector, which moves on its simplex.
    """

    coefficients: tuple[Coefficient, ...]
    vector: bool

    @property
    def scope(self) -> str:
        """What has a value of its own: the "optimizer", each "group", or each "tensor"."""
        return self.coefficients[0].learned.scope

    def update(
        self, groups: Sequence[Group], hypergradients: Mapping[str, float], steps: int
    ) -> None:
        """Move the coefficients in every group.

        Args:
            groups: the parameter groups, which share the coefficients.
            hypergradients: the derivatives of the loss that were measured, by coefficient, and
                what a cosine needs.
            steps: how many steps were taken before this one; learning starts after some.

        Hyper-gradients that are not all there or not finite are recorded and move nothing, and
        so are those that would leave a coefficient or the memory of its rule not finite.
        """
        entries = {
            c.hypergradient_key: hypergradients[c.name]
            for c in self.coefficients
            if c.name in hypergradients
        }
        complete = len(entries) == len(self.coefficients)
        begun = all(steps >= c.learned.after for c in self.coefficients)
        if complete and begun and all(map(math.isfinite, entries.values())):
            entries |= self._moved(groups[0], hypergradients)
        for group in groups:
            group.update(entries)

    def _moved(self, group: Group, hypergradients: Mapping[str, float]) -> dict[str, float]:
        values = self._outward([float(group[c.name]) for c in self.coefficients])
        slopes = [c.measured(hypergradients) for c in self.coefficients]
        if self.vector:
            # Only differences move a vector. What all have in common would hide them from a clip,
            # and from a rule that goes by signs or scales.
            common = math.fsum(slopes) / len(slopes)
            slopes = [h - common for h in slopes]
        entries: dict[str, float] = {}
        for coefficient, value, slope in zip(self.coefficients, values, slopes, strict=True):
            entries |= coefficient.stepped(group, value, slope)
        if not all(map(math.isfinite, entries.values())):
            return {}
        moved = self._inward([entries[c.name] for c in self.coefficients])
        return entries | dict(zip((c.name for c in self.coefficients), moved, strict=True))

    @property
    def _exponentiated(self) -> bool:
        return all(c.learned.exponentiated for c in self.coefficients)

    def _outward(self, values: list[float]) -> list[float]:
        """From the coefficients to the numbers on which their rules run."""
        return logarithms(values) if self._exponentiated else values

    def _inward(self, moved: list[float]) -> list[float]:
        """From where the rules went to coefficients within their bounds."""
        if self._exponentiated:
            return softmax(moved)
        if self.vector:
            return project(moved)
        bounds = [c.learned.bounds for c in self.coefficients]
        return [b.project(x) for b, x in zip(bounds, moved, strict=True)]


def blocks(coefficients: Iterable[Coefficient], program: Program) -> tuple[Block, ...]:
    """The learned coefficients, those of one weight vector of the program together."""
    together: dict[Simplex | str, list[Coefficient]] = {}
    for coefficient in coefficients:
        vector = program.simplex_of(coefficient.name)
        together.setdefault(vector or coefficient.name, []).append(coefficient)
    return tuple(Block(tuple(c), isinstance(key, Simplex)) for key, c in together.items())
