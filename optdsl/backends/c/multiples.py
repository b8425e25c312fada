"""Which tensors of a program are multiples of which, and what is done with them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import TENSOR, UNIFORM


class Multiple(NamedTuple):
    """A tensor as another one, negated, multiplied with or divided by a uniform number."""

    of: Value
    how: str
    by: Value | None = None


class Multiples:
    """What a look at a whole program finds.

    Attributes:
        uses: how often any multiple of a tensor is used, for tensors that are none themselves.
        demanded: those of which some use needs the number.
        divisors: how often something is divided by a tensor.
    """

    def __init__(self, program: Program, needed: Iterable[Value]) -> None:
        """Look at the values that are needed, in order."""
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
        """Whether there is one use of anything that is a multiple of the same as `value`."""
        return self.uses[self._base[value]] == 1

    def tensor(self, value: Value) -> bool:
        """Whether a value is a tensor of numbers."""
        return self._program.type(value) == TENSOR

    def uniform(self, value: Value) -> bool:
        """Whether a value is a uniform number."""
        return self._program.type(value) == UNIFORM

    def multiple(self, value: Value) -> Multiple | None:
        """As what multiple a tensor is written, if it is."""
        operation = self._program.operations[value]
        x = operation.arguments
        if not self.tensor(value):
            return None
        match operation.opcode:
            case "neg" | "define" | "stop_gradient" if self.tensor(x[0]):
                return Multiple(x[0], operation.opcode)
            case "mul" if self.uniform(x[0]) and self.tensor(x[1]):
                return Multiple(x[1], "mul", x[0])
            case "mul" | "div" if self.tensor(x[0]) and self.uniform(x[1]):
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
        """Whether a choice only leaves out what a uniform number multiplies with zero."""
        condition, zero, product = (self._program.operations[a] for a in choice.arguments)
        return (
            condition.opcode == "eq"
            and self.uniform(condition.arguments[0])
            and self._program.operations[condition.arguments[1]].attribute == 0.0
            and zero.attribute == 0.0
            and product.opcode == "mul"
            and condition.arguments[0] in product.arguments
        )
