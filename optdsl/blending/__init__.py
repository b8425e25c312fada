"""Blends: several rules as one, whose equations are convex combinations of its members'."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass

from optdsl.blending.checks import (
    check_bounds,
    check_no_states,
    check_numbers,
    check_update,
    check_used,
)
from optdsl.blending.convexity import Combination
from optdsl.blending.members import Member, listed, members
from optdsl.blending.merge import merge_states
from optdsl.blending.weave import UPDATE, Weaver
from optdsl.blending.world import World, world
from optdsl.diagnostics import Report, nearest
from optdsl.ir.builder import MAX_OPERATIONS, Builder, TooManyOperations
from optdsl.ir.program import Program
from optdsl.ir.verify import verify
from optdsl.lower import check_types
from optdsl.lower.declarations import declared
from optdsl.lower.expressions import Lowering
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.resolve import resolve_expression, resolve_functions
from optdsl.lower.scope import Scope, collect
from optdsl.syntax import ast

__all__ = ["Blended", "Combination", "Member", "World", "blend"]


@dataclass(frozen=True, eq=False)
class Blended:
    """A blend as one program, and what was found out on the way.

    Attributes:
        program: the blend, its members' equal states merged.
        member: the same for use in another blend, which may redefine equations; it has those states
            apart that are equal only as long as nothing is redefined.
        members: the rules that it is made of, by the names it has for them.
        world: what each hyperparameter of each member is.
        combinations: the slots, all of them shown to be convex combinations.
        scope: the names of the file.
    """

    program: Program
    member: Program
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
    # `members` reports unknown members; their names are not reported again.
    unknown |= listed(declaration) - set(found)
    check_no_states(declaration, report)
    check_types(scope, report)
    own = declared(scope, report)
    # A declaration with a mistake is reported, and its name is known.
    unknown |= scope.hypers.keys() - own.hypers.keys()
    settled = world(declaration, found, scope, own, unknown, report)
    resolve_functions(scope, unknown, report)
    before = report.count
    slots = _slots(scope, found, settled, unknown, report)
    if report.count == before and not broken:
        check_used(found, slots, report)
    learned = learning(
        declaration, settled.learnable, settled.declared.hypers, scope, rules, report
    )
    if not found:
        report.check()

    # Mistakes so far do not hide those that follow: weaving leaves out what is mistaken.
    builder = Builder()
    lowering = Lowering(scope, builder, report)
    check_numbers(settled, lowering, report)
    weaver = Weaver(found, slots, settled, lowering, report)
    check_bounds(settled, found, lowering, report)
    try:
        weaver.weave()
        parameter = weaver.value(next(iter(found)), UPDATE)
        states = weaver.states()
    except TooManyOperations:
        report.error(
            "too-large",
            f"the blend needs more than {MAX_OPERATIONS:,} operations",
            declaration.name.span,
            label="its members are too large for one optimizer",
            hint="use fewer of them",
        )
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
        check_update(declaration, program, found, settled, weaver, report)
    report.check()
    merged = verify(merge_states(program))
    member = verify(merge_states(program, by_name=True))
    return Blended(merged, member, found, settled, tuple(weaver.combinations), scope)


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
        else:
            slots[slot] = equation
        resolve_expression(equation.value, scope, names, broken, report)
    return slots
