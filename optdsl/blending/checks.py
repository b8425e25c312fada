"""What must hold of a blend beyond its slots: one update, useful members, bindings in bounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optdsl.blending.members import Member
from optdsl.blending.merge import identities, partition
from optdsl.blending.weave import UPDATE, Weaver
from optdsl.blending.world import World
from optdsl.diagnostics import Note, Report
from optdsl.ir.domain import Interval, hull
from optdsl.ir.program import Program, Value
from optdsl.ir.ranges import ranges
from optdsl.lower.expressions import Lowering
from optdsl.lower.resolve import walk
from optdsl.syntax import ast


def check_no_states(declaration: ast.Declaration, report: Report) -> None:
    """Only rules remember."""
    for statement in declaration.statements:
        if isinstance(statement, ast.State):
            report.error(
                "statement",
                "a blend has no states of its own",
                statement.span,
                label="what is remembered is the members'",
                hint="write a rule with this state in a file of its own, and use it",
            )


def check_update(
    declaration: ast.Declaration,
    program: Program,
    found: Mapping[str, Member],
    weaver: Weaver,
    report: Report,
) -> None:
    """Members whose new parameters are not mixed must agree on it."""
    updates = {name: weaver.value(name, UPDATE) for name in found}
    roots = [v for v in updates.values() if v is not None]
    same = identities(program, partition(program), roots)
    other = next((n for n, v in zip(updates, same, strict=True) if v != same[0]), None)
    if other is None:
        return
    notes = []
    for name in (next(iter(updates)), other):
        value: Value | None = found[name].equations[UPDATE]
        assert value is not None
        span = found[name].program.operations[value].span
        notes.append(Note(f"`{name}` has this equation", span))
    first = next(iter(updates))
    report.error(
        "update-differs",
        f"`{first}` and `{other}` define theta' differently",
        declaration.name.span,
        label="nothing says how to combine their updates",
        notes=notes,
        hint=f"write `theta' = w * {first}.theta' + (1 - w) * {other}.theta'`, or blend the "
        f"equations in which they differ",
    )


def check_used(
    found: Mapping[str, Member], slots: Mapping[str, ast.Equation], report: Report
) -> None:
    """Each of several members must be taken from."""
    owners = {n.owner for e in slots.values() for n in walk(e.value) if isinstance(n, ast.Name)}
    for member in found.values():
        if member.name not in owners and len(found) > 1:
            report.error(
                "unused-member",
                f"nothing is taken from `{member.name}`",
                member.span,
                label="no equation of the blend mentions it",
                hint="add it to a mixture, or take it out of `use`",
            )


def check_bounds(
    program: Program,
    settled: World,
    found: Mapping[str, Member],
    lowering: Lowering,
    report: Report,
) -> None:
    """What is bound to an expression must stay within the member's bounds, and be there in time."""
    for (name, hyper), bound in settled.bound.items():
        if not isinstance(bound, ast.Binding):
            continue
        value = settled.value(lowering, name, hyper)
        member = found[name]
        assert value is not None
        extended = replace(program, operations=lowering.builder.operations)
        allowed = _closed(hull(member.program.hyper(hyper).domain))
        actual = _closed(ranges(extended)[value])
        if not allowed.includes(actual):
            report.error(
                "out-of-bounds",
                f"`{name}.{hyper}` can leave its bounds",
                bound.value.span,
                label=f"lies in {actual}, must lie in {member.program.hyper(hyper).domain}",
                hint="narrow the bounds of what it is made of, or use `clip(x, lower, upper)`",
            )
        operations = lowering.builder.operations
        steps = {v for v, o in enumerate(operations) if o.opcode == "step"}
        initial = {
            member.program.operations[v].attribute
            for v in member.program.needed(member.program.initial_values)
        }
        if hyper in initial and steps & set(extended.needed((value,))):
            report.error(
                "initial-value",
                f"`{name}.{hyper}` sets a state before the first step",
                bound.value.span,
                label="`t` is not there yet",
            )


def _closed(interval: Interval) -> Interval:
    return Interval(interval.lower, interval.upper)
