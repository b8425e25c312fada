"""Arithmetic of uniform coefficients in a program that is being built."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.ir.builder import Builder
from optdsl.ir.program import Value


class Coefficients:
    """Products and sums of uniform numbers, of which the host computes what is not known.

    All of them are taken to be finite: a product with zero is zero.
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self.one = builder.constant(1.0)
        self.zero = builder.constant(0.0)

    def times(self, x: Value, y: Value) -> Value:
        """x * y."""
        builder = self._builder
        for left, right in ((x, y), (y, x)):
            if builder.is_constant(left, 0.0) or builder.is_constant(right, 1.0):
                return left
            if builder.is_constant(left, -1.0):
                return self.negative(right)
            if builder[left].opcode == "neg":
                return self.negative(self.times(builder[left].arguments[0], right))
        return builder.emit("mul", x, y)

    def over(self, x: Value, y: Value) -> Value:
        """x / y."""
        return x if self._builder.is_constant(y, 1.0) else self._builder.emit("div", x, y)

    def negative(self, x: Value) -> Value:
        """-x."""
        operation = self._builder[x]
        if operation.opcode == "neg":
            return operation.arguments[0]
        if isinstance(operation.attribute, float):
            return self._builder.constant(-operation.attribute)
        return self._builder.emit("neg", x)

    # From here on None stands for a coefficient that is zero, whatever the numbers are.

    def plus(self, x: Value | None, y: Value | None) -> Value | None:
        """x + y."""
        builder = self._builder
        if x is None or y is None:
            return y if x is None else x
        numbers = [n for v in (x, y) if isinstance(n := builder[v].attribute, float)]
        if len(numbers) == 2:
            return builder.constant(sum(numbers)) if sum(numbers) != 0 else None
        for left, right in ((x, y), (y, x)):
            if builder.is_constant(left, 0.0):
                return right
            if builder[left].opcode == "neg":
                (taken,) = builder[left].arguments
                return None if taken == right else builder.emit("sub", right, taken)
        return builder.emit("add", x, y)

    def mean(self, weights: Sequence[Value], numbers: Sequence[Value | None]) -> Value | None:
        """The mean of numbers by weights."""
        if all(number is None for number in numbers):
            return None
        given = [self.zero if number is None else number for number in numbers]
        if all(number == given[0] for number in given):
            return given[0]
        pairs = zip(weights, given, strict=True)
        return self._builder.emit("mix", *(v for pair in pairs for v in pair))
