"""The order in which equations are lowered, and cycles among them."""

from __future__ import annotations

import graphlib

from optdsl.diagnostics import Note, Report
from optdsl.lower.resolve import walk
from optdsl.lower.scope import Scope
from optdsl.syntax import ast

Key = tuple[str, bool]


def order(scope: Scope, report: Report) -> list[Key]:
    """The equations, each after those that it uses; those of cycles are reported and left out."""
    position = {key: index for index, key in enumerate(scope.equations)}
    uses = {key: _uses(equation, scope) for key, equation in scope.equations.items()}
    while True:
        sorter = graphlib.TopologicalSorter(uses)
        try:
            sorter.prepare()
        except graphlib.CycleError as error:
            # The list names each node before one that uses it, the first one twice.
            cycle: list[Key] = list(reversed(error.args[1]))[:-1]
            _report_cycle(cycle, scope, report)
            for key in cycle:
                del uses[key]
            uses = {key: {u for u in used if u in uses} for key, used in uses.items()}
            continue
        result: list[Key] = []
        while sorter.is_active():
            ready = sorted(sorter.get_ready(), key=position.__getitem__)
            result += ready
            sorter.done(*ready)
        return result


def _uses(equation: ast.Equation, scope: Scope) -> set[Key]:
    used = (n for n in walk(equation.value) if isinstance(n, ast.Name) and not n.owner)
    names = {(n.name, n.primed) for n in used}
    return {key for key in names if key in scope.equations}


def _report_cycle(cycle: list[Key], scope: Scope, report: Report) -> None:
    start = min(range(len(cycle)), key=lambda i: scope.equations[cycle[i]].span.start)
    cycle = cycle[start:] + cycle[:start]
    spelled = [name + ("'" if primed else "") for name, primed in cycle]
    path = " -> ".join(f"`{s}`" for s in [*spelled, spelled[0]])
    equation = scope.equations[cycle[0]]
    through = [Note("through this equation", scope.equations[k].span) for k in cycle[1:]]
    state = next((name for name, primed in cycle if primed and name in scope.states), None)
    report.error(
        "cycle",
        f"`{spelled[0]}` depends on itself",
        equation.span,
        label=path,
        notes=through,
        hint=f"did you mean `{state}`, the value before the step?"
        if state
        else "a value that carries over from step to step is a `state`",
    )
