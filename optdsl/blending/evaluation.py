"""The points at which the members of a blend evaluate their models, and the blend's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optdsl.blending.members import Member
from optdsl.blending.merge import identities, partition
from optdsl.blending.weave import Weaver
from optdsl.diagnostics import Note, Report
from optdsl.ir.builder import Builder
from optdsl.ir.program import Program
from optdsl.lower.evaluation import EVALUATION, check_evaluation
from optdsl.syntax import ast


def with_points(members: Mapping[str, Member]) -> dict[str, Member]:
    """The members; if any evaluates elsewhere than at the parameter, all have the equation."""
    if all(m.program.evaluation is None for m in members.values()):
        return dict(members)
    return {name: replace(m, program=_with_point(m.program)) for name, m in members.items()}


def _with_point(program: Program) -> Program:
    if EVALUATION in program.equations:
        return program
    builder, point = Builder(program.operations), program.evaluation
    inner = builder.emit("parameter") if point is None else point
    named = builder.emit("define", inner, attribute=EVALUATION, hint=EVALUATION)
    return replace(program, operations=builder.operations, evaluation=named)


def check_points(
    declaration: ast.Declaration,
    program: Program,
    found: Mapping[str, Member],
    slots: Mapping[str, ast.Equation],
    weaver: Weaver,
    report: Report,
) -> None:
    """Report a point of the blend's own that is not known between steps, and members that differ.

    Args:
        declaration: the blend.
        program: its program.
        found: its members.
        slots: the equations that it redefines, by their names.
        weaver: has the values of the members' equations.
        report: receives the mistakes.
    """
    if program.evaluation is None:
        return
    own = slots.get(EVALUATION)
    span = declaration.name.span if own is None else own.value.span
    check_evaluation(Builder(program.operations), program.evaluation, span, report)
    if own is not None:
        return
    classes = partition(program)
    values = {name: weaver.value(name, EVALUATION) for name in found}
    known = {name: v for name, v in values.items() if v is not None}
    points = dict(zip(known, identities(program, classes, list(known.values())), strict=True))
    first, *rest = points
    other = next((name for name in rest if points[name] != points[first]), None)
    if other is not None:
        report.error(
            "evaluation",
            f"`{first}` and `{other}` evaluate the model at different points",
            declaration.name.span,
            label="nothing says at which the blend does",
            notes=[
                Note(f"the point of `{name}`", place)
                for name in (first, other)
                if (place := found[name].span_of(EVALUATION)) is not None
            ],
            hint=f"write `eval = w * {first}.eval + (1 - w) * {other}.eval`, with the weights of "
            f"theta'",
        )
