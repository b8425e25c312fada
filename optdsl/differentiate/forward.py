"""Forward mode: from the hyperparameters to the new parameter, one pass a hyperparameter."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optdsl.ir.builder import Builder
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value


def tangents(builder: Builder, program: Program, hypers: Sequence[str]) -> list[Value | None]:
    """The derivative of the new parameter by each of `hypers`; None where it is zero everywhere.

    Args:
        builder: holds the program's operations, and receives those of the derivatives.
        program: the step to differentiate.
        hypers: names of its hyperparameters.
    """
    needed = program.needed((program.parameter,))
    return [along(builder, program, needed, "hyper", x).get(program.parameter) for x in hypers]


def along(
    builder: Builder, program: Program, needed: Iterable[Value], opcode: str, name: str | None
) -> dict[Value, Value | None]:
    """The derivatives of values by a leaf; None where one is zero everywhere.

    Args:
        builder: as of `tangents`.
        program: as of `tangents`.
        needed: the values to differentiate, in order, with all that they depend on.
        opcode: of the leaf, such as "hyper".
        name: the leaf's attribute.
    """
    found: dict[Value, Value | None] = {}
    for value in needed:
        operation = program.operations[value]
        if operation.opcode == opcode and operation.attribute == name:
            found[value] = builder.constant(1.0)
            continue
        arguments = tuple(found[a] for a in operation.arguments)
        if all(t is None for t in arguments):
            found[value] = None
            continue
        derive = TABLE[operation.opcode].derivative
        found[value] = derive(builder, value, operation.arguments, arguments)
        suggest(builder, found[value], operation.hint, name or opcode)
    return found


def suggest(builder: Builder, value: Value | None, of: str | None, by: str | None) -> None:
    """Name a derivative by what it is of and by, where both have a name."""
    if value is not None and of and by:
        builder.suggest(value, f"d_{of}_d_{by}".replace("'", "_next"))
