"""The order in which equations are lowered, and cycles among them."""

from __future__ import annotations

import graphlib

from optdsl.diagnostics import Note
from optdsl.lower.resolve import walk
from optdsl.lower.scope import Scope
from optdsl.syntax import ast


def order(scope: Scope) -> list[ast.Equation]:
    """The equations, each after those that it uses; those of cycles are reported and left out."""
    position = {name: index for index, name in enumerate(scope.equations)}
    uses = {name: _uses(equation, scope) for name, equation in scope.equations.items()}
    while True:
        sorter = graphlib.TopologicalSorter(uses)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            # The list names each node before one that uses it, the first one twice.
            cycle: list[str] = list(reversed(error.args[1]))[:-1]
            _report_cycle(cycle, scope)
            kept = uses.keys() - set(cycle)
            uses = {name: used & kept for name, used in uses.items() if name in kept}
            continue
        result: list[str] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=position.__getitem__)
            result += ready
            sorter.done(*ready)
        return [scope.equations[name] for name in result]


def _uses(equation: ast.Equation, scope: Scope) -> set[str]:
    names = {n.spelled for n in walk(equation.value) if isinstance(n, ast.Name)}
    return names & scope.equations.keys()


def _report_cycle(cycle: list[str], scope: Scope) -> None:
    start = min(range(len(cycle)), key=lambda i: scope.equations[cycle[i]].span.start)
    cycle = cycle[start:] + cycle[:start]
    first, *others = (scope.equations[name] for name in cycle)
    states = {f"{name}'": name for name in scope.states}
    state = next((states[name] for name in cycle if name in states), None)
    scope.report.error(
        "cycle",
        f"`{first.spelled}` depends on itself",
        first.span,
        label=" -> ".join(f"`{name}`" for name in [*cycle, cycle[0]]),
        notes=[Note("through this equation", equation.span) for equation in others],
        hint=f"did you mean `{state}`, the value before the step?"
        if state
        else "a value that carries over from step to step is a `state`",
    )
