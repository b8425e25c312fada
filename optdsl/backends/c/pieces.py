"""A very long loop in C, cut into shorter ones.

What one piece computes and a later one uses waits in a row of a small array. Compilers take long
over loops of many hundred operations, and run out of registers in them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.backends.c.expressions import COMPARISONS, LEAVES
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent

# Operations in a piece, at most.
SIZE = 400


@dataclass(frozen=True)
class Piece:
    """One of the loops.

    Attributes:
        leaves: what it reads from memory.
        fetched: what it reads from rows, by value.
        computed: what it computes, in order.
        stored: the rows that it writes, with the value of each.
    """

    leaves: tuple[Value, ...]
    fetched: Mapping[Value, int]
    computed: tuple[Value, ...]
    stored: tuple[tuple[int, Value], ...]


def cut(
    values: Values, body: Sequence[Value], results: Sequence[Value], size: int = SIZE
) -> tuple[tuple[Piece, ...], int]:
    """The pieces of a loop, and the number of rows that they need.

    Args:
        values: the values of the kernel.
        body: those of the loop, in order.
        results: what the rows hold in the end, from the first on.
        size: the number of operations in a piece, at most.
    """
    computed = [v for v in body if not _leaf(values, v) and not _inlined(values, v)]
    parts = _parts(values, computed, results, size)
    home = {v: number for number, part in enumerate(parts) for v in part}
    last_use: dict[Value, int] = {}
    for number, part in enumerate(parts):
        for value in part:
            last_use |= dict.fromkeys(_needed(values, value), number)
    rows: dict[Value, int] = {}
    for row, value in enumerate(results):
        rows.setdefault(value, row)
    free: list[int] = []
    height = len(results)
    pieces = []
    for number, part in enumerate(parts):
        uses = dict.fromkeys(a for v in part for a in _needed(values, v))
        uses |= dict.fromkeys(v for v in results if number == 0 and v in body)
        fetched = {v: rows[v] for v in uses if home.get(v, number) < number}
        stored = [(row, v) for row, v in enumerate(results) if home.get(v, 0) == number]
        for value in part:
            if last_use.get(value, 0) > number and value not in rows:
                rows[value] = free.pop() if free else height
                height = max(height, rows[value] + 1)
                stored.append((rows[value], value))
        leaves = tuple(v for v in body if v in uses and _leaf(values, v))
        pieces.append(Piece(leaves, fetched, part, tuple(stored)))
        done = [v for v, row in rows.items() if row >= len(results) and last_use[v] == number]
        free += [rows.pop(v) for v in done]
    return tuple(pieces), height


def _parts(
    values: Values, computed: Sequence[Value], results: Sequence[Value], size: int
) -> list[tuple[Value, ...]]:
    """Parts of about equal length, cut where few values have to be handed on."""
    last = {v: i for i, v in enumerate(computed)}
    for index, value in enumerate(computed):
        last |= dict.fromkeys((a for a in _needed(values, value) if a in last), index)
    first = {v: i for i, v in enumerate(computed) if v not in results}

    def alive(cut: int) -> int:
        return sum(index < cut <= last[v] for v, index in first.items())

    count = max(1, -(-len(computed) // size))
    ends = [0]
    for k in range(1, count):
        wanted = k * len(computed) // count
        around = range(
            max(wanted - size // 4, ends[-1] + 1), min(wanted + size // 4, len(computed))
        )
        ends.append(min(around, key=lambda cut: (alive(cut), abs(cut - wanted)), default=wanted))
    ends.append(len(computed))
    return [tuple(computed[a:b]) for a, b in itertools.pairwise(ends)]


def _leaf(values: Values, value: Value) -> bool:
    return values.operation(value).opcode in LEAVES


def _inlined(values: Values, value: Value) -> bool:
    return values.operation(value).opcode in COMPARISONS


def _needed(values: Values, value: Value) -> list[Value]:
    """The elements that the lines of a value name."""
    found = []
    for argument in values.operation(value).arguments:
        if values.extent(argument) is not Extent.TENSOR:
            continue
        inside = _inlined(values, argument)
        found += _needed(values, argument) if inside else [argument]
    return found
