"""Breaks long statements of emitted code into lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

_OPENING, _CLOSING = "([{", ")]}"
# Where an expression may be broken, the loosest operators first.
_BREAKS = ((" if ", " else "), (" + ", " - "), (" * ", " / "))


def broken(text: str, width: int) -> str:
    """The text of functions, with assignments longer than `width` on several lines."""
    return "\n".join(piece for line in text.split("\n") for piece in _pieces(line, width))


def _pieces(line: str, width: int) -> list[str]:
    name, equals, value = line.partition(" = ")
    indent = line[: len(line) - len(line.lstrip())]
    if len(line) <= width or not equals or not name.strip().isidentifier():
        return [line]
    places = list(_top(value))
    for operators in _BREAKS:
        cuts = [i for i in places if any(value.startswith(o, i) for o in operators)]
        if cuts:
            ends = [*cuts, len(value)]
            rows = [value[: ends[0]]]
            rows += [value[a + 1 : b] for a, b in itertools.pairwise(ends)]
            return [f"{name} = (", *(f"{indent}    {row}" for row in rows), f"{indent})"]
    start = value.find("(")
    if start < 0 or not value.endswith(")"):
        return [line]
    inner = value[start + 1 : -1]
    commas = [i for i in _top(inner) if inner.startswith(", ", i)]
    ends = [-2, *commas, len(inner)]
    rows = [inner[a + 2 : b] for a, b in itertools.pairwise(ends)]
    rows = [f"{indent}    {row}," for row in rows]
    return [f"{name} = {value[: start + 1]}", *rows, f"{indent})"]


def _top(text: str) -> Iterator[int]:
    """The places of a text that no bracket encloses."""
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter in _OPENING) - (letter in _CLOSING)
        if depth == 0:
            yield place
