"""The rules that a specification refers to: in its own directory first, then in the library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from optdsl.diagnostics import Report, Source, nearest
from optdsl.syntax import ast
from optdsl.syntax.parse import parse_partial

# Reads a specification by its name in the library, or by its path.
Opener = Callable[[str], Source]


def folded(name: str) -> str:
    """A name of a specification without what is free in it: case, underscores, hyphens."""
    return name.lower().replace("_", "").replace("-", "")


def attached(
    source: Source, opener: Opener, library: Iterable[str], path: tuple[str, ...] = ()
) -> Source:
    """The source with the rules that it refers to, and theirs in turn.

    Rules that cannot be found, and a rule that would be made of itself, are left out; see
    `report_unknown`.

    Args:
        source: a text; one that is attached already stays as it is.
        opener: reads a specification.
        library: the names of the library's specifications.
        path: what is being looked up, from the outermost specification on.

    Raises:
        OSError, ValueError: when a file beside the source cannot be read.
    """
    if source.rules is not None:
        return source
    found: dict[str, Source] = {}
    known = {folded(name): name for name in library}
    beside = _beside(source.directory)
    inside = (*path, _identity(source))
    declaration = parse_partial(source, Report()).declaration
    for name, rule in named(declaration) if declaration else ():
        for place in (beside.get(folded(rule.text)), known.get(folded(rule.text))):
            if name in found or place is None:
                continue
            opened = opener(place)
            if _identity(opened) not in inside:
                found[name] = attached(opened, opener, library, inside)
    return replace(source, rules=tuple(found.items()))


def named(declaration: ast.Declaration) -> Iterator[tuple[str, ast.Identifier]]:
    """The rules that a specification refers to: what it calls each one, and the rule's name."""
    members: dict[str, ast.Identifier] = {}
    for statement in declaration.statements:
        if isinstance(statement, ast.Use):
            for member in statement.members:
                members.setdefault(member.name.text, member.rule)
    yield from members.items()
    for statement in declaration.statements:
        if isinstance(statement, ast.Claim) and statement.rule.text not in members:
            yield statement.rule.text, statement.rule


def report_unknown(
    declaration: ast.Declaration,
    found: Mapping[str, Source],
    library: Iterable[str],
    report: Report,
) -> None:
    """Report the rules that `attached` did not find."""
    for name, rule in named(declaration):
        if name not in found:
            own = folded(rule.text) == folded(declaration.name.text)
            report.error(
                "unknown-rule",
                f"unknown rule `{rule.text}`",
                rule.span,
                label="a rule cannot be made of itself"
                if own
                else "neither in the library nor in a file of this name beside this one",
                hint=nearest(rule.text, library) or f"the library has {', '.join(library)}",
            )


def _beside(directory: str | None) -> dict[str, str]:
    """The specifications in a directory: their paths by their names."""
    if directory is None:
        return {}
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return {}
    files = (n for n in names if n.endswith(".opt") and not n.startswith("."))
    return {folded(Path(n).stem): os.path.join(directory, n) for n in files}


def _identity(source: Source) -> str:
    if source.directory is None:
        return source.name
    return os.path.realpath(source.name)
