"""Finds weighted means in programs: sums whose weights add up to one, or to their divisor."""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from fractions import Fraction

from optdsl.algebra.polynomial import decimal
from optdsl.ir.domain import Interval
from optdsl.ir.numbering import alike
from optdsl.ir.ops import unaliased
from optdsl.ir.program import Program, Value, depending

# At most so many ways to read the terms of a sum as weights and parts are tried.
_MAX_CHOICES = 16


class Means:
    """Finds the weighted means of a program.

    Attributes:
        same: a number for each value, equal for values that are computed by the same operations.
        of_state: for each value, whether it depends on a state before the step.
    """

    def __init__(
        self, program: Program, ranges: Sequence[Interval], settings: Mapping[str, float]
    ) -> None:
        """Prepare a search in a program.

        Args:
            program: the program.
            ranges: for each value an interval that contains it unless it is NaN.
            settings: fixed values of some hyperparameters.
        """
        self._program, self._ranges, self._settings = program, ranges, settings
        self.same = alike(program.operations, {})
        self.of_state = depending(program.operations, "state")

    def parts(self, value: Value) -> list[Value] | None:
        """The parts of a weighted mean, which is a sum or a sum over a divisor; None for others.

        The weights are not negative, and add up to one or to the divisor.
        """
        operation = self._program.operations[value]
        total: dict[Hashable, Fraction] = {1: Fraction(1)}
        if operation.opcode == "div":
            value, divisor = operation.arguments
            if self.of_state[divisor] or self._ranges[divisor].lower < 0:
                return None
            total = self._linear(divisor)
        # A named equation in the sum may be one part, or a sum of parts itself.
        return self._summing(value, total, False) or self._summing(value, total, True)

    def _summing(
        self, value: Value, total: dict[Hashable, Fraction], through: bool
    ) -> list[Value] | None:
        terms = list(itertools.islice(self._terms(value, through), 8))
        if not 2 <= len(terms) < 8:
            return None
        options = [list(self._weighed(term)) for term in terms]
        for chosen in itertools.islice(itertools.product(*options), _MAX_CHOICES):
            summed: dict[Hashable, Fraction] = {}
            parts: list[Value] = []
            for weight, part in chosen:
                linear = {1: Fraction(1)} if weight is None else self._linear(weight)
                for key, c in linear.items():
                    summed[key] = summed.get(key, Fraction(0)) + c
                if linear:  # a part whose weight is the number zero does not count
                    parts.append(part)
            if {k: c for k, c in summed.items() if c} == total:
                return parts
        return None

    def _terms(self, value: Value, through: bool) -> Iterator[Value]:
        operations = self._program.operations
        waiting = [unaliased(operations, value)]
        while waiting:
            value = waiting.pop()
            if through:
                value = unaliased(operations, value)
            operation = operations[value]
            if operation.opcode == "add":
                waiting.extend(reversed(operation.arguments))
            else:
                yield value

    def _weighed(self, term: Value) -> Iterator[tuple[Value | None, Value]]:
        operations = self._program.operations
        operation = operations[unaliased(operations, term)]
        if operation.opcode == "mul":
            for weight, part in (operation.arguments, operation.arguments[::-1]):
                if not self.of_state[weight] and self._ranges[weight].lower >= 0:
                    yield weight, part
        yield None, term

    def _linear(self, value: Value, depth: int = 3) -> dict[Hashable, Fraction]:
        """A value as a linear combination of other values and of the number one, by its keys."""
        value = unaliased(self._program.operations, value)
        operation = self._program.operations[value]
        number = operation.attribute
        if operation.opcode == "hyper":
            number = self._settings.get(str(number))
        if isinstance(number, int | float) and math.isfinite(number):
            return {1: decimal(float(number))} if number else {}
        match operation.opcode:
            case "add" | "sub" if depth:
                total, second = (self._linear(a, depth - 1) for a in operation.arguments)
                for key, c in second.items():
                    moved = c if operation.opcode == "add" else -c
                    total[key] = total.get(key, Fraction(0)) + moved
                return {k: c for k, c in total.items() if c}
            case _:
                return {("value", self.same[value]): Fraction(1)}
