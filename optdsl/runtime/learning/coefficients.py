"""Coefficients that learn on the host: hyper-gradient in, coefficient out.

`optdsl.learning` says what happens; here its program runs on Python floats. What a coefficient
remembers lies in flat keys of the parameter groups, because checkpoints of every kind carry those.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

from optdsl.backends.base import SourceModule
from optdsl.learning import TAKEN, Block, measured_key, square_keys
from optdsl.runtime.build.python_modules import build

Group = MutableMapping[str, Any]


class CoefficientUpdate:
    """Moves coefficients by their hyper-gradients.

    Attributes:
        block: the coefficients, which move as one.
    """

    def __init__(self, block: Block, source: SourceModule) -> None:
        """Build what moves them.

        Args:
            block: the coefficients.
            source: their program as Python.
        """
        self.block = block
        self._rule = build(source)

    def update(self, groups: Sequence[Group], sums: Mapping[str, float], steps: int) -> None:
        """Move the coefficients in every group.

        Args:
            groups: the parameter groups, which share the coefficients.
            sums: the derivatives of the loss that were measured, by coefficient, and the squared
                norms that a cosine needs.
            steps: how many steps were taken before this one; learning starts after some.

        Hyper-gradients that are not all there are recorded and move nothing; see
        `optdsl.learning.learning_program` for those that are not finite.
        """
        coefficients = self.block.coefficients
        entries: dict[str, float]
        if all(c.name in sums for c in coefficients):
            inputs = {measured_key(c.name): sums[c.name] for c in coefficients}
            inputs |= {key: sums[key] for c in coefficients for key in square_keys(c.name)
                       if c.learned.signal == "cosine"}  # fmt: skip
            state = {key: float(groups[0][key]) for key in self._rule.step.entry.states}
            found = self._rule.step(0.0, 0.0, state, inputs | {TAKEN: float(steps)}, 1.0)
            # Emitted literals may be whole numbers of Python.
            entries = {key: float(new) for key, new in found.items() if key != "theta"}
            for coefficient in coefficients:
                entries[coefficient.step_key] = int(entries[coefficient.step_key])
        else:
            entries = {c.hypergradient_key: sums[c.name] for c in coefficients if c.name in sums}
        for group in groups:
            group.update(entries)
