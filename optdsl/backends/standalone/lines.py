"""Breaks long statements of emitted code into lines."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator

from optdsl.backends.emitted import wrapped

_OPENING, _CLOSING = "([{", ")]}"
# Where an expression may be broken, the loosest operators first.
_BREAKS = ((" if ", " else "), (" + ", " - "), (" * ", " / "))


def listed(opening: str, names: Iterable[str]) -> list[str]:
    """The lines of a tuple of strings, after what opens it, such as ``NAMES = (``."""
    quoted = [f'"{name}"' for name in names]
    return wrapped(opening, quoted, ",)" if len(quoted) == 1 else ")")


def broken(text: str, width: int) -> str:
    """The text of functions, with assignments longer than `width` on several lines."""
    lines = text.split("\n")
    pieces: list[str] = []
    for line, after in itertools.zip_longest(lines, lines[1:], fillvalue=""):
        if len(line) > width and after.lstrip().startswith("else ") and after[-1] != ":":
            pieces += _condition(line)
        else:
            pieces += _pieces(line, width)
    return "\n".join(pieces)


def _condition(line: str) -> list[str]:
    """A choice whose alternative is on a line of its own, with the condition on one, too."""
    cut = next((i for i in _top(line) if line.startswith(" if ", i)), None)
    if cut is None:
        return [line]
    indent = line[: len(line) - len(line.lstrip())]
    return [line[:cut], f"{indent}{line[cut + 1 :]}"]


def _pieces(line: str, width: int) -> list[str]:
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= width:
        return [line]
    name, equals, value = line.strip().partition(" = ")
    if line.strip().startswith("torch._foreach_"):
        return _listed(indent, "", line.strip(), "")
    if not equals or not name.isidentifier():
        # One of several values that are listed on lines of their own, or a call on its own line.
        if line.endswith(","):
            return _listed(indent, "", line.strip()[:-1], ",")
        called = line.endswith(")") and re.match(r"\s*[\w.]+\(", line)
        return _listed(indent, "", line.strip(), "") if called else [line]
    places = list(_top(value))
    for operators in _BREAKS:
        cuts = [i for i in places if any(value.startswith(o, i) for o in operators)]
        if cuts:
            ends = [*cuts, len(value)]
            rows = [value[: ends[0]]]
            rows += [value[a + 1 : b] for a, b in itertools.pairwise(ends)]
            return [f"{indent}{name} = (", *(f"{indent}    {r}" for r in rows), f"{indent})"]
    return _listed(indent, f"{name} = ", value, "")


def _listed(indent: str, before: str, value: str, after: str) -> list[str]:
    """A call, or something in brackets, with its parts on lines of their own."""
    start = _opened(value)
    if start is None or start == len(value) - 2:
        return [f"{indent}{before}{value}{after}"]
    inner = value[start + 1 : -1]
    opening, closing = f"{indent}{before}{value[: start + 1]}", f"{indent}{value[-1]}{after}"
    clause = next((i for i in _top(inner) if inner.startswith(" for ", i)), None)
    if clause is not None:
        # The commas of a comprehension part names, and not what is listed.
        rows = [inner[:clause], inner[clause + 1 :]]
        return [opening, *(f"{indent}    {row}" for row in rows), closing]
    commas = [i for i in _top(inner) if inner.startswith(", ", i)]
    ends = [-2, *commas, len(inner)]
    rows = [inner[a + 2 : b] for a, b in itertools.pairwise(ends)]
    # A comma would make a tuple of what only stands in brackets.
    called = value[start] != "(" or re.search(r"[\w)\]]$", value[:start])
    comma = "," if called or len(rows) > 1 else ""
    return [opening, *(f"{indent}    {row}{comma}" for row in rows), closing]


def _opened(text: str) -> int | None:
    """The place of the bracket that the last character closes; None if that closes none."""
    depth = 0
    for place in range(len(text) - 1, -1, -1):
        depth += (text[place] in _CLOSING) - (text[place] in _OPENING)
        if depth <= 0:
            return place if place < len(text) - 1 else None
    return None


def _top(text: str) -> Iterator[int]:
    """The places of a text that no bracket encloses."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if depth == 0:
            yield place
