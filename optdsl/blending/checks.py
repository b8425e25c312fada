"""What must hold of a blend beyond its slots: one update, useful members, bindings in bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from optdsl.blending.members import Member
from optdsl.blending.merge import identities, partition
from optdsl.blending.weave import UPDATE, Weaver
from optdsl.blending.world import World
from optdsl.diagnostics import Note, Report, Span
from optdsl.ir.domain import EVERYTHING, closed, hull
from optdsl.ir.laws import Stage
from optdsl.ir.ops import stages
from optdsl.ir.program import Hyper, Program, Value, upstream
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


def check_numbers(settled: World, lowering: Lowering, report: Report) -> None:
    """What is bound to a hyperparameter must be a number."""
    for (name, hyper), bound in settled.bound.items():
        if not isinstance(bound, ast.Binding):
            continue
        value = lowering.expression(bound.value, settled.environment(lowering.builder))
        if value is not None and lowering.builder[value].type.condition:
            report.error(
                "type",
                f"`{name}.{hyper}` is a number",
                bound.value.span,
                label="a condition",
                hint="write `where(condition, 1, 0)`",
            )


def check_update(
    declaration: ast.Declaration,
    program: Program,
    found: Mapping[str, Member],
    settled: World,
    weaver: Weaver,
    report: Report,
) -> None:
    """Members whose new parameters are not mixed must agree on it."""
    classes = partition(program)

    def meanings(name: str, equations: Iterable[str]) -> dict[str, Value]:
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
        label="nothing says how to combine their updates",
        notes=[
            Note(
                f"the first equation in which they differ, of `{name}`",
                _span(found[name], equation),
            )
            for name in (first, other)
        ],
        hint=hint,
    )


def _span(member: Member, equation: str) -> Span | None:
    return member.program.operations[member.equations[equation]].span


def check_used(
    found: Mapping[str, Member], slots: Mapping[str, ast.Equation], report: Report
) -> None:
    """Each of several members must be taken from."""
    owners = {
        n.owner
        for e in slots.values()
        for n in walk(e.value)
        if isinstance(n, ast.Name) and n.owner in found
        if n.name + ("'" if n.primed else "") in found[n.owner].equations
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


def _mistaken(lowering: Lowering, value: Value) -> bool:
    """Whether a value uses what a blend may not use, which is reported elsewhere."""
    operations = lowering.builder.operations
    return Stage.BUFFER in stages(operations[v] for v in upstream(operations, (value,)))


def _declared(settled: World, lowering: Lowering) -> tuple[Hyper, ...]:
    """The hyperparameters of all operations; those whose declaration has a mistake lie anywhere."""
    operations = lowering.builder.operations
    used = (str(o.attribute) for o in operations if o.opcode == "hyper")
    anywhere = {name: Hyper(name, 0.0, EVERYTHING) for name in used}
    return tuple((anywhere | dict(settled.declared.hypers)).values())


def check_bounds(
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
        if value is None or _mistaken(lowering, value):
            continue
        hypers = _declared(settled, lowering)
        extended = Program("", (), hypers, (), lowering.builder.operations, (), value)
        allowed, actual = hull(member.program.hyper(hyper).domain), ranges(extended)[value]
        if not isinstance(bound.value, ast.Name):
            # Arithmetic closes the ends of intervals, which rounding may reach.
            allowed, actual = closed(allowed), closed(actual)
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
