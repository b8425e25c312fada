"""Blends: several rules as one, whose equations are convex combinations of its members'."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass, replace

from optdsl.blending.convexity import Combination
from optdsl.blending.members import Member, members
from optdsl.blending.merge import identities, merge_states, partition
from optdsl.blending.weave import Weaver
from optdsl.blending.world import World, world
from optdsl.diagnostics import Note, Report, nearest
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Interval, hull
from optdsl.ir.program import Program, Value
from optdsl.ir.ranges import ranges
from optdsl.ir.verify import verify
from optdsl.lower import check_types
from optdsl.lower.declarations import declared
from optdsl.lower.expressions import Lowering
from optdsl.lower.learning import Rules, learning
from optdsl.lower.resolve import resolve_expression, resolve_functions
from optdsl.lower.scope import Scope, collect
from optdsl.syntax import ast

__all__ = ["Blended", "Combination", "Member", "World", "blend"]

UPDATE = "theta'"


@dataclass(frozen=True, eq=False)
class Blended:
    """A blend as one program, and what was found out on the way.

    Attributes:
        program: the blend, its members' equal states merged.
        members: the rules that it is made of, by the names it has for them.
        world: what each hyperparameter of each member is.
        combinations: the slots, all of them shown to be convex combinations.
        scope: the names of the file.
    """

    program: Program
    members: Mapping[str, Member]
    world: World
    combinations: tuple[Combination, ...]
    scope: Scope


def blend(
    declaration: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    rules: Rules,
    programs: Mapping[str, Program],
    report: Report,
    broken: AbstractSet[str] = frozenset(),
) -> Blended:
    """The program of a blend.

    Args:
        declaration: the syntax tree.
        prelude: the functions that every specification may use, by name.
        rules: the library, for ``learn ... by RULE``.
        programs: the rules that the blend uses, lowered or blended themselves, by name.
        report: the mistakes that parsing found; those of blending are added.
        broken: names that stand in statements with a syntax error; their absence is no mistake.

    Raises:
        SpecError: with every mistake in `report`.
    """
    scope, undefined = collect(declaration, prelude, report, broken)
    unknown = frozenset(broken | undefined)
    found = members(declaration, programs, report)
    _no_states(declaration, report)
    check_types(scope, report)
    own = declared(scope, report)
    settled = world(declaration, found, scope, own, unknown, report)
    resolve_functions(scope, unknown, report)
    slots = _slots(scope, found, settled, unknown, report)
    learned = learning(
        declaration, settled.learnable, settled.declared.hypers, scope, rules, report
    )
    report.check()

    builder = Builder()
    lowering = Lowering(scope, builder, report)
    weaver = Weaver(found, slots, settled, lowering, report)
    weaver.weave()
    report.check()
    first = next(iter(found))
    parameter = weaver.value(first, UPDATE)
    states = weaver.states()
    report.check()
    assert parameter is not None
    program = Program(
        declaration.name.text,
        declaration.documentation,
        tuple(settled.declared.hypers.values()),
        learned,
        builder.operations,
        tuple(states),
        parameter,
        simplexes=settled.declared.simplexes,
    )
    if UPDATE not in slots:
        _check_update(declaration, program, found, weaver, report)
    _check_used(found, slots, report)
    _check_bounds(program, settled, found, lowering, report)
    report.check()
    merged = verify(merge_states(program))
    return Blended(merged, found, settled, tuple(weaver.combinations), scope)


def _no_states(declaration: ast.Declaration, report: Report) -> None:
    for statement in declaration.statements:
        if isinstance(statement, ast.State):
            report.error(
                "statement",
                "a blend has no states of its own",
                statement.span,
                label="what is remembered is the members'",
                hint="write a rule with this state in a file of its own, and use it",
            )


def _slots(
    scope: Scope,
    found: Mapping[str, Member],
    settled: World,
    broken: AbstractSet[str],
    report: Report,
) -> dict[str, ast.Equation]:
    """The blend's equations by name; each must be some member's as well."""
    known = {name for member in found.values() for name in member.equations}
    dotted = {f"{m.name}.{name}" for m in found.values() for name in m.equations}
    names = {*dotted, *settled.spellings, *scope.components, "t", *broken}
    slots = {}
    for (name, primed), equation in scope.equations.items():
        slot = name + ("'" if primed else "")
        if found and slot not in known:
            report.error(
                "unknown-slot",
                f"no member has an equation `{slot}`",
                equation.name.span,
                label="a blend redefines equations of its members",
                hint=nearest(slot, known) or f"their equations are {', '.join(sorted(known))}",
            )
        resolve_expression(equation.value, scope, names, broken, report)
        slots[slot] = equation
    return slots


def _check_update(
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


def _check_used(
    found: Mapping[str, Member], slots: Mapping[str, ast.Equation], report: Report
) -> None:
    from optdsl.lower.resolve import walk

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


def _check_bounds(
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
