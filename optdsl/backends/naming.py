"""Names for the values of emitted code: readable, valid and unique."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable

# What emitted Python code uses for itself.
_TAKEN = {"torch", "math", "Tensor", "initialize", "step", "abs", "float"}


def identifier(name: str) -> str:
    """A name of the language as a Python identifier: ``m'`` becomes ``m_next``."""
    name = re.sub(r"\W", "_", name.replace("'", "_next"))
    reserved = keyword.iskeyword(name) or keyword.issoftkeyword(name) or name == "__debug__"
    return f"{name}_" if reserved else name


def plain_identifier(name: str) -> str:
    """A name of the language as an ASCII identifier that is not all capitals, as macros are.

    One with capitals or an underscore at the start ends in an underscore.
    """
    word = "".join(c if c.isascii() else f"u{ord(c):x}" for c in identifier(name))
    return f"{word}_" if word != word.lower() or word[0] == "_" else word


class Names:
    """Gives out names that are not taken yet."""

    def __init__(self, taken: Iterable[str]) -> None:
        self._taken = {*_TAKEN, *taken}

    def fresh(self, wanted: str) -> str:
        """`wanted`, or `wanted` with the first number that makes it new."""
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}_{number}"
        self._taken.add(name)
        return name
