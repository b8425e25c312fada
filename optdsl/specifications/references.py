"""The rules that a specification refers to: in its own directory first, then in the library."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from optdsl.diagnostics import Report, Source, nearest
from optdsl.syntax import ast
from optdsl.syntax.parse import parse_partial

MAX_DEPTH = 8

# What stands before the name of a rule by which a specification learns, among its references.
BY = "by "

# Reads a specification by its name in the library, or by its path.
Opener = Callable[[str], Source]


def folded(name: str) -> str:
    """A name of a specification without what is free in it: case, and signs between words."""
    return re.sub(r"[\W_]", "", name.lower())


def attached(
    source: Source, opener: Opener, library: Iterable[str], path: tuple[Source, ...] = ()
) -> Source:
    """The source with the rules that it refers to, and theirs in turn.

    Rules that cannot be found, or in several files, are left out; see `report_unknown`.

    Args:
        source: a text; one that is attached already stays as it is.
        opener: reads a specification.
        library: the names of the library's specifications.
        path: what is being looked up, from the outermost specification on.

    Raises:
        SpecError: for a file that cannot be read, and a rule that would be made of itself.
    """
    if source.rules is not None:
        return source
    found: dict[str, Source] = {}
    known = {folded(name): name for name in library}
    beside = beside_of(source.directory)
    inside = (*path, source)
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
        opened = []
        learner = name.startswith(BY)
        # The library's rules for coefficients are no part of a specification: every class has them.
        for place in _candidates(rule.text, beside, {} if learner else known):
            try:
                opened.append(opener(place))
            except (OSError, ValueError) as error:
                message = f"`{rule.text}` cannot be read"
                report.error("unknown-rule", message, rule.span, label=str(error))
        # A file that is called like what it uses means the library's.
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
                hint="a rule is not learned by itself"
                if learner
                else "a blend is made of other rules",
            )
    report.check()
    return replace(source, rules=tuple(found.items()))


def _candidates(name: str, beside: Mapping[str, list[str]], known: Mapping[str, str]) -> list[str]:
    """Where a rule may be: the file beside, then the library; nowhere if several files fit."""
    files = beside.get(folded(name), [])
    exact = [place for place in files if Path(place).stem == name]
    if len(files) > 1 and not exact:
        return []
    library = known.get(folded(name))
    return [*(exact or files), *([library] if library is not None else [])]


def named(declaration: ast.Declaration) -> Iterator[tuple[str, ast.Identifier]]:
    """The rules that a specification refers to: what it calls each one, and the rule's name.

    Those by which it learns are called by their names with `BY` in front.
    """
    members: dict[str, ast.Identifier] = {}
    for statement in declaration.statements:
        if isinstance(statement, ast.Use):
            for member in statement.members:
                members.setdefault(member.name.text, member.rule)
    yield from members.items()
    for statement in declaration.statements:
        if isinstance(statement, ast.Claim) and statement.rule.text not in members:
            yield statement.rule.text, statement.rule
    for statement in declaration.statements:
        if isinstance(statement, ast.Learn):
            yield f"{BY}{statement.rule.text}", statement.rule


def learner_name(path: str, library: Iterable[str]) -> str:
    """What a file is called as the rule of a coefficient: letters, digits and underscores.

    No rule of the library is called so.
    """
    name = re.sub(r"\W+", "_", Path(path).stem, flags=re.ASCII) or "_"
    return f"own_{name}" if folded(name) in map(folded, library) else name


def report_unknown(
    declaration: ast.Declaration,
    source: Source,
    library: Iterable[str],
    report: Report,
) -> None:
    """Report the rules that `attached` did not find, or not in one place."""
    found = dict(source.rules or ())
    beside = others_beside(source)
    names = [*library, *(Path(place).stem for places in beside.values() for place in places)]
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
            continue  # it is the library's, or reported with the statement
        report.error(
            "unknown-rule",
            f"unknown rule `{rule.text}`",
            rule.span,
            label="neither in the library nor a file of this name beside this one",
            hint=nearest(rule.text, {*names, *members} - {rule.text})
            or f"rules are found by the names of their files; the library has {', '.join(library)}",
        )


def beside_of(directory: str | None) -> dict[str, list[str]]:
    """The specifications in a directory: their paths by their folded names."""
    if directory is None:
        return {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return {}
    found: dict[str, list[str]] = {}
    for name in names:
        regular = os.path.isfile(os.path.join(directory, name))
        if regular and name.endswith(".opt") and not name.startswith("."):
            found.setdefault(folded(Path(name).stem), []).append(os.path.join(directory, name))
    return found


def others_beside(source: Source) -> dict[str, list[str]]:
    """As `beside_of`, of a specification's own directory, without its own file."""
    own = os.path.realpath(source.name)
    others = {
        name: [place for place in places if os.path.realpath(place) != own]
        for name, places in beside_of(source.directory).items()
    }
    return {name: places for name, places in others.items() if places}


def _identity(source: Source) -> tuple[bool, str]:
    """The same for the same file, or the same specification of the library."""
    inside = source.directory is None
    return inside, source.name if inside else os.path.realpath(source.name)
