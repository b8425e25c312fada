"""Checks of a blend beyond those of its slots: one update, used members, bindings in bounds."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping

from optdsl.blending.members import Member
from optdsl.blending.merge import identities, partition
from optdsl.blending.weave import UPDATE, Weaver
from optdsl.blending.world import World
from optdsl.diagnostics import Note, Report
from optdsl.ir.domain import EVERYTHING, closed, hull, labels_of, relabelled
from optdsl.ir.laws import Stage
from optdsl.ir.ops import stages
from optdsl.ir.program import Hyper, Program, upstream
from optdsl.ir.ranges import ranges
from optdsl.lower.expressions import Lowering
from optdsl.lower.resolve import walk
from optdsl.syntax import ast


def check_no_states(declaration: ast.Declaration, report: Report) -> None:
    """Report states, which only optimizers may declare."""
    for statement in declaration.statements:
        if isinstance(statement, ast.State):
            report.error(
                "statement",
                "a blend has no states of its own",
                statement.span,
                label="what is remembered is the members'",
                hint="write a rule with this state in a file of its own, and use it",
            )
        if isinstance(statement, ast.Random):
            report.error(
                "statement",
                "a blend draws nothing of its own",
                statement.span,
                label="what is drawn is the members'",
                hint="write a rule or a modifier that draws this in a file of its own",
            )


def check_update(
    declaration: ast.Declaration,
    program: Program,
    found: Mapping[str, Member],
    settled: World,
    weaver: Weaver,
    report: Report,
) -> None:
    """Report members that define theta' differently, in a blend that does not mix theta'."""
    classes = partition(program)

    def meanings(name: str, equations: Iterable[str]) -> dict[str, int]:
        values = {e: weaver.value(name, e) for e in equations}
        known = {e: v for e, v in values.items() if v is not None}
        same = identities(program, classes, list(known.values()))
        return dict(zip(known, same, strict=True))

    first, *rest = found
    update = meanings(first, [UPDATE])
    other = next((name for name in rest if meanings(name, [UPDATE]) != update), None)
    if other is None:
        return
    common = [e for e in found[first].equations if e in found[other].equations]
    left, right = meanings(first, common), meanings(other, common)
    equation = next(e for e in common if left[e] != right[e])
    common_hypers = sorted(found[first].read_by(equation) & found[other].read_by(equation))
    apart = [h for h in common_hypers if settled.bound[first, h] != settled.bound[other, h]]
    mixed = f"`theta' = w * {first}.theta' + (1 - w) * {other}.theta'`"
    hint = f"write {mixed}, or blend `{equation}`"
    if apart:
        share = f"write `share {', '.join(apart)}`"
        hint = f"each has its own {' and '.join(apart)}: {share}, or {mixed}"
    report.error(
        "update-differs",
        f"`{first}` and `{other}` define theta' differently",
        declaration.name.span,
        label="nothing says how to combine their updates"
        + (f" for {program.kind}" if program.kind else ""),
        notes=[_first(found[name], equation) for name in (first, other)],
        hint=hint,
    )


def _first(member: Member, equation: str) -> Note:
    """Where a member has the first equation in which it differs from another one."""
    span, text = member.span_of(equation), "the first equation in which they differ"
    if span is None:  # it stands in sections, each time at another place
        return Note(f"{text} is `{equation}` of `{member.name}`")
    return Note(f"{text}, of `{member.name}`", span)


def check_used(
    found: Mapping[str, Member],
    slots: Mapping[str, ast.Equation],
    equations: Mapping[str, Container[str]],
    report: Report,
) -> None:
    """Report members of which no equation of the blend uses a value, if there are several.

    `equations` has the names of the equations of each member.
    """
    owners = {
        n.owner
        for e in slots.values()
        for n in walk(e.value)
        if isinstance(n, ast.Name) and n.owner in found
        if n.unowned in equations[n.owner]
    }
    for member in found.values():
        if member.name not in owners and len(found) > 1:
            report.error(
                "unused-member",
                f"nothing is taken from `{member.name}`",
                member.span,
                label="no equation of the blend mentions it",
                hint="add it to a mixture, or take it out of `use`",
            )


def check_bindings(
    settled: World, found: Mapping[str, Member], lowering: Lowering, report: Report
) -> None:
    """What a blend binds to a hyperparameter must be a number within the member's bounds.

    If the initial value of a state uses the hyperparameter, it must not depend on `t`.
    """
    builder = lowering.builder
    for (name, hyper), bound in settled.bound.items():
        if not isinstance(bound, ast.Binding):
            continue
        written = lowering.expression(bound.value, settled.environment(builder))
        if written is not None and builder[written].type.condition:
            report.error(
                "type",
                f"`{name}.{hyper}` is a number",
                bound.value.span,
                label="a condition",
                hint="write `where(condition, 1, 0)`",
            )
        value = settled.value(lowering, name, hyper)
        operations = builder.operations
        # A value that uses what a blend must not use is reported elsewhere.
        behind = () if value is None else upstream(operations, (value,))
        if value is None or Stage.BUFFER in stages(operations[v] for v in behind):
            continue
        member = found[name]
        # Hyperparameters whose declarations have mistakes may have any value.
        used = (str(o.attribute) for o in operations if o.opcode == "hyper")
        hypers = {h: Hyper(h, 0.0, EVERYTHING) for h in used} | dict(settled.declared.hypers)
        extended = Program(hypers=tuple(hypers.values()), operations=operations)
        allowed, actual = hull(member.program.hyper(hyper).domain), ranges(extended)[value]
        if not isinstance(bound.value, ast.Name):
            # Arithmetic closes the ends of intervals, which rounding may reach.
            allowed, actual = closed(allowed), closed(actual)
        own = bound.value.spelled if isinstance(bound.value, ast.Name) else ""
        if own in hypers and relabelled(hypers[own].domain, member.program.hyper(hyper).domain):
            report.error(
                "out-of-bounds",
                f"`{name}.{hyper}` has other labels, or in another order",
                bound.value.span,
                label=f"`{own}` is one of {', '.join(labels_of(hypers[own].domain))}",
                hint=f"write `hyper {own} = ... in {member.program.hyper(hyper).domain}`",
            )
        elif not allowed.includes(actual):
            report.error(
                "out-of-bounds",
                f"`{name}.{hyper}` can leave its bounds",
                bound.value.span,
                label=f"lies in {actual}, must lie in {member.program.hyper(hyper).domain}",
                hint="narrow the bounds of what it is made of, or use `clip(x, lower, upper)`",
            )
        initial = member.program.needed(member.program.initial_values)
        early = any(member.program.operations[v].attribute == hyper for v in initial)
        if early and any(operations[v].opcode == "step" for v in behind):
            report.error(
                "initial-value",
                f"`{name}.{hyper}` sets a state before the first step",
                bound.value.span,
                label="`t` is not there yet",
            )
