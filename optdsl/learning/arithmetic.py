"""Arithmetic on values of a program, as operations that a builder receives."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optdsl.ir.builder import Builder
from optdsl.ir.program import Value


class Arithmetic:
    """Writes uniform values.

    Attributes:
        builder: receives the operations.
    """

    def __init__(self, builder: Builder) -> None:
        """Write into a builder."""
        self.builder = builder

    def number(self, x: float) -> Value:
        """A literal."""
        return self.builder.constant(float(x))

    def where(self, comparison: str, x: Value, y: float, then: Value, otherwise: Value) -> Value:
        """A choice by how a value compares with a number."""
        condition = self.builder.emit(comparison, x, self.number(y))
        return self.builder.emit("where", condition, then, otherwise)

    def finite(self, x: Value) -> Value:
        """Whether a value is neither an infinity nor a NaN."""
        return self.builder.emit("lt", self.builder.emit("abs", x), self.number(math.inf))

    def all(self, conditions: Sequence[Value]) -> Value:
        """Whether all conditions hold; there is at least one."""
        emit, zero, one = self.builder.emit, self.number(0.0), self.number(1.0)
        held = one
        for condition in conditions:
            held = emit("where", condition, held, zero)
        return emit("eq", held, one)

    def limited(self, x: Value, lower: float, upper: float) -> Value:
        """The nearest number of an interval; NaN stays NaN."""
        if lower > -math.inf:
            x = self.builder.emit("max", x, self.number(lower))
        if upper < math.inf:
            x = self.builder.emit("min", x, self.number(upper))
        return x

    def sum(self, terms: Sequence[Value]) -> Value:
        """The sum of finite terms, rounded about once (Neumaier, 1974, ZAMM 54)."""
        return self.sums(terms)[-1]

    def sums(self, terms: Sequence[Value]) -> list[Value]:
        """The sums of the first one, two, ... terms; see `sum`."""
        emit = self.builder.emit
        total, lost = terms[0], self.number(0.0)
        found = [total]
        for term in terms[1:]:
            larger = emit("ge", emit("abs", total), emit("abs", term))
            new = emit("add", total, term)
            first = emit("add", emit("sub", total, new), term)
            second = emit("add", emit("sub", term, new), total)
            lost = emit("add", lost, emit("where", larger, first, second))
            total = new
            found.append(emit("add", total, lost))
        return found
