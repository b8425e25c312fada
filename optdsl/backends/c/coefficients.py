"""Arithmetic of coefficients in a program that is being built: numbers known before a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optdsl.ir.builder import Builder
from optdsl.ir.program import Value


@dataclass(frozen=True)
class Coefficient:
    """The sum of a literal and a number; where one may be None, None stands for zero.

    A parameter that decays has the coefficient 1 - lr * weight_decay. Rounded to a float, that
    would lose most of the decay, so the parameter and its decay are separate terms of a sum.
    """

    literal: float
    rest: Value | None = None


ONE = Coefficient(1.0)
NEGATIVE = Coefficient(-1.0)


class Coefficients:
    """Products and sums of coefficients; all numbers are assumed to be finite."""

    def __init__(self, builder: Builder) -> None:
        """Coefficients of a program that `builder` builds."""
        self._builder = builder

    def of(self, value: Value) -> Coefficient | None:
        """A number as a coefficient; None if it is the literal zero."""
        attribute = self._builder[value].attribute
        if isinstance(attribute, float):
            return Coefficient(attribute) if attribute != 0.0 else None
        return Coefficient(0.0, value)

    def value(self, x: Coefficient) -> Value:
        """A coefficient as one number."""
        if x.rest is None:
            return self._builder.constant(x.literal)
        if x.literal == 0.0:
            return x.rest
        return self._builder.emit("add", self._builder.constant(x.literal), x.rest)

    def times(self, x: Coefficient, y: Coefficient) -> Coefficient:
        """x * y."""
        for left, right in ((x, y), (y, x)):
            if left.rest is None:
                rest = None if right.rest is None else self._scaled(left.literal, right.rest)
                return Coefficient(left.literal * right.literal, rest)
        return Coefficient(0.0, self._product(self.value(x), self.value(y)))

    def over(self, x: Coefficient, y: Coefficient) -> Coefficient:
        """x / y."""
        if y == ONE:
            return x
        return Coefficient(0.0, self._builder.emit("div", self.value(x), self.value(y)))

    def plus(self, x: Coefficient | None, y: Coefficient | None) -> Coefficient | None:
        """x + y."""
        if x is None or y is None:
            return y if x is None else x
        literal, rest = x.literal + y.literal, self._sum(x.rest, y.rest)
        return None if literal == 0.0 and rest is None else Coefficient(literal, rest)

    def mean(
        self, weights: Sequence[Value], parts: Sequence[Coefficient | None]
    ) -> Coefficient | None:
        """The mean of coefficients by weights."""
        if all(part is None for part in parts):
            return None
        if all(part == parts[0] for part in parts):
            return parts[0]
        literal = 0.0
        if None not in parts and any(part is not None and part.literal == 1.0 for part in parts):
            # All of them are near one, so the mean is taken of their differences from one.
            literal = 1.0
        zero = self._builder.constant(0.0)
        rests = []
        for part in parts:
            rest = self.plus(part, None if literal == 0.0 else Coefficient(-literal))
            rests.append(zero if rest is None else self.value(rest))
        if all(rest == rests[0] for rest in rests):
            return Coefficient(literal, None if rests[0] == zero else rests[0])
        pairs = zip(weights, rests, strict=True)
        return Coefficient(literal, self._builder.emit("mix", *(v for p in pairs for v in p)))

    # --- numbers --------------------------------------------------------------------------------

    def _scaled(self, literal: float, x: Value) -> Value | None:
        if literal == 0.0:
            return None
        if literal == 1.0:
            return x
        if literal == -1.0:
            return self._negative(x)
        return self._product(self._builder.constant(literal), x)

    def _negative(self, x: Value) -> Value:
        operation = self._builder[x]
        return operation.arguments[0] if operation.opcode == "neg" else self._builder.emit("neg", x)

    def _product(self, x: Value, y: Value) -> Value:
        for left, right in ((x, y), (y, x)):
            if self._builder[left].opcode == "neg":
                return self._negative(self._product(self._builder[left].arguments[0], right))
        return self._builder.emit("mul", x, y)

    def _sum(self, x: Value | None, y: Value | None) -> Value | None:
        if x is None or y is None:
            return y if x is None else x
        for left, right in ((x, y), (y, x)):
            if self._builder[left].opcode == "neg":
                (taken,) = self._builder[left].arguments
                return None if taken == right else self._builder.emit("sub", right, taken)
        return self._builder.emit("add", x, y)
