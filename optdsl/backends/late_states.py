"""The order of statements in which new states are computed after all that reads the old ones."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Result


def late(kernel: Kernel, order: Sequence[Value]) -> list[Value]:
    """Values in an order in which a new state can be computed where the old one is.

    What only a new state needs comes last if it reads nothing but the gradient, the old state and
    numbers, and something else reads the old state, too: the old state was kept until then anyway,
    and the new one then needs no copy.

    Args:
        kernel: the step.
        order: values of its body, each after its arguments.
    """
    for result in kernel.results:
        cone = _alone(kernel, order, result)
        if cone:
            order = [*(v for v in order if v not in cone), *(v for v in order if v in cone)]
    return list(order)


def _alone(kernel: Kernel, order: Sequence[Value], result: Result) -> set[Value]:
    """The values that only a new state needs, where they may come last; else none."""
    operations = kernel.program.operations
    users: dict[Value, set[Value]] = {}
    for value in kernel.body:
        for argument in operations[value].arguments:
            users.setdefault(argument, set()).add(value)
    results = {r.value for r in kernel.results}
    if result.name == "theta" or users.get(result.value) or result.value not in order:
        return set()
    cone: set[Value] = set()
    for value in reversed(order):
        inner = value not in results and users.get(value, set()) <= cone and value in users
        if operations[value].arguments and (value == result.value or inner):
            cone.add(value)
    olds: set[Value] = set()
    for argument in (a for v in cone for a in operations[v].arguments if a not in cone):
        operation = operations[argument]
        if operation.opcode == "state" and operation.attribute == result.name:
            olds.add(argument)
        elif operation.opcode != "gradient" and operation.type.extent is not Extent.UNIFORM:
            return set()
    return cone if any(users[old] - cone for old in olds) else set()
