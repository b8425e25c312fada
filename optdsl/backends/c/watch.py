"""The values of a loop to check in order to know that all of its values are finite."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import TENSOR, UNIFORM


def watched(
    program: Program,
    body: Sequence[Value],
    results: Sequence[Value],
    seen: Collection[Value] = (),
) -> tuple[Value, ...]:
    """A small set of values of a loop that are not all finite if an operand is not finite.

    An infinity or a NaN makes sums and products not finite, even 0 * x. It is not visible in a sign
    or after a division by it. The set is chosen greedily, each time the value that covers most of
    the operands that are left. Those in `seen` are checked in another way.
    """
    tensors = [v for v in body if program.type(v) == TENSOR]
    shows: dict[Value, set[Value]] = {}
    used: set[Value] = set(results)
    for value in tensors:
        operation = program.operations[value]
        shows[value] = {value}
        # The branch that a choice does not take need not be finite; its result has to be.
        used.update(operation.arguments if operation.opcode != "where" else ())
        for argument in _seen_through(program, operation):
            shows[value] |= shows.get(argument, set())
    hidden = {v for v in tensors if v in used and not _bounded(program, program.operations[v])}
    hidden.difference_update(*(shows[v] for v in seen))
    found = []
    while hidden:
        # The first of equal ones, which is computed earliest.
        best = max(tensors, key=lambda v: len(shows[v] & hidden))
        found.append(best)
        hidden -= shows[best]
    return tuple(sorted(found))


def _bounded(program: Program, operation: Operation) -> bool:
    uniform = tuple(program.type(a) == UNIFORM for a in operation.arguments)
    return TABLE[operation.opcode].laws.bounded(uniform)


def _seen_through(program: Program, operation: Operation) -> tuple[Value, ...]:
    x = [program.operations[a].attribute for a in operation.arguments]
    literals = tuple(a if isinstance(a, float) else None for a in x)
    return tuple(operation.arguments[n] for n in TABLE[operation.opcode].laws.shows(literals))
