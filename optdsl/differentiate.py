"""Forward-mode differentiation of one step: how the new parameter moves with a hyperparameter.

The old state is held constant, as in Ozkara et al. (2024, section 3): the hyper-gradient at step
t+1 is the dot product of the new gradient with the tangent of step t. Derivatives come from the
rows of the operations' table, so any rule and any hyperparameter differentiates.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Tangent, Value


def differentiate(program: Program, hypers: Iterable[str]) -> Program:
    """The program with the tangents of its new parameter by `hypers` beside its results.

    A tangent that is zero whatever the numbers (see `moves`) is the constant 0.

    Raises:
        KeyError: for a name that is no hyperparameter.
    """
    builder = Builder()
    for operation in program.operations:
        builder.append(operation)
    needed = program.needed((program.parameter,))
    tangents = []
    for name in hypers:
        program.hyper(name)
        tangent = _tangent(builder, program, needed, name)
        tangents.append(Tangent(name, builder.constant(0.0) if tangent is None else tangent))
    return replace(program, operations=builder.operations, tangents=tuple(tangents))


def moves(program: Program, hyper: str) -> bool:
    """Whether the tangent by `hyper` is anything but zero whatever the numbers.

    It is zero when the new parameter depends on the hyperparameter only through functions that are
    flat almost everywhere (`sign`, a condition), through `stop_gradient`, or not at all.
    """
    derived = differentiate(program, [hyper])
    operation = derived.operations[derived.tangents[0].value]
    return not (operation.opcode == "constant" and operation.attribute == 0.0)


def _tangent(
    builder: Builder, program: Program, needed: tuple[Value, ...], name: str
) -> Value | None:
    found: dict[Value, Value | None] = {}
    for value in needed:
        operation = program.operations[value]
        if operation.opcode == "hyper" and operation.attribute == name:
            found[value] = builder.constant(1.0)
            continue
        tangents = tuple(found[a] for a in operation.arguments)
        if all(t is None for t in tangents):
            found[value] = None
            continue
        derive = TABLE[operation.opcode].derivative
        found[value] = derive(builder, value, operation.arguments, tangents)
        _name(builder, found[value], operation, name)
    return found[program.parameter]


def _name(builder: Builder, tangent: Value | None, operation: Operation, hyper: str) -> None:
    """Let the tangent of a named value read as what it is."""
    if tangent is not None and operation.hint:
        builder.suggest(tangent, f"d_{operation.hint}_d_{hyper}".replace("'", "_next"))
