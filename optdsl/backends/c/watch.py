"""Which elements to look at to know that all of them were finite."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import TENSOR, UNIFORM

# Operations whose result is not finite where an argument is not; of "div" and "pow", the first.
_OPEN = frozenset({"neg", "define", "stop_gradient", "add", "sub", "mul", "sqrt", "abs", "log"})
_HALF_OPEN = frozenset({"div", "pow"})
# What is finite where its arguments are, or is too large in any other order of a sum, too.
_TAME = frozenset({"neg", "define", "stop_gradient", "add", "sub", "sign", "tanh"})


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
    hidden = {v for v in tensors if v in used and not _tame(program, program.operations[v])}
    found = []
    while hidden:
        # Of equal ones the first: it is known earliest.
        best = max(tensors, key=lambda v: len(shows[v] & hidden))
        found.append(best)
        hidden -= shows[best]
    return tuple(sorted(found))


def _tame(program: Program, operation: Operation) -> bool:
    uniform = any(program.type(a) == UNIFORM for a in operation.arguments)
    return operation.opcode in _TAME or (operation.opcode == "mul" and uniform)


def _seen_through(program: Program, operation: Operation) -> tuple[Value, ...]:
    if operation.opcode in _OPEN:
        return operation.arguments
    if operation.opcode == "pow":
        exponent = program.operations[operation.arguments[1]].attribute
        positive = isinstance(exponent, float) and exponent > 0
        return operation.arguments[:1] if positive else ()
    return operation.arguments[:1] if operation.opcode in _HALF_OPEN else ()
