"""The library of specifications, and the front half of the compiler: text to program."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optdsl import resources
from optdsl.blending import Combination, blend
from optdsl.blending.claims import (
    Claim,
    Names,
    claims,
    names_of,
    names_of_blend,
    names_of_mistaken,
)
from optdsl.blending.unused import report_unused
from optdsl.diagnostics import Diagnostic, Report, Source, SpecError
from optdsl.differentiate import moves
from optdsl.ir.program import Hyper, Program, State
from optdsl.lower import Rules, lower
from optdsl.lower.scope import collect
from optdsl.prove import settle_all
from optdsl.resources import UnknownSpecError
from optdsl.specifications import references
from optdsl.syntax import ast
from optdsl.syntax.parse import parse_partial, parse_prelude


def list_specs() -> tuple[str, ...]:
    """The names of the library's specifications, sorted."""
    return resources.spec_names()


def find(name: str) -> str:
    """The name under which the library has a specification; case and underscores are free.

    Raises:
        UnknownSpecError: when it has none.
    """
    known = {references.folded(spec): spec for spec in list_specs()}
    if references.folded(name) not in known:
        raise UnknownSpecError(name, list_specs())
    return known[references.folded(name)]


def open_source(name: str | os.PathLike[str]) -> Source:
    """The text of a specification of the library, or of a ``.opt`` file.

    Raises:
        UnknownSpecError: when the library has none of that name.
        OSError: when the file cannot be read.
        ValueError: when the file is not UTF-8 text.
    """
    text = os.fspath(name)
    if isinstance(name, str) and not text.endswith(".opt") and os.sep not in text:
        found = find(text)
        return Source(f"{found}.opt", resources.spec_text(found))
    try:
        # A byte order mark is no text; the ends of lines stay as they are, for the formatter.
        content = Path(text).read_bytes().decode("utf-8-sig")
        return Source(text, content, directory=os.path.dirname(text) or os.curdir)
    except UnicodeDecodeError as error:
        raise ValueError(f"{text} is not UTF-8 text (byte {error.start})") from None


@functools.cache
def prelude() -> Mapping[str, ast.Function]:
    """The functions that every specification may use, by name."""
    tree = parse_prelude(Source("prelude.opt", resources.prelude_text()))
    return {function.name.text: function for function in tree.functions}


@dataclass(frozen=True, eq=False)
class Specification:
    """What a text says.

    Attributes:
        program: what it computes.
        member: what it is as a member of a blend.
        claims: what it says about itself.
        combinations: of a blend, its slots, each shown to be a convex combination.
        separate: of a blend, the states that its members would keep without sharing.
        remarks: warnings and notes about this text, not about the rules that it refers to.
    """

    program: Program
    member: Program
    claims: tuple[Claim, ...]
    combinations: tuple[Combination, ...] = ()
    separate: tuple[State, ...] = ()
    remarks: tuple[Diagnostic, ...] = ()


def read(source: Source, verify: bool = True) -> Program:
    """The program of a specification; see `specification`."""
    return specification(source, verify).program


def specification(source: Source, verify: bool = True) -> Specification:
    """What a specification says, with the rules that it refers to looked up.

    Args:
        source: the text.
        verify: whether a claim that is refuted is a mistake.

    Raises:
        SpecError: with every mistake of the text, or of a rule that it refers to.
    """
    return _specification(recipe(source), verify)


# A source as plain values: name, text, directory, and the same for the rules it refers to.
Recipe = tuple[str, str, str | None, tuple[tuple[str, Any], ...]]


def recipe(source: Source) -> Recipe:
    """The source and all that it refers to, as plain values: equal ones mean the same."""
    source = references.attached(source, open_source, list_specs())
    rules = tuple((name, recipe(rule)) for name, rule in source.rules or ())
    return source.name, source.text, source.directory, rules


def from_recipe(values: Recipe) -> Source:
    """The source that `recipe` took apart."""
    name, text, directory, rules = values
    return Source(name, text, directory, tuple((n, from_recipe(r)) for n, r in rules))


def recipe_of(values: list[Any]) -> Recipe:
    """A recipe from the lists that JSON makes of one."""
    name, text, directory, rules = values
    return name, text, directory, tuple((n, recipe_of(r)) for n, r in rules)


def surroundings(source: Source) -> list[Any]:
    """All that a specification may depend on, without looking into it, as plain values."""
    beside = []
    if source.directory is not None:
        for path in sorted(Path(source.directory).glob("*.opt")):
            with contextlib.suppress(OSError):
                beside.append((path.name, path.read_bytes().hex()))
    rules = [(name, surroundings(rule)) for name, rule in source.rules or ()]
    own = (source.name, source.text, source.directory)
    return [own, rules, beside, [(name, resources.spec_text(name)) for name in list_specs()]]


@functools.lru_cache(maxsize=256)
def _specification(values: Recipe, verify: bool) -> Specification:
    source = from_recipe(values)
    report = Report()
    parsed = parse_partial(source, report)
    if parsed.declaration is None:
        report.check()
    declaration = parsed.declaration
    assert declaration is not None
    sources = dict(source.rules or ())
    rules: dict[str, Specification] = {}
    broken = parsed.broken
    for name, rule in sources.items():
        try:
            rules[name] = _specification(recipe(rule), verify)
        except SpecError as error:
            report.adopt(error)
            broken |= {name}
    programs = {name: rule.member for name, rule in rules.items()}
    learners = Learners(
        {
            name.removeprefix(references.BY): (sources[name].name, rule.program.hypers)
            for name, rule in rules.items()
            if name.startswith(references.BY)
        },
        references.others_beside(source),
    )
    references.report_unknown(declaration, source, list_specs(), report)
    try:
        found = _lowered(declaration, rules, learners, broken, report)
    except SpecError:
        names, unknown = names_of_mistaken(declaration, prelude(), programs, broken)
        claims(declaration, names, programs, sources, unknown, report)
        report.check()
        raise
    _check_learned(found.program, declaration, report)
    claimed = claims(declaration, found.names, programs, sources, broken, report)
    report.check()
    names = found.names
    report_unused(declaration, found.program, names.scope, names.world, report)
    if verify:
        settle_all(found.program, claimed, report)
    report.check()
    return Specification(
        found.program,
        found.member,
        claimed,
        found.combinations,
        found.separate,
        report.remarks,
    )


@dataclass(frozen=True, eq=False)
class _Lowered:
    program: Program
    member: Program
    names: Names
    combinations: tuple[Combination, ...] = ()
    separate: tuple[State, ...] = ()


def _lowered(
    declaration: ast.Declaration,
    rules: Mapping[str, Specification],
    learners: Rules,
    broken: frozenset[str],
    report: Report,
) -> _Lowered:
    if declaration.blend:
        programs = {name: rule.member for name, rule in rules.items()}
        blended = blend(declaration, prelude(), learners, programs, report, broken)
        separate = tuple(s for name in blended.members for s in rules[name].program.states)
        names = names_of_blend(blended)
        return _Lowered(blended.program, blended.member, names, blended.combinations, separate)
    program = lower(declaration, prelude(), learners, report, broken)
    scope, _ = collect(declaration, prelude(), Report(), broken)
    return _Lowered(program, program, names_of(program, scope))


def _check_learned(program: Program, declaration: ast.Declaration, report: Report) -> None:
    """Report hyperparameters that are to be learned and can never move."""
    still = [x.hyper for x in program.learned if not moves(program, x.hyper)]
    vectors = [set(s.hypers) for s in program.simplexes]
    # A weight vector moves if any of its weights does.
    flat = [h for h in still if all(h not in v or v <= set(still) for v in vectors)]
    spans = {
        n.text.replace(".", "_").lower(): n.span
        for s in declaration.statements
        if isinstance(s, ast.Learn)
        for n in s.names
    }
    for hyper in flat:
        simplex = program.simplex_of(hyper)
        name = simplex.name if simplex else hyper
        report.error(
            "flat",
            f"`{name}` cannot be learned: its hyper-gradient is always zero",
            spans[name.replace(".", "_").lower()],
            label="theta' does not move with it",
            hint="theta' depends on it only through functions that are flat, or not at all",
        )


# The rules whose `learn` statements are being looked up, in this thread.
_READING: ContextVar[frozenset[str]] = ContextVar("reading", default=frozenset())


class Library:
    """The library's rules, for specifications that refer to them."""

    def names(self) -> Iterable[str]:
        """The names of all rules."""
        return list_specs()

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's name in the library and its hyperparameters; None when there is none.

        A rule that is learned by itself, directly or around a corner, is none either.
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
            return found, read(open_source(found)).hypers
        finally:
            _READING.reset(token)


LIBRARY = Library()


class Learners:
    """The rules by which a specification may learn: its own directory's, then the library's."""

    def __init__(
        self,
        own: Mapping[str, tuple[str, tuple[Hyper, ...]]],
        beside: Iterable[str] = (),
    ) -> None:
        """Those of a specification.

        Args:
            own: the files that it names, and their hyperparameters, by the names it has for them.
            beside: the names of all files in its directory, for hints.
        """
        self._own = own
        self._beside = tuple(beside)

    def names(self) -> Iterable[str]:
        """The names of all rules."""
        return sorted({*LIBRARY.names(), *self._beside})

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """As of `Library`; a file is called by `references.learner_name`."""
        if name in self._own:
            path, hypers = self._own[name]
            return references.learner_name(path, list_specs()), hypers
        return LIBRARY.hypers(name)


def learner_recipes(source: Source) -> dict[str, Recipe]:
    """The files by which a specification learns, by the names that their rules have in programs."""
    found = from_recipe(recipe(source)).rules or ()
    own = [rule for name, rule in found if name.startswith(references.BY)]
    return {references.learner_name(rule.name, list_specs()): recipe(rule) for rule in own}
