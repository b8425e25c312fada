"""Functions as the text of Python."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optdsl.backends.base import EntryPoint

WIDTH = 96


@dataclass(frozen=True)
class EmittedFunction:
    """A kernel as the text of a Python function.

    Attributes:
        text: the function.
        entry: what it takes and returns.
        helpers: the names of the functions that it calls.
    """

    text: str
    entry: EntryPoint
    helpers: frozenset[str]


def wrapped(opening: str, parts: Sequence[str], closing: str) -> list[str]:
    """A bracketed list on one line, or on several when it is too long."""
    line = f"{opening}{', '.join(parts)}{closing}"
    if len(line) <= WIDTH:
        return [line]
    indent = " " * (len(opening) - len(opening.lstrip()))
    return [opening, *(f"{indent}    {part}," for part in parts), f"{indent}{closing}"]
