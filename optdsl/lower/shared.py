"""Checks of the states that all tensors share."""

from __future__ import annotations

from collections.abc import Iterable

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import State, Value, upstream
from optdsl.ir.types import Extent
from optdsl.lower.scope import Scope


def check_counts(
    scope: Scope, builder: Builder, states: Iterable[State], others: Iterable[Value]
) -> None:
    """Report what tensors read of a shared state after the step, if that depends on `t`.

    In the equation of a shared state, `t` is the number of the optimizer's steps, and elsewhere it
    is that of the tensor's own ones, which are fewer where a tensor had no gradient.

    Args:
        scope: the file, or a section of it.
        builder: has the values.
        states: the states.
        others: the values that are computed for each tensor: the parameter, points.
    """
    known, operations = tuple(states), builder.operations
    totals = [Value(v) for v, o in enumerate(operations) if TABLE[o.opcode].stage is Stage.TOTAL]
    own = [s.next for s in known if s.type.extent is not Extent.SHARED]
    inside = [a for v in totals for a in operations[v].arguments]
    read = set(upstream(operations, [*others, *own, *inside]))
    for state in known:
        behind = upstream(operations, [state.next], stop=totals)
        counted = any(operations[v].opcode == "step" for v in behind)
        equation = scope.equations.get(f"{state.name}'")
        if state.type.extent is not Extent.SHARED or not counted or equation is None:
            continue
        if operations[state.next].opcode == "define" and state.next in read:
            scope.report.error(
                "shared",
                f"`{state.name}'` depends on `t`, and tensors read it",
                equation.name.span,
                label="here `t` counts the steps of the optimizer, and theirs elsewhere",
                hint=f"let them read `{state.name}`, or count in a state of its own: "
                "`state count : shared = 0`, and `count' = count + 1`",
            )
