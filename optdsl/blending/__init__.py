"""Blends: several rules as one, whose equations are convex combinations of its members'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optdsl.blending.checks import (
    check_bindings,
    check_no_states,
    check_update,
    check_used,
)
from optdsl.blending.convexity import Combination
from optdsl.blending.evaluation import check_points, with_points
from optdsl.blending.members import Member, listed, members
from optdsl.blending.merge import merge_states
from optdsl.blending.weave import UPDATE, Weaver
from optdsl.blending.world import World, world
from optdsl.diagnostics import nearest
from optdsl.ir.builder import MAX_OPERATIONS, Builder, TooManyOperations
from optdsl.ir.program import Program
from optdsl.ir.verify import verify
from optdsl.lower import assembled, check_types
from optdsl.lower.declarations import declared
from optdsl.lower.evaluation import EVALUATION
from optdsl.lower.expressions import Lowering
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.resolve import resolve_expression, resolve_functions
from optdsl.lower.scope import Scope
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
    """

    program: Program
    member: Program
    members: Mapping[str, Member]
    world: World
    combinations: tuple[Combination, ...]


def blend(scope: Scope, rules: Rules, programs: Mapping[str, Program]) -> Blended:
    """The program of a blend, from its definitions.

    Args:
        scope: the file; its report has the mistakes that parsing found, and receives others.
        rules: the library, for ``learn ... by RULE``.
        programs: the rules that the blend uses, lowered or blended themselves, by name.

    Raises:
        SpecError: with every mistake in the report.
    """
    declaration, report = scope.declaration, scope.report
    complete = not scope.broken
    found = with_points(members(declaration, programs, report))
    check_no_states(declaration, report)
    check_types(scope)
    own = declared(scope)
    # Unknown members, and declarations with mistakes, are reported already.
    mistaken = {*listed(declaration) - found.keys(), *scope.hypers.keys() - own.hypers.keys()}
    scope = replace(scope, broken=scope.broken | mistaken)
    settled = world(scope, found, own)
    resolve_functions(scope)
    before = report.count
    slots = _slots(scope, found, settled)
    if report.count == before and complete:
        check_used(found, slots, report)
    learned = learning(scope, settled.learnable, settled.declared.hypers, rules)
    if not found:
        report.check()

    # Mistakes so far do not hide those that follow: weaving leaves out what is mistaken.
    lowering = Lowering(scope, Builder())
    check_bindings(settled, found, lowering, report)
    weaver = Weaver(found, slots, settled, lowering, report)
    try:
        weaver.weave()
        parameter, point = (weaver.value(next(iter(found)), name) for name in (UPDATE, EVALUATION))
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
    program = assembled(scope, settled.declared, learned, lowering, states, parameter, point)
    if UPDATE not in slots:
        check_update(declaration, program, found, settled, weaver, report)
    check_points(declaration, program, found, slots, weaver, report)
    report.check()
    merged = verify(merge_states(program))
    member = verify(merge_states(program, by_name=True))
    return Blended(merged, member, found, settled, tuple(weaver.combinations))


def _slots(scope: Scope, found: Mapping[str, Member], settled: World) -> dict[str, ast.Equation]:
    """The blend's equations by name; each must be some member's as well."""
    known = {name for member in found.values() for name in member.equations}
    dotted = {f"{m.name}.{name}" for m in found.values() for name in m.equations}
    names = {*dotted, *settled.spellings, *scope.components, "t"}
    for slot, equation in scope.equations.items():
        if found and slot not in known:
            scope.report.error(
                "unknown-slot",
                f"no member has an equation `{slot}`",
                equation.name.span,
                label="a blend redefines equations of its members",
                hint=nearest(slot, known) or f"their equations are {', '.join(sorted(known))}",
            )
        resolve_expression(equation.value, scope, names)
    return {slot: e for slot, e in scope.equations.items() if slot in known or not found}
