"""The members of a blend: which rules it uses, and what it calls them."""

from __future__ import annotations

import functools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.diagnostics import Note, Report, Span
from optdsl.ir.program import Hyper, Program, Value, upstream
from optdsl.ir.types import Type
from optdsl.lower.wide import NotTurned, as_they_are, plain
from optdsl.passes.specialize import in_kind
from optdsl.syntax import ast


@dataclass(frozen=True, eq=False)
class Member:
    """A rule under the name by which a blend knows it."""

    name: str
    program: Program
    span: Span

    @functools.cached_property
    def equations(self) -> dict[str, Value]:
        """The rule's named equations, by their names with primes.

        Those of the members of a member that is a blend itself (``Adam.num``) are left out.
        """
        return {name: v for name, v in self.program.equations.items() if "." not in name}

    def span_of(self, equation: str) -> Span | None:
        """Where an equation stands in the rule's own file."""
        return self.program.operations[self.equations[equation]].span

    def hyper(self, name: str) -> Hyper | None:
        """A hyperparameter of the rule, or None."""
        return next((h for h in self.program.hypers if h.name == name), None)

    def reading(self, hyper: str) -> list[str]:
        """The equations whose own expressions use a hyperparameter."""
        return sorted(name for name in self.equations if hyper in self.read_by(name))

    def read_by(self, equation: str) -> set[str]:
        """The hyperparameters that the expression of an equation uses directly."""
        operations, named = self.program.operations, set(self.equations.values())
        root = operations[self.equations[equation]].arguments
        own = (operations[v] for v in upstream(operations, root, stop=named))
        return {str(o.attribute) for o in own if o.opcode == "hyper"}

    def flat(self, hyper: str) -> str:
        """The name of a hyperparameter of the member outside the language."""
        return f"{self.name.lower()}_{hyper}"


def kinds(found: Mapping[str, Member], report: Report) -> tuple[str, ...]:
    """The kinds of tensors that the members tell apart; members with other ones are reported.

    Where some members read wide matrices, and some matrices as they are, all do the latter.
    """
    having = [m for m in found.values() if m.program.sections]
    if not having:
        return ()
    first, *others = having
    for other in others:
        if plain(other.program.sections) != plain(first.program.sections):
            report.error(
                "section",
                f"`{first.name}` and `{other.name}` tell other kinds of tensors apart",
                other.span,
                label=f"it is for {', '.join(other.program.sections)}",
                notes=[
                    Note(f"`{first.name}` is for {', '.join(first.program.sections)}", first.span)
                ],
                hint="members with sections have the same ones; one without takes part in each",
            )
    own = {m.program.sections for m in having}
    return first.program.sections if len(own) == 1 else plain(first.program.sections)


def read_alike(
    found: Mapping[str, Member], kinds: Sequence[str], report: Report
) -> dict[str, Member]:
    """The members as rules for some kinds, which `kinds` found for them."""
    alike = dict[str, Member]()
    for name, member in found.items():
        named = ast.Identifier(name, member.span)
        program = read_as_they_are(named, member.program, kinds, report)
        alike[name] = replace(member, program=program)
    return alike


def read_as_they_are(
    name: ast.Identifier, program: Program, kinds: Sequence[str], report: Report
) -> Program:
    """A rule as one for some kinds, which may be its own, but of matrices as they are.

    Args:
        name: where the rule is named.
        program: the rule.
        kinds: the kinds.
        report: receives that the rule cannot be said of matrices as they are.
    """
    try:
        return as_they_are(program, kinds)
    except NotTurned as error:
        place = error.operation.span
        report.error(
            "section",
            f"`{name.text}` is for wide matrices, and cannot be said of matrices as they are",
            name.span,
            label="other rules here read matrices as they are",
            notes=[] if place is None else [Note("because of this", place)],
            hint="take rules together that read matrices in the same way",
        )
        return program


def of_kind(found: Mapping[str, Member], kinds: Sequence[str], number: int) -> dict[str, Member]:
    """The members as they are for one of the kinds."""
    return {n: replace(m, program=in_kind(m.program, kinds, number)) for n, m in found.items()}


def listed(declaration: ast.Declaration) -> frozenset[str]:
    """The names of all members that a blend lists, whether or not there are such rules."""
    uses = (s for s in declaration.statements if isinstance(s, ast.Use))
    return frozenset(m.name.text for use in uses for m in use.members)


def members(
    declaration: ast.Declaration, rules: Mapping[str, Program], report: Report
) -> dict[str, Member]:
    """The members by name, in the order of the file.

    Args:
        declaration: the blend.
        rules: the programs of the rules it names, by the names it uses for them.
        report: for members that are unknown or named twice.
    """
    found: dict[str, Member] = {}
    folded: dict[str, ast.Identifier] = {}
    uses = [s for s in declaration.statements if isinstance(s, ast.Use)]
    for node in (m for use in uses for m in use.members):
        name = node.name
        if name.text.lower() in folded:
            first = folded[name.text.lower()]
            report.error(
                "duplicate",
                f"two members are called `{name.text}`",
                name.span,
                label="a member's name tells it from the others, in upper or lower case",
                notes=[Note("the first one", first.span)],
                hint=f"write `{node.rule.text} as {name.text}2`, for instance",
            )
            continue
        folded[name.text.lower()] = name
        if name.text in rules:
            found[name.text] = Member(name.text, rules[name.text], name.span)
    if not uses:
        report.error(
            "no-members",
            "the blend has no members",
            declaration.name.span,
            label="nothing is blended",
            hint="write `use Adam, Lion`, for instance",
        )
    return found


def check_inputs(found: Mapping[str, Member], hypers: Container[str], report: Report) -> None:
    """Report inputs that are called as a hyperparameter, or as another member's of another type."""
    known: dict[str, tuple[str, Type]] = {}
    for member in found.values():
        for state in (s for s in member.program.states if s.input):
            first, kind = known.setdefault(state.name, (member.name, state.type))
            other = "a hyperparameter here" if state.name in hypers else ""
            if kind != state.type:
                other = f"{kind.noun} of `{first}`"
            if other:
                report.error(
                    "duplicate",
                    f"`{state.name}` is an input of `{member.name}`, and {other}",
                    member.span,
                    label="an input keeps its name in a blend",
                    hint="rename one of the two",
                )
