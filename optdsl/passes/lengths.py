"""Decides conditions on the lengths of axes, such as whether a side is too long for a matrix.

Such a condition is made of lengths, literals and hyperparameters that are whole numbers or labels.
Where the runtime knows the shape of a tensor, it asks for the program without them. States that
nothing reads any more are left out, and take no memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optdsl.ir.builder import Builder
from optdsl.ir.lengths import COMPUTED, numbers
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.sections import of_matrices
from optdsl.ir.types import TAPS
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite


def conditions_on_lengths(program: Program) -> tuple[Value, ...]:
    """The conditions of a program of one section that a shape and its group decide."""
    if not of_matrices(program.kind):
        return ()
    given: set[Value] = set()
    measured: set[Value] = set()
    for index, operation in enumerate(program.operations):
        value, x = Value(index), operation.arguments
        leaf = operation.opcode in {"constant", "length"} or _structural(program, operation)
        if leaf or (operation.opcode in COMPUTED and given.issuperset(x)):
            given.add(value)
        if operation.opcode == "length" or not measured.isdisjoint(x):
            measured.add(value)
    chosen = {o.arguments[0] for o in program.operations if o.opcode == "where"}
    return tuple(sorted(chosen & given & measured))


def _structural(program: Program, operation: Operation) -> bool:
    if operation.opcode != "hyper":
        return False
    hyper = program.hyper(str(operation.attribute))
    return hyper.domain.whole and hyper.name not in {x.hyper for x in program.learned}


def decided(
    program: Program,
    conditions: Sequence[Value],
    shape: Sequence[int],
    group: Mapping[str, Any],
) -> tuple[bool, ...]:
    """Whether each of some conditions holds.

    Args:
        program: the program.
        conditions: of `conditions_on_lengths`.
        shape: of the tensor.
        group: the values of the hyperparameters.
    """
    return tuple(bool(x) for x in numbers(program, conditions, shape, group))


def without_conditions(
    program: Program, conditions: Sequence[Value], holds: Sequence[bool]
) -> Program:
    """The program where some conditions are known; what only the other branches need is gone."""
    known = dict(zip(conditions, holds, strict=True))

    def choose(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode != "where" or operation.arguments[0] not in known:
            return None
        chosen = x[1] if known[operation.arguments[0]] else x[2]
        # A branch that has to be extended is left where it is.
        return chosen if builder[chosen].type == operation.type else None

    found = rewrite(program, choose)
    dead = _read_states(program) - _read_states(found)
    kept = tuple(s for s in found.states if s.name not in dead)
    return eliminate_dead(replace(found, states=kept))


def _read_states(program: Program) -> set[str]:
    """The states on which the parameter, a tangent or the point of evaluation ever depends."""
    following = {s.name: s.next for s in program.states}
    found: set[str] = set()
    roots = (program.parameter, *program.points, *(t.value for t in program.tangents))
    while True:
        read = {
            str(program.operations[v].attribute)
            for v in program.needed((*roots, *(following[name] for name in found)))
            if program.operations[v].opcode == "state"
        }
        if read <= found:
            return found
        found |= read


def with_taps(program: Program, make: Callable[[Builder], Value]) -> Program:
    """A program where the number of positions of a kernel is another value.

    Args:
        program: the program.
        make: emits the value, such as a literal where the shape of a tensor is known.
    """

    def known(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode != "length" or operation.attribute != TAPS:
            return None
        return make(builder)

    return rewrite(program, known)


def at_taps(program: Program, positions: int) -> Program:
    """A program as it is for kernels of so many positions.

    Kernels come in few sizes, and the matrix that a program sees has lost that of its own. States
    that only other sizes need are left out.
    """

    def fixed(value: Value) -> bool:
        made_of = (program.operations[v] for v in program.needed((value,)))
        leaves = [o for o in made_of if not o.arguments]
        return all(o.opcode == "constant" or o.attribute == TAPS for o in leaves)

    conditions = [v for v in conditions_on_lengths(program) if fixed(v)]
    holds = decided(program, conditions, (1, 1, positions), {})
    known = without_conditions(program, conditions, holds) if conditions else program
    return with_taps(known, lambda builder: builder.constant(float(positions)))
