"""Making operations: typed by the table, and each one only once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from optdsl.diagnostics import Span
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Attribute, Operation, Program, Value, upstream
from optdsl.ir.types import Type

MAX_OPERATIONS = 20_000


class TooManyOperations(Exception):
    """The program outgrew `MAX_OPERATIONS`."""


class Builder:
    """An append-only list of operations in which equal ones are one (value numbering)."""

    def __init__(self) -> None:
        self._operations: list[Operation] = []
        self._known: dict[Operation, Value] = {}

    @property
    def operations(self) -> tuple[Operation, ...]:
        """What was made so far."""
        return tuple(self._operations)

    def __getitem__(self, value: Value) -> Operation:
        return self._operations[value]

    def emit(
        self,
        opcode: str,
        *arguments: Value,
        attribute: Attribute = None,
        type: Type | None = None,
        hint: str | None = None,
        span: Span | None = None,
    ) -> Value:
        """The value of an operation, new or already there; `type` counts for leaves only.

        Raises:
            TypeMismatch: when the operation does not accept the arguments' types.
            TooManyOperations: beyond `MAX_OPERATIONS`.
        """
        kinds = tuple(self._operations[a].type for a in arguments)
        row = TABLE[opcode]
        kind = type if row.leaf and type is not None else row.infer(kinds)
        operation = Operation(opcode, arguments, attribute, kind, hint, span)
        if operation in self._known:
            return self._known[operation]
        if len(self._operations) >= MAX_OPERATIONS:
            raise TooManyOperations
        return self.append(operation)

    def append(self, operation: Operation) -> Value:
        """Take over an operation as it stands; its place in the list is its value.

        A program may hold equal operations under different values; the first one is reused.
        """
        value = Value(len(self._operations))
        self._operations.append(operation)
        self._known.setdefault(operation, value)
        return value

    def suggest(self, value: Value, hint: str) -> None:
        """Name a computed value for readers, if it has no name yet."""
        operation = self._operations[value]
        if operation.hint is None and not TABLE[operation.opcode].leaf:
            self._operations[value] = replace(operation, hint=hint)

    def copy(self, operation: Operation, arguments: tuple[Value, ...]) -> Value:
        """The same operation on other arguments, hint and span kept."""
        return self.emit(
            operation.opcode,
            *arguments,
            attribute=operation.attribute,
            type=operation.type,
            hint=operation.hint,
            span=operation.span,
        )

    def copied(
        self, program: Program, roots: Iterable[Value], bound: Mapping[Value, Value]
    ) -> dict[Value, Value]:
        """Values of a program as values of this builder, with what they depend on.

        Args:
            program: where the values are.
            roots: the values.
            bound: values of the program that are here already; what only they need is left out.
        """
        new = dict(bound)
        for value in upstream(program.operations, roots, bound):
            if value not in new:
                operation = program.operations[value]
                new[value] = self.copy(operation, tuple(new[a] for a in operation.arguments))
        return new

    def constant(self, number: float) -> Value:
        """A literal."""
        return self.emit("constant", attribute=float(number))

    def is_constant(self, value: Value, number: float) -> bool:
        """Whether a value is the literal `number`."""
        operation = self._operations[value]
        return operation.opcode == "constant" and operation.attribute == number

    # The arithmetic that derivatives are written in. None is a tangent that is zero everywhere;
    # a factor of one is left out, which changes no bit.

    def times(self, tangent: Value | None, factor: Value) -> Value | None:
        """tangent * factor."""
        if tangent is None or self.is_constant(factor, 1.0):
            return tangent
        if self.is_constant(tangent, 1.0):
            return factor
        return self.emit("mul", tangent, factor)

    def over(self, tangent: Value | None, divisor: Value) -> Value | None:
        """tangent / divisor."""
        return None if tangent is None else self.emit("div", tangent, divisor)

    def plus(self, left: Value | None, right: Value | None) -> Value | None:
        """left + right."""
        if left is None or right is None:
            return right if left is None else left
        return self.emit("add", left, right)

    def minus(self, left: Value | None, right: Value | None) -> Value | None:
        """left - right."""
        if right is None:
            return left
        if left is None:
            return self.emit("neg", right)
        return self.emit("sub", left, right)
