"""Builds lists of operations, with types from the table, and each operation only once."""

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

    def __init__(self, operations: Iterable[Operation] = ()) -> None:
        """Take over operations under the values that they have in a program.

        A program may hold equal operations under different values; the first one is used again.
        """
        self._operations = list(operations)
        self._known: dict[Operation, Value] = {}
        for index, operation in enumerate(self._operations):
            self._known.setdefault(operation, Value(index))

    @property
    def operations(self) -> tuple[Operation, ...]:
        """The operations so far."""
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
        given = (row.leaf or row.declared) and type is not None
        kind = type if given and type is not None else row.infer(kinds)
        operation = Operation(opcode, arguments, attribute, kind, hint, span)
        if operation in self._known:
            return self._known[operation]
        if len(self._operations) >= MAX_OPERATIONS:
            raise TooManyOperations
        value = self._known[operation] = Value(len(self._operations))
        self._operations.append(operation)
        return value

    def suggest(self, value: Value, hint: str | None) -> None:
        """Name a computed value for readers, if it has no name yet."""
        operation = self._operations[value]
        if hint and operation.hint is None and not TABLE[operation.opcode].leaf:
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

        Values of the program in `bound` are here already, and what only they need is not copied.
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
