"""The rules that a specification refers to: in its own directory first, then in the library.

Names that are in neither are those of other directories, see `optdsl.specifications.search`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from optdsl import resources
from optdsl.diagnostics import Report, Source, nearest
from optdsl.specifications import search
from optdsl.specifications.search import SpecClashError, folded
from optdsl.specifications.sources import (
    beside_of,
    elsewhere,
    is_of_library,
    names_elsewhere,
    of_library,
)
from optdsl.syntax import ast
from optdsl.syntax.format import combination as written, reference, unbound
from optdsl.syntax.parse import parse_partial

MAX_DEPTH = 8

# A prefix for references to rules by which a specification learns.
BY = "by "

# The same for the modifiers that a specification applies.
WITH = "with "

# Reads a specification by its name in the library, or by its path.
Opener = Callable[[str], Source]

# A name that no file was found for, and whether it is that of a modifier.
_Missing = tuple[ast.Identifier, bool]


def attached(
    source: Source, opener: Opener, library: Iterable[str], path: tuple[Source, ...] = ()
) -> Source:
    """The source with the sources that it refers to, recursively.

    Rules that are not found, or found in several files, are left out; see `report_unknown`.

    Args:
        source: the specification; one with attached rules is returned as it is.
        opener: opens a specification by name or path.
        library: the names of the library's specifications.
        path: the specifications that led to this one, the outermost first.

    Raises:
        SpecError: for a file that cannot be read, or a rule that refers to itself.
    """
    if source.rules is not None:
        return source
    found: dict[str, Source] = {}
    known = {folded(name): name for name in library}
    beside = beside_of(source.directory)
    inside = (*path, source)
    names_of_library = set(known.values())
    closed = is_of_library(source, names_of_library)
    report = Report()
    declaration = parse_partial(source, Report()).declaration
    for name, rule in named(declaration) if declaration else ():
        if name in found:
            continue
        if len(inside) > MAX_DEPTH:
            report.error(
                "too-deep",
                f"blends are made of blends more than {MAX_DEPTH} deep",
                rule.span,
                hint="write out some of them",
            )
            break
        modified = _modified(declaration, name)
        if modified is not None:
            title = name if name.isidentifier() else modified.base.text
            text = f"optimizer {title} = {written(modified)}\n"
            own = Source(written(modified), text, source.directory)
            found[name] = attached(own, opener, library, inside)
            continue
        opened = []
        learner = name.startswith(BY)
        try:
            for place in _candidates(rule.text, beside, known, learner, closed):
                inner = place in names_of_library
                opened.append(of_library(place) if inner else opener(place))
        except SpecClashError as error:
            message = f"`{rule.text}` may be any of several specifications"
            label, hint = " and ".join(error.places), "rename all but one, or leave out a directory"
            report.error("unknown-rule", message, rule.span, label=label, hint=hint)
        except (OSError, ValueError) as error:
            message = f"`{rule.text}` cannot be read"
            report.error("unknown-rule", message, rule.span, label=str(error))
        # In a file with the name of a rule of the library, that name means the library's rule.
        others = [o for o in opened if all(_identity(o) != _identity(p) for p in inside)]
        if others:
            found[name] = attached(others[0], opener, library, inside)
        elif opened and not (learner and folded(rule.text) in known):
            first = next(i for i, p in enumerate(inside) if _identity(p) == _identity(opened[0]))
            names = [os.path.basename(p.name) for p in (*inside[first:], opened[0])]
            report.error(
                "recursion",
                f"`{rule.text}` is made of itself",
                rule.span,
                label=" uses ".join(names),
                hint=f"{'learn by' if learner else 'a blend is made of'} other rules",
            )
    report.check()
    return replace(source, rules=tuple(found.items()))


def _modified(declaration: ast.Declaration | None, name: str) -> ast.Combination | None:
    """The rule with modifiers that a file refers to by that name; None for others.

    It is a member of a blend, or stands after ``otherwise``.
    """
    statements = declaration.statements if declaration else ()
    uses = [s for s in statements if isinstance(s, ast.Use)]
    rest = [s for s in statements if isinstance(s, ast.Section) and s.modified is not None]
    found = [m.modified for use in uses for m in use.members if m.name.text == name]
    found += [unbound(s.modified) for s in rest if s.modified and reference(s) == name]
    return found[0] if found else None


def _candidates(
    name: str,
    beside: Mapping[str, list[str]],
    known: Mapping[str, str],
    learner: bool,
    closed: bool,
) -> list[str]:
    """Where a rule may be: the file beside, then the library or another directory.

    There is none if several files beside match.

    Args:
        name: of the rule.
        beside: the files in the directory of the specification that refers to it.
        known: the names of the library by their folded ones.
        learner: whether something is learned by it. Rules of the library are left out then: every
            installation has them.
        closed: whether a specification of the library refers to it, which knows the library only.

    Raises:
        SpecClashError: when several specifications of other directories match.
    """
    files = beside.get(folded(name), [])
    exact = [place for place in files if Path(place).stem == name]
    if len(files) > 1 and not exact:
        return []
    near = exact or files
    library = known.get(folded(name))
    # A nearer file wins, so that nothing is wrong with names farther away.
    other = None if near or closed else elsewhere(name, library is not None)
    far = other if library is None else None if learner else library
    return [*near, *([far] if far is not None else [])]


def named(declaration: ast.Declaration) -> Iterator[tuple[str, ast.Identifier]]:
    """The rules that a specification refers to: the name of each reference, and of its rule.

    References of `learn` statements have the rule's name with the prefix `BY`, and those of
    modifiers have theirs with the prefix `WITH`.
    """
    members: dict[str, ast.Identifier] = {}
    for statement in declaration.statements:
        if isinstance(statement, ast.Use):
            for member in statement.members:
                members.setdefault(member.name.text, member.rule)
        if isinstance(statement, ast.Section) and statement.rule is not None:
            members.setdefault(reference(statement), statement.rule)
    combination = declaration.combination
    if combination is not None:
        members[combination.base.text] = combination.base
        for application in combination.applications:
            members.setdefault(f"{WITH}{application.modifier.text}", application.modifier)
    yield from members.items()
    if declaration.modifier:
        return  # what a modifier claims is about the rule that it is applied to
    for statement in declaration.statements:
        if isinstance(statement, ast.Claim) and statement.rule.text not in members:
            yield statement.rule.text, statement.rule
    for statement in declaration.statements:
        if isinstance(statement, ast.Learn):
            yield f"{BY}{statement.rule.text}", statement.rule


def learner_name(path: str) -> str:
    """The name in programs of a file by whose rule something is learned.

    It consists of letters, digits and underscores, and is not the name of a rule of the library.
    """
    name = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII) or "_"
    return f"own_{name}" if folded(name) in map(folded, resources.spec_names()) else name


def report_unknown(
    declaration: ast.Declaration,
    source: Source,
    library: Iterable[str],
    modifiers: Iterable[str],
    report: Report,
) -> None:
    """Report the rules that `attached` did not find, or found in several places."""
    found = dict(source.rules or ())
    missing = [part for parts in incomplete(declaration, source).values() for part in parts]
    beside = others_beside(source)
    files = [Path(place).stem for places in beside.values() for place in places]
    members = [name for name, _ in named(declaration) if not name.startswith(BY)]
    for name, rule in named(declaration):
        if name in found:
            continue
        several = beside.get(folded(rule.text), [])
        if len(several) > 1:
            report.error(
                "unknown-rule",
                f"`{rule.text}` may be any of several files",
                rule.span,
                label=", ".join(os.path.basename(place) for place in several),
                hint="rename all but one, or write the name of one exactly",
            )
            continue
        if name.startswith(BY):
            continue  # either a rule of the library, or reported when `learn` is lowered
        missing.append((rule, name.startswith(WITH)))
    for rule, modifying in missing:
        what, known = ("modifier", modifiers) if modifying else ("rule", library)
        others = {*known, *files, *names_elsewhere()} | (set() if modifying else set(members))
        hint = (
            nearest(rule.text, others - {rule.text})
            or f"{what}s are found by the names of their files; the library has {', '.join(known)}"
        )
        label = "neither in the library nor a file of this name beside this one"
        if source.directory is None:
            label = "not in the library"
            if os.path.isfile(f"{rule.text}.opt"):
                hint = f"for the file write {rule.text}.opt, as in `{rule.text}.opt with cautious`"
                if modifying:
                    hint = "for the file give its directory: `path=` of `load`, or --path"
        report.error(
            "unknown-rule",
            f"unknown {what} `{rule.text}`",
            rule.span,
            label=label,
            hint="; ".join((hint, *search.everywhere().troubles)),
        )


def incomplete(declaration: ast.Declaration, source: Source) -> dict[str, list[_Missing]]:
    """The rules with modifiers, by their references, of which a file was not found.

    Each comes with the names that were not found, as they stand in the text that refers to them,
    and whether these are modifiers.
    """
    found = dict(source.rules or ())
    lacking: dict[str, list[_Missing]] = {}
    for name, _ in named(declaration):
        modified = _modified(declaration, name) if name in found else None
        if modified is None:
            continue
        parts = [(modified.base.text, modified.base, False)]
        parts += [(f"{WITH}{a.modifier.text}", a.modifier, True) for a in modified.applications]
        own = dict(found[name].rules or ())
        lacking[name] = [(part, is_modifier) for key, part, is_modifier in parts if key not in own]
    return {name: missing for name, missing in lacking.items() if missing}


def others_beside(source: Source) -> dict[str, list[str]]:
    """The other specifications in the directory of a specification; see `beside_of`."""
    if source.directory is None:
        return {}
    own, directory = os.path.realpath(source.name), os.path.realpath(source.directory)

    def is_other(place: str) -> bool:
        if os.path.islink(place):
            return os.path.realpath(place) != own
        return os.path.join(directory, os.path.basename(place)) != own

    others = {
        name: [place for place in places if is_other(place)]
        for name, places in beside_of(source.directory).items()
    }
    return {name: places for name, places in others.items() if places}


def _identity(source: Source) -> tuple[bool, str]:
    """Equal for two sources of one file, or of one specification of the library."""
    inside = source.directory is None
    return inside, source.name if inside else os.path.realpath(source.name)
