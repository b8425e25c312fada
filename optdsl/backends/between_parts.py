"""The names of the parts of a step, and of the values that one part computes for another.

Engines read them, and do without what cuts steps into parts; see `optdsl.backends.interleaved`.
"""

from __future__ import annotations

from optdsl.ir.program import Program, Value
from optdsl.ir.types import Type, read_type

BETWEEN = "between/"


def between(number: Value, program: Program) -> str:
    """The name of a value that another part needs."""
    return f"{BETWEEN}{number}/{program.type(number)}"


def name_and_type(name: str) -> tuple[str, Type]:
    """What follows `BETWEEN` in the name of a value, and its type.

    Raises:
        ValueError: for another name.
    """
    _, what, spelled = name.split("/", 2)
    kind = read_type(spelled)
    if kind is None:
        raise ValueError(name)
    return what, kind


def number_of_part(name: str) -> int:
    """The place in a step of the part of a name."""
    return int(name.rpartition("_")[2])
