"""Multiples of tensors in a program, and how often each tensor is used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import SCALAR, TENSOR, UNIFORM


class Multiple(NamedTuple):
    """A tensor that is another one negated, unchanged, or times or over a number."""

    of: Value
    how: str
    by: Value | None = None


class Multiples:
    """The multiples and uses in a whole program.

    Attributes:
        uses: the number of uses of each tensor that is no multiple, and of all its multiples.
        demanded: those tensors with a use that needs the number, and not only a term of a sum.
        divisors: how often each tensor is a divisor.
    """

    def __init__(self, program: Program, needed: Iterable[Value]) -> None:
        """Collect the uses by values that are needed, which are given in order."""
        self._program = program
        self._base: dict[Value, Value] = {}
        self.uses: Counter[Value] = Counter()
        self.demanded: set[Value] = set()
        self.divisors: Counter[Value] = Counter()
        for value in needed:
            multiple = self.multiple(value)
            self._base[value] = value if multiple is None else self._base[multiple.of]
            if multiple is not None:
                continue
            operation = program.operations[value]
            for argument in operation.arguments:
                self._use(argument, not TABLE[operation.opcode].laws.additive)
            if operation.opcode == "div":
                self.divisors[operation.arguments[1]] += 1
        for value in program.results:
            self._use(value, True)

    def used_once(self, value: Value) -> bool:
        """Whether the tensor of which `value` is a multiple is used once, multiples included."""
        return self.uses[self._base[value]] == 1

    def tensor(self, value: Value) -> bool:
        """Whether a value is a tensor of numbers."""
        return self._program.type(value) == TENSOR

    def uniform(self, value: Value) -> bool:
        """Whether a value is a uniform number."""
        return self._program.type(value) == UNIFORM

    def number(self, value: Value) -> bool:
        """Whether a value is one number for all elements of a tensor, known before a loop."""
        return self._program.type(value) in {UNIFORM, SCALAR}

    def multiple(self, value: Value) -> Multiple | None:
        """The multiple as which a tensor is written; None if it is not written as one."""
        operation = self._program.operations[value]
        x = operation.arguments
        if not self.tensor(value):
            return None
        match operation.opcode:
            case "neg" | "define" | "stop_gradient" if self.tensor(x[0]):
                return Multiple(x[0], operation.opcode)
            case "mul" if self.number(x[0]) and self.tensor(x[1]):
                return Multiple(x[1], "mul", x[0])
            case "mul" | "div" if self.tensor(x[0]) and self.number(x[1]):
                return Multiple(x[0], operation.opcode, x[1])
            case "where" if self.tensor(x[2]) and self._weighed(operation):
                return Multiple(x[2], "define")
            case "where" if self.tensor(x[1]) and self._program.is_finite_part(operation):
                return Multiple(x[1], "define")
        return None

    def _use(self, value: Value, demanded: bool) -> None:
        if self.tensor(value):
            base = self._base[value]
            self.uses[base] += 1
            if demanded:
                self.demanded.add(base)

    def _weighed(self, choice: Operation) -> bool:
        """Whether a choice is zero only where a product has the factor zero, a number."""
        condition, zero, product = (self._program.operations[a] for a in choice.arguments)
        return (
            condition.opcode == "eq"
            and self.number(condition.arguments[0])
            and self._program.operations[condition.arguments[1]].attribute == 0.0
            and zero.attribute == 0.0
            and product.opcode == "mul"
            and condition.arguments[0] in product.arguments
        )
