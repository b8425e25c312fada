"""Blends: several rules as one, whose equations are convex combinations of its members'."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.blending.axes import apart, check_lengths
from optdsl.blending.checks import (
    check_bindings,
    check_no_states,
    check_update,
    check_used,
)
from optdsl.blending.convexity import Combination
from optdsl.blending.evaluation import check_points, with_points
from optdsl.blending.members import (
    Member,
    check_inputs,
    kinds,
    listed,
    members,
    of_kind,
    read_alike,
)
from optdsl.blending.merge import merge_states
from optdsl.blending.structure import Again, made_members
from optdsl.blending.weave import UPDATE, Weaver
from optdsl.blending.world import World, world
from optdsl.diagnostics import nearest
from optdsl.ir.builder import MAX_OPERATIONS, Builder, TooManyOperations
from optdsl.ir.program import Learned, Program
from optdsl.ir.storage import PARAMETER
from optdsl.ir.verify import verify
from optdsl.lower import assembled, check_types
from optdsl.lower.declarations import declared
from optdsl.lower.evaluation import EVALUATION
from optdsl.lower.expressions import Lowering
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.resolve import resolve_expression, resolve_functions, walk
from optdsl.lower.sampling import sampled
from optdsl.lower.scope import Scope
from optdsl.lower.sections import joined
from optdsl.lower.stores import stored
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


def blend(
    scope: Scope,
    rules: Rules,
    programs: Mapping[str, Program],
    choices: Mapping[str, float],
    again: Again,
) -> Blended:
    """The program of a blend, from its definitions.

    A blend is made kind by kind where members have sections: each member gives its equations for
    that kind.

    Args:
        scope: the file; its report has the mistakes that parsing found, and receives others.
        rules: the library, for ``learn ... by RULE``.
        programs: the rules that the blend uses, lowered or blended themselves, by name.
        choices: values of hyperparameters that decide what the operations are, where they are
            not the defaults.
        again: makes such a rule for other values of what decides what its operations are.

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
    check_inputs(found, settled.declared.hypers, report)
    resolve_functions(scope)
    before = report.count
    together = kinds(found, report)
    if report.count > before:
        report.check()  # what the blend is for a kind is not known
    bound = Lowering(scope, Builder())
    remade, structure = made_members(found, settled, bound, choices, again, report)
    before = report.count
    found = read_alike(with_points(found | remade), together, report)
    if report.count > before:
        report.check()
    every = [of_kind(found, together, number) for number in range(len(together) or 1)]
    before = report.count
    slots = _slots(scope, every, settled)
    if report.count == before and complete:
        check_used(found, slots, _equations(every), report)
    named = learning(scope, settled.learnable, settled.declared.hypers, rules)
    learned = sampled(named, scope.declaration.statements, 1, scope.report)
    if not found:
        report.check()

    check_bindings(settled, found, Lowering(scope, Builder()), report)
    check_lengths(found, settled, Lowering(scope, Builder()), report)
    if any(m.program.axes for m in found.values()):
        report.check()  # what the axes of the blend are is not known
    making = _Making(scope, settled, learned, slots, structure)
    parts = [
        making.part(members, kind) for members, kind in zip(every, together or [""], strict=True)
    ]
    report.check()
    merged, member = (
        [verify(merge_states(p, by_name=by_name)) for p in parts] for by_name in (False, True)
    )
    both = [_stored(scope, found, _whole(together, parts)) for parts in (merged, member)]
    report.check()
    return Blended(
        both[0],
        both[1],
        found,
        settled,
        tuple(dict.fromkeys(making.combinations)),
    )


def _stored(scope: Scope, found: Mapping[str, Member], program: Program) -> Program:
    """The program, stored as its members are and as the blend says."""
    first, *others = found.values()
    codec, statements = first.program.codec, scope.declaration.statements
    other = next((m for m in others if m.program.codec != codec), None)
    says = any(n.text == PARAMETER for s in statements if isinstance(s, ast.Store) for n in s.names)
    if other is not None and not says:
        ways = [f"`{m.name}` as {m.program.codec or 'it is'}" for m in (first, other)]
        scope.report.error(
            "store",
            f"`{first.name}` and `{other.name}` store the parameter in two ways",
            other.span,
            label=" and ".join(ways),
            hint="write `store theta as ...` in the blend",
        )
    return stored(replace(program, codec=codec), statements, scope.report)


def _whole(together: Sequence[str], parts: Sequence[Program]) -> Program:
    """The program for all kinds."""
    return verify(joined(together, together, parts)) if together else parts[0]


class _Making:
    """Makes the programs of a blend: one for each kind of tensors.

    Attributes:
        combinations: the slots of all of them.
    """

    def __init__(
        self,
        scope: Scope,
        settled: World,
        learned: tuple[Learned, ...],
        slots: Mapping[str, ast.Equation],
        structure: Mapping[str, float],
    ) -> None:
        self._scope, self._world, self._learned = scope, settled, learned
        self._slots, self._structure = slots, structure
        self.combinations: list[Combination] = []

    def part(self, found: Mapping[str, Member], kind: str) -> Program:
        """The program for a kind, with the members' states apart.

        Args:
            found: the members as they are for it.
            kind: the kind; empty for a blend that is one rule for all tensors.

        Raises:
            SpecError: with every mistake in the report.
        """
        scope, report, declaration = self._scope, self._scope.report, self._scope.declaration
        slots = {
            name: e
            for name, e in self._slots.items()
            if not kind or all(n in found[m].equations for m, n in _taken(e, found))
        }
        # Mistakes so far do not hide those that follow: weaving leaves out what is mistaken.
        lowering = Lowering(scope, Builder())
        found = apart(found, self._world, lowering)
        weaver = Weaver(found, slots, self._world, lowering, report)
        try:
            weaver.weave()
            first = next(iter(found))
            parameter, point = (weaver.value(first, name) for name in (UPDATE, EVALUATION))
            states, axes = weaver.states(), weaver.axes()
        except TooManyOperations:
            report.error(
                "too-large",
                f"the blend needs more than {MAX_OPERATIONS:,} operations",
                declaration.name.span,
                label="its members are too large for one optimizer",
                hint="use fewer of them",
            )
        report.check()
        hypers = self._world.declared
        program = assembled(scope, hypers, self._learned, lowering, states, parameter, point)
        structure = tuple(self._structure.items())
        program = replace(program, kind=kind, structure=structure, axes=axes)
        if UPDATE not in slots:
            check_update(declaration, program, found, self._world, weaver, report)
        check_points(declaration, program, found, slots, weaver, report)
        report.check()
        self.combinations += weaver.combinations
        return program


def _equations(every: Sequence[Mapping[str, Member]]) -> dict[str, set[str]]:
    """The names of each member's equations, of all kinds."""
    return {name: {e for own in every for e in own[name].equations} for name in every[0]}


def _taken(equation: ast.Equation, found: Mapping[str, Member]) -> list[tuple[str, str]]:
    """The members' equations that a slot is made of."""
    names = (n for n in walk(equation.value) if isinstance(n, ast.Name))
    return [(n.owner, n.unowned) for n in names if n.owner in found]


def _slots(
    scope: Scope, every: Sequence[Mapping[str, Member]], settled: World
) -> dict[str, ast.Equation]:
    """The blend's equations by name; each must be some member's as well, and stand for a kind."""
    found = _equations(every)
    known = {name for equations in found.values() for name in equations}
    dotted = {f"{member}.{name}" for member, equations in found.items() for name in equations}
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
        before = scope.report.count
        resolve_expression(equation.value, scope, names)
        taken = [(m, n) for m, n in _taken(equation, every[0]) if n in found[m]]
        if scope.report.count == before and not any(
            all(n in own[m].equations for m, n in taken) for own in every
        ):
            scope.report.error(
                "section",
                f"`{slot}` stands for no kind of tensors",
                equation.name.span,
                label="no kind has all equations that it is made of",
                hint="a mixture is of equations that its members have for the same tensors",
            )
    return {slot: e for slot, e in scope.equations.items() if slot in known or not found}
