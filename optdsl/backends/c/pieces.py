"""A long loop in C, cut into shorter ones; see `stages` for the reasons.

Values that one piece computes and a later one uses are stored in rows of a small array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.backends.c.stages import Cost, cost, staged
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent

# The approximate number of operations in a piece.
SIZE = 45


@dataclass(frozen=True)
class Piece:
    """One of the loops.

    Attributes:
        leaves: the values that it reads from memory.
        fetched: the row of each value that it reads from rows.
        computed: the values that it computes, in order.
        stored: the rows that it writes, with the value of each.
        written: the results that it writes to memory, by their index, with the value of each.
    """

    leaves: tuple[Value, ...]
    fetched: Mapping[Value, int]
    computed: tuple[Value, ...]
    stored: tuple[tuple[int, Value], ...]
    written: tuple[tuple[int, Value], ...]

    @property
    def available(self) -> set[Value]:
        """The values that it reads or computes."""
        return {*self.leaves, *self.fetched, *self.computed}


def cut(
    values: Values,
    body: Sequence[Value],
    results: Sequence[Value],
    kept: Sequence[Value | None] = (),
    size: int = SIZE,
) -> tuple[tuple[Piece, ...], int]:
    """The pieces of a loop, and the number of rows that they need.

    Args:
        values: the values of the kernel.
        body: the values of the loop, in order.
        results: the values of the first rows at the end.
        kept: for the first of the results, which are written to memory instead, the leaf that was
            there before, or None: the first piece stores it in the row.
        size: the approximate number of operations in a piece.
    """
    parts = _parts(values, body, size)
    home = {v: number for number, part in enumerate(parts) for v in part}
    last_use: dict[Value, int] = {}
    for number, part in enumerate(parts):
        for value in part:
            last_use |= dict.fromkeys(_needed(values, value), number)
    rows: dict[Value, int] = {}
    for row, value in enumerate(results[len(kept) :], start=len(kept)):
        rows.setdefault(value, row)
    for row, leaf in enumerate(kept):
        if leaf is not None:
            rows[leaf], home[leaf] = row, 0
    free: list[int] = []
    height = len(results)
    pieces = []
    for number, part in enumerate(parts):
        uses = dict.fromkeys(a for v in part for a in _needed(values, v))
        uses |= dict.fromkeys(v for v in results if number == 0 and v in body)
        fetched = {v: rows[v] for v in uses if home.get(v, number) < number}
        leaves = tuple(v for v in body if v in uses and _leaf(values, v) and v not in fetched)
        ready = [(row, v) for row, v in enumerate(results) if home.get(v, 0) == number]
        written = tuple((row, v) for row, v in ready if row < len(kept))
        stored = [(row, v) for row, v in ready if row >= len(kept)]
        for value in part:
            if last_use.get(value, 0) > number and value not in rows:
                rows[value] = free.pop() if free else height
                height = max(height, rows[value] + 1)
                stored.append((rows[value], value))
        pieces.append(Piece(leaves, fetched, part, tuple(stored), written))
        done = [v for v, row in rows.items() if row >= len(results) and last_use[v] == number]
        free += [rows.pop(v) for v in done]
    return tuple(pieces), height


def _parts(values: Values, body: Sequence[Value], size: int) -> list[tuple[Value, ...]]:
    computed = [v for v in body if not _leaf(values, v) and not _inlined(values, v)]
    count = max(1, round(len(computed) / size))
    inside = set(computed)
    needed = {v: [a for a in _needed(values, v) if a in inside] for v in computed}
    return staged(needed, {v: _cost(values, v) for v in computed}, count)


def _cost(values: Values, value: Value) -> Cost:
    operation = values.operation(value)
    return cost("mul" if values.by_reciprocal(operation, "real") else operation.opcode)


def _leaf(values: Values, value: Value) -> bool:
    return values.given(value)


def _inlined(values: Values, value: Value) -> bool:
    return values.operation(value).type.condition


def _needed(values: Values, value: Value) -> list[Value]:
    """The tensors that the lines of a value name; conditions are spelled in place."""
    found = []
    for argument in values.operation(value).arguments:
        if values.extent(argument) is not Extent.TENSOR:
            continue
        inside = _inlined(values, argument)
        found += _needed(values, argument) if inside else [argument]
    return found
