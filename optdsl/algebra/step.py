"""An operation on its way to a normal form, with what is known of its arguments."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from fractions import Fraction

from optdsl.algebra.facts import Fact, decided
from optdsl.algebra.polynomial import Polynomial
from optdsl.ir.program import Operation


@dataclass(slots=True)
class Step:
    """An operation and the fact about it; and the forms `x`, facts and keys of its arguments.

    `types` has the types of the arguments that are no tensors.
    """

    operation: Operation
    x: list[Polynomial]
    fact: Fact
    facts: list[Fact] | None
    written: list[Hashable]
    types: tuple[str, ...]

    def decided(self, difference: Fraction) -> bool:
        """Whether rounding cannot change how the arguments compare, given their difference."""
        if self.facts is None or len(set(self.written)) < len(self.written):
            return True
        return decided(difference, self.facts[0], self.facts[-1])
