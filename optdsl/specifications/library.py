"""The library of specifications, and the front half of the compiler: text to program."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace

from optdsl import resources
from optdsl.blending import Combination, blend
from optdsl.blending.claimed import Names
from optdsl.blending.claims import Claim, claims, names_of, names_of_mistaken
from optdsl.blending.structure import Again
from optdsl.blending.unused import report_unused
from optdsl.diagnostics import Diagnostic, Report, Source, SpecError
from optdsl.differentiate import differentiate, moves
from optdsl.ir.derivatives import NoDerivative
from optdsl.ir.program import Hyper, Program, State
from optdsl.lower import Rules, lower
from optdsl.lower.learn_request import learnable
from optdsl.lower.scope import Scope, collect
from optdsl.modifying import check, combine, refuse
from optdsl.prove import settle_all
from optdsl.resources import UnknownSpecError
from optdsl.specifications import references
from optdsl.specifications.references import BY, learner_name
from optdsl.specifications.sources import (
    Recipe,
    find,
    from_recipe,
    known_names,
    list_modifiers,
    list_specs,
    names_elsewhere,
    of_library,
    open_source,
)
from optdsl.syntax import ast
from optdsl.syntax.parse import parse_partial, parse_prelude


@functools.cache
def prelude() -> Mapping[str, ast.Function]:
    """The functions that every specification may use, by name."""
    functions = parse_prelude(Source("prelude.opt", resources.prelude_text()))
    return {function.name.text: function for function in functions}


@dataclass(frozen=True, eq=False)
class Specification:
    """A specification that has been read.

    Attributes:
        program: the program of its rule.
        member: the program as a member of a blend, with named equations.
        claims: its claims.
        combinations: for a blend, its slots, which are convex combinations.
        separate: for a blend, the states of its members before equal ones are merged.
        remarks: warnings and notes about this text, without those about the rules it refers to.
    """

    program: Program
    member: Program
    claims: tuple[Claim, ...]
    combinations: tuple[Combination, ...] = ()
    separate: tuple[State, ...] = ()
    remarks: tuple[Diagnostic, ...] = ()


def checked(source: Source) -> tuple[Diagnostic, ...]:
    """The remarks about a file, which may be a modifier by itself.

    Raises:
        SpecError: with every mistake of the file, or of a rule that it refers to.
    """
    report = Report()
    declaration = parse_partial(source, report).declaration
    if declaration is None or not declaration.modifier:
        return specification(source).remarks
    check(declaration, prelude(), report)
    report.check()
    return report.remarks


# Values of hyperparameters that decide what the operations of a program are, sorted by name.
Choices = tuple[tuple[str, float], ...]


def read(source: Source, verify: bool = True, choices: Choices = ()) -> Program:
    """The program of a specification; see `specification`."""
    return specification(source, verify, choices).program


def specification(source: Source, verify: bool = True, choices: Choices = ()) -> Specification:
    """Read a specification and the rules that it refers to.

    Args:
        source: the text.
        verify: whether claims are decided; one that is refuted is a mistake.
        choices: values of hyperparameters in the structure of the program that are not the
            defaults; see `optdsl.ir.program.Program`.

    Raises:
        SpecError: with every mistake of the text, or of a rule that it refers to.
    """
    return _specification(recipe(source), verify, choices)


def recipe(source: Source) -> Recipe:
    """The source and all sources that it refers to; those with equal recipes mean the same."""
    if source.rules is None:
        source = references.attached(source, open_source, known_names())
    rules = tuple((name, recipe(rule)) for name, rule in source.rules or ())
    return source.name, source.text, source.directory, rules


@functools.lru_cache(maxsize=256)
def _specification(values: Recipe, verify: bool, choices: Choices = ()) -> Specification:
    source = from_recipe(values)
    report = Report()
    parsed = parse_partial(source, report)
    declaration, broken = parsed.declaration, parsed.broken
    if declaration is None:
        report.check()
    assert declaration is not None
    sources = dict(source.rules or ())
    rules: dict[str, Specification] = {}
    modifiers = {n: s for n, s in sources.items() if n.startswith(references.WITH)}
    # What these lack is reported below, where this text names it.
    lacking = references.incomplete(declaration, source)
    broken |= lacking.keys()
    for name, rule in sources.items():
        if name in modifiers or name in lacking:
            continue
        try:
            rules[name] = _specification(recipe(rule), verify)
        except SpecError as error:
            report.adopt(error)
            broken |= {name}
    programs = {name: rule.member for name, rule in rules.items()}

    def again(name: str, wanted: Mapping[str, float]) -> Program:
        choices = tuple(sorted(wanted.items()))
        return _specification(recipe(sources[name]), False, choices).member

    learners = Learners(
        {
            name.removeprefix(BY): (learner_name(sources[name].name), rule.program.hypers)
            for name, rule in rules.items()
            if name.startswith(BY)
        },
        references.others_beside(source),
    )
    references.report_unknown(declaration, source, list_specs(), list_modifiers(), report)
    if declaration.modifier:
        refuse(declaration, prelude(), report)
    scope = collect(declaration, prelude(), report, broken)
    try:
        given = dict(choices)
        found, names = _lowered(scope, rules, programs, modifiers, learners, given, again)
    except SpecError:
        if declaration.combination is not None:
            raise  # what the claims may speak of is not known
        claims(names_of_mistaken(scope, programs), programs, sources, again)
        report.check()
        raise
    _check_learned(found.program, declaration, report)
    claimed = claims(names, programs, sources, again) + found.claims
    report.check()
    report_unused(scope, found.program, names.world)
    if verify:
        settle_all(found.program, claimed, report)
    report.check()
    # What modifiers claim may be remarked upon, and is about their texts.
    remarks = tuple(r for r in report.remarks if r.span.source.name == source.name)
    return replace(found, claims=claimed, remarks=remarks)


def _lowered(
    scope: Scope,
    rules: Mapping[str, Specification],
    programs: Mapping[str, Program],
    modifiers: Mapping[str, Source],
    learners: Rules,
    choices: Mapping[str, float],
    again: Again,
) -> tuple[Specification, Names]:
    """The specification without the claims of its text, and the names that these may use."""
    node = scope.declaration.combination
    if node is not None:
        base = rules.get(node.base.text)
        texts = [modifiers.get(f"{references.WITH}{a.modifier.text}") for a in node.applications]
        member = None if base is None else base.member
        program, claimed = combine(
            scope, prelude(), learners, member, texts, list_modifiers(), choices, again
        )
        return Specification(program, program, claimed), names_of(scope, program)
    if scope.declaration.blend:
        blended = blend(scope, learners, programs, choices, again)
        separate = tuple(s for name in blended.members for s in rules[name].program.states)
        found = Specification(blended.program, blended.member, (), blended.combinations, separate)
        return found, names_of(scope, blended.program, blended.world)
    program = lower(scope, learners, programs, choices)
    return Specification(program, program, ()), names_of(scope, program)


def flat(program: Program) -> tuple[str, ...]:
    """The names of what a program learns although its hyper-gradient is always zero.

    A weight vector is one of them if the hyper-gradients of all its weights are always zero.
    """
    learned = {entry.hyper for entry in program.learned}
    names = learnable((h.name for h in program.hypers), program.simplexes)
    return tuple(
        name
        for name, hypers in names.items()
        if learned & set(hypers) and not any(moves(program, h) for h in hypers)
    )


def _check_learned(program: Program, declaration: ast.Declaration, report: Report) -> None:
    """Report learned hyperparameters whose hyper-gradient is always zero."""
    spans = {
        name.text.replace(".", "_").lower(): name.span
        for statement in declaration.statements
        if isinstance(statement, ast.Learn)
        for name in statement.names
    }
    try:
        differentiate(program, [x.hyper for x in program.learned])
    except NoDerivative as error:
        report.error(
            "flat",
            f"the function `{error}` has no derivative",
            next(iter(spans.values()), declaration.name.span),
            label="theta' depends on something that is learned through it alone",
            hint="learn what acts on theta' in another way, too, for tensors of every kind",
        )
    for name in flat(program):
        report.error(
            "flat",
            f"`{name}` cannot be learned: its hyper-gradient is always zero",
            # A rule with modifiers learns what its own file says, and is made what it is here.
            spans.get(name.replace(".", "_").lower(), declaration.name.span),
            label="theta' does not move with it",
            hint="theta' depends on it only through functions that are flat, or not at all",
        )


# The rules of the library that this thread is reading because a `learn` statement names them.
_READING: ContextVar[frozenset[str]] = ContextVar("reading", default=frozenset())


class Library:
    """The library's rules, by which specifications may learn."""

    def names(self) -> Iterable[str]:
        """The names of all rules, those of other directories among them."""
        return sorted({*list_specs(), *names_elsewhere()})

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's name in the library and its hyperparameters; None for an unknown name.

        A rule that would be learned by itself, directly or through others, is not found either.
        """
        try:
            found = find(name)
        except UnknownSpecError:
            return None
        reading = _READING.get()
        if found in reading:
            return None
        token = _READING.set(reading | {found})
        try:
            return found, read(of_library(found)).hypers
        finally:
            _READING.reset(token)


@dataclass(frozen=True, eq=False)
class Learners(Library):
    """The rules by which a specification may learn: its own directory's, then the library's.

    Those of other directories are attached to it as those of its own.

    Attributes:
        own: the files that it names, by those names: what programs call them, and their
            hyperparameters.
        beside: the names of all files in its directory, for hints.
    """

    own: Mapping[str, tuple[str, tuple[Hyper, ...]]]
    beside: Iterable[str]

    def names(self) -> Iterable[str]:
        """The names of all rules."""
        return sorted({*super().names(), *self.beside})

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """As of `Library`; a file is called by `references.learner_name`."""
        return self.own[name] if name in self.own else super().hypers(name)
