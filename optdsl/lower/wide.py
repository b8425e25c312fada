"""Rules of wide matrices as rules of matrices, so that blends have one reading of a tensor.

`for wide matrices` reads tensors transposed that have more rows than columns. The same rule, of
matrices as they are, is one of two programs: its own, and for tall matrices the program that does
to transposed values what its own does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import DRAWS, TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.sections import WIDE
from optdsl.ir.types import AXES, TENSOR, Type, TypeMismatch, along
from optdsl.lower.sections import joined, joined_by
from optdsl.passes.rewrite import rewrite
from optdsl.passes.specialize import in_kind

_OTHER = dict(zip(AXES, reversed(AXES), strict=True))
_WIDE = f"{WIDE} "


class NotTurned(Exception):
    """A rule of wide matrices has a value that is not there of a matrix as it is."""

    def __init__(self, operation: Operation) -> None:
        super().__init__(operation.opcode)
        self.operation = operation


def plain(kinds: Sequence[str]) -> tuple[str, ...]:
    """The kinds, where those of wide matrices are of matrices as they are."""
    return tuple(kind.removeprefix(_WIDE) for kind in kinds)


def as_they_are(program: Program, kinds: Sequence[str]) -> Program:
    """A rule with sections for these kinds, where its own may be for the same kinds, but wide.

    Args:
        program: the rule.
        kinds: the kinds; with others than the rule's, it stays as it is.

    Raises:
        NotTurned: where something of the rule cannot be said of a matrix as it is.
    """
    own = program.sections
    if own == tuple(kinds) or plain(own) != tuple(kinds):
        return program
    parts = [in_kind(program, own, number) for number in range(len(own))]
    found = [
        _either(replace(part, kind=kind)) if part.kind != kind else part
        for part, kind in zip(parts, kinds, strict=True)
    ]
    return joined(kinds, kinds, found)


def _either(program: Program) -> Program:
    """A rule of wide matrices, of matrices as they are."""

    def tall(builder: Builder) -> Value:
        rows, cols = (builder.emit("length", attribute=axis, hint=axis) for axis in AXES)
        return builder.emit("gt", rows, cols)

    return joined_by(tall, ("broad", "tall"), (program, turned(program)))


def turned(program: Program) -> Program:
    """The program that does to transposed values what a program of matrices does to its own.

    Every matrix is there transposed, with rows for columns; so the parameter, the gradient and
    states of their type are there as they are of the transposed matrix.

    Raises:
        NotTurned: for numbers drawn for each element of the parameter, and for a value along an
            axis of the rule's own that would have to stand on the other side of a matrix.
    """

    def turn(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value:
        try:
            return _turned(builder, operation, x)
        except TypeMismatch as error:
            raise NotTurned(operation) from error

    found = rewrite(program, turn)
    states = tuple(replace(s, type=_type(s.type)) for s in program.states)
    return replace(
        found,
        states=tuple(
            replace(s, initial=new.initial, next=new.next)
            for s, new in zip(states, found.states, strict=True)
        ),
    )


def _turned(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value:
    row = TABLE[operation.opcode]
    if operation.opcode in DRAWS and len(operation.type.spans) == 2:
        if operation.type == TENSOR:
            raise NotTurned(operation)
        # What is drawn has its index in the matrix that the rule reads.
        axes = tuple(_OTHER.get(a, a) for a in operation.type.spans)
        drawn = builder.copy(replace(operation, type=along(axes)), x)
        return builder.emit("transpose", drawn)
    if row.leaf or row.declared:
        attribute = operation.attribute
        if operation.opcode == "length":
            attribute = _OTHER.get(str(attribute), attribute)
        return builder.copy(replace(operation, attribute=attribute, type=_type(operation.type)), x)
    if row.stage is Stage.FACTORIZATION:
        made = builder.copy(operation, (builder.emit("transpose", x[0]), *x[1:]))
        return builder.emit("transpose", made)
    if operation.opcode == "matmul":
        return builder.copy(operation, x[::-1])
    return builder.copy(replace(operation, opcode=row.turned or operation.opcode), x)


def _type(kind: Type) -> Type:
    """The type of a value of that type, transposed."""
    if not kind.spans:
        return kind
    turned_axes = along(tuple(_OTHER.get(a, a) for a in reversed(kind.spans)))
    return replace(turned_axes, condition=kind.condition)
