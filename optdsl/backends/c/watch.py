"""Which elements to look at to know that all of them were finite."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import TENSOR, UNIFORM


def watched(program: Program, body: Sequence[Value], results: Sequence[Value]) -> tuple[Value, ...]:
    """Few values of a loop that show whether one of those that are multiplied and added is odd.

    What is odd, an infinity or a NaN, shows in sums and products: 0 * x is a NaN for it. It does
    not show in a sign or behind a divisor. Greedy: each time the value that shows most others.
    """
    tensors = [v for v in body if program.type(v) == TENSOR]
    shows: dict[Value, set[Value]] = {}
    used: set[Value] = set(results)
    for value in tensors:
        operation = program.operations[value]
        shows[value] = {value}
        # What a choice may leave out need not be finite; what was chosen has to be.
        used.update(operation.arguments if operation.opcode != "where" else ())
        for argument in _seen_through(program, operation):
            shows[value] |= shows.get(argument, set())
    hidden = {v for v in tensors if v in used and not _bounded(program, program.operations[v])}
    found = []
    while hidden:
        # Of equal ones the first: it is known earliest.
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
