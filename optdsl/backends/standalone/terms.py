"""Products, quotients and decays as parts of the sums that use them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from optdsl.backends.python_expressions import Printer
from optdsl.backends.standalone.groupable import uniform, users
from optdsl.ir.intervals import excludes_zero
from optdsl.ir.program import Operation, Value
from optdsl.schedule import Kernel


@dataclass(frozen=True)
class Term:
    """A value as scale * left, scale * left * right or scale * left / right.

    The scale is a text, empty for 1; the kind is "", "mul", "div", "finite" for the finite part of
    left, or "decay" for left plus the scaled finite part right.
    """

    scale: str
    kind: str
    left: Value
    right: Value | None = None


class Terms:
    """The values of a step that have no statement of their own, as terms of those that use them."""

    def __init__(self, kernel: Kernel, printer: Printer) -> None:
        """Nothing is noted yet.

        Args:
            kernel: the step.
            printer: spells its numbers.
        """
        self._kernel, self._program, self._printer = kernel, kernel.program, printer
        self._uses = kernel.uses()
        self._results = {r.value: r for r in kernel.results}
        self._lazy: dict[Value, Term] = {}
        self._helpers: set[str] = set()

    def _operation(self, value: Value) -> Operation:
        return self._program.operations[value]

    def _only_user(self, value: Value) -> Value | None:
        if self._uses[value] != 1 or value in self._results:
            return None
        return next(users(self._kernel, value), None)

    def _decay(self, value: Value) -> Term | None:
        """The term of a + w * finite(theta) that is only scaled and subtracted from theta."""
        product = self._only_user(value)
        if self._operation(value).opcode != "add" or product is None:
            return None
        result = self._only_user(product)
        x = self._operation(product).arguments
        scaled = self._operation(product).opcode == "mul" and any(
            uniform(self._kernel, a) for a in x
        )
        if not scaled or result is None or result not in self._results:
            return None
        if self._results[result].name != "theta":
            return None  # The parameter is needed as it was.
        last = self._operation(result)
        if last.opcode != "sub" or self._operation(last.arguments[0]).opcode != "parameter":
            return None
        x = self._operation(value).arguments
        for update, part in (x, x[::-1]):
            term = self._lazy.get(part)
            if term is not None and term.kind == "finite" and term.left == last.arguments[0]:
                other = self._lazy.get(update)
                alike = other is not None and other.kind == "finite"
                return None if alike else Term("", "decay", update, part)
        return None

    def _joins(self, value: Value, user: Value) -> bool:
        """Whether the statement of a user computes a product, quotient or square, too."""
        opcode, of_user = self._operation(value).opcode, self._operation(user).opcode
        if opcode == "pow":
            if self._operation(self._operation(value).arguments[1]).attribute != 2.0:
                return False
        elif opcode not in {"mul", "div"}:
            return False
        term = self._term(self._operation(value))
        if opcode == "div" and uniform(self._kernel, self._operation(value).arguments[0]):
            return False
        if of_user in {"add", "sub"}:
            return not any(uniform(self._kernel, a) for a in self._operation(user).arguments)
        # A product with a number joins another product or quotient, as its numerator.
        if of_user == "mul":
            others = [a for a in self._operation(user).arguments if a != value]
            return bool(others) and (not term.kind or uniform(self._kernel, others[0]))
        numerator = of_user == "div" and self._operation(user).arguments[0] == value
        divisor = self._operation(user).arguments[-1]
        return numerator and (not term.kind or uniform(self._kernel, divisor))

    def _term(self, operation: Operation) -> Term:
        """A product, quotient or square as a term, with the scales of what it is made of."""
        x = operation.arguments
        if operation.opcode == "pow":
            return Term("", "mul", x[0], x[0])
        if operation.opcode == "mul":
            for number, other in ((x[0], x[1]), (x[1], x[0])):
                if uniform(self._kernel, number):
                    inner = self._noted(other)
                    scale = times(self._factor(number), inner.scale)
                    return Term(scale, inner.kind, inner.left, inner.right)
        if operation.opcode == "div" and uniform(self._kernel, x[1]):
            inner = self._noted(x[0])
            return Term(self._over(inner.scale, x[1]), inner.kind, inner.left, inner.right)
        left, right = self._noted(x[0]), self._noted(x[1])
        if left.kind or right.kind:
            left, right = (
                t if not t.kind else Term("", "", a) for t, a in zip((left, right), x, strict=True)
            )
        scale = left.scale
        if right.scale:
            if operation.opcode == "mul":
                scale = times(scale, right.scale)
            else:
                right = Term("", "", x[1])
        return Term(scale, operation.opcode, left.left, right.left)

    def _factor(self, value: Value) -> str:
        text = self._printer.text(value)
        return text if re.fullmatch(r"[\w.]+(\([^()]*\))?", text) else f"({text})"

    def _over(self, scale: str, divisor: Value) -> str:
        """A scale over a number; infinite or NaN where Python raises."""
        if excludes_zero(self._printer.range(divisor)):
            return f"{scale or '1'} / {self._factor(divisor)}"
        self._helpers.add("divide")
        return f"divide({scale or '1'}, {self._printer.text(divisor)})"

    def _noted(self, value: Value) -> Term:
        return self._lazy.get(value, Term("", "", value))

    def _is_term(self, operation: Operation) -> bool:
        if operation.opcode == "pow":
            return self._operation(operation.arguments[1]).attribute == 2.0
        return not (operation.opcode == "div" and uniform(self._kernel, operation.arguments[0]))

    def _split(self, value: Value) -> tuple[Value | None, Value]:
        operation = self._operation(value)
        if operation.opcode == "mul":
            for number, other in (operation.arguments, operation.arguments[::-1]):
                if uniform(self._kernel, number):
                    return number, other
        return None, value

    def _inside(self, value: Value) -> set[Value]:
        """What the statement of a value computes besides it."""
        found = set[Value]()
        for argument in self._operation(value).arguments:
            if argument in self._lazy and argument not in found:
                found |= {argument} | self._inside(argument)
        return found


def times(first: str, second: str) -> str:
    """The product of two scales."""
    if second.startswith("1 / "):
        return f"{first or '1'} / {second.removeprefix('1 / ')}"
    return f"{first} * {second}" if first and second else first or second
