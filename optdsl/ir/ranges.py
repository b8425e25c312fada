"""The range of every value of a program, by interval arithmetic over the declared bounds."""

from __future__ import annotations

from collections.abc import Mapping

from optdsl.ir import intervals
from optdsl.ir.domain import Interval, hull
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program


def ranges(program: Program, settings: Mapping[str, float] | None = None) -> tuple[Interval, ...]:
    """For each value an interval that contains it unless it is NaN.

    Hyperparameters have the values in `settings`, or lie in their domains.
    """
    given = {} if settings is None else settings
    found: list[Interval] = []
    for operation in program.operations:
        if operation.opcode == "constant":
            assert isinstance(operation.attribute, float)
            found.append(intervals.point(operation.attribute))
        elif operation.opcode == "hyper":
            name = str(operation.attribute)
            domain = hull(program.hyper(name).domain)
            found.append(intervals.point(given[name]) if name in given else domain)
        else:
            arguments = (found[a] for a in operation.arguments)
            found.append(TABLE[operation.opcode].interval(*arguments))
    return tuple(found)
