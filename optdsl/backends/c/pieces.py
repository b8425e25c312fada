"""A long loop in C, cut into shorter ones; see `stages` for the reasons.

Values that one piece computes and a later one uses are stored in rows of a small array.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optdsl.backends.c.stages import Cost, cost, staged
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent

# The approximate number of operations in a piece.
SIZE = 25


@dataclass(frozen=True)
class Piece:
    """One of the loops.

    Attributes:
        leaves: the values that it reads from memory.
        fetched: the row of each value that it reads from rows.
        reread: the values that it reads from where the loop has written them as results, with the
            index of each result.
        computed: the values that it computes, in order.
        stored: the rows that it writes, with the value of each.
        kept: the rows in which it keeps what a result that it writes to memory replaces.
        written: the results that it writes to memory, by their index, with the value of each.
    """

    leaves: tuple[Value, ...]
    fetched: Mapping[Value, int]
    reread: Mapping[Value, int]
    computed: tuple[Value, ...]
    stored: tuple[tuple[int, Value], ...]
    kept: tuple[int, ...]
    written: tuple[tuple[int, Value], ...]

    @property
    def available(self) -> set[Value]:
        """The values that it reads or computes."""
        return {*self.leaves, *self.fetched, *self.reread, *self.computed}


def cut(
    values: Values,
    body: Sequence[Value],
    results: Sequence[Value],
    kept: Sequence[Value | None] = (),
    exact: Collection[int] = (),
    size: int = SIZE,
) -> tuple[tuple[Piece, ...], int]:
    """The pieces of a loop, and the number of rows that they need.

    Args:
        values: the values of the kernel.
        body: the values of the loop, in order.
        results: the values of the first rows at the end.
        kept: for the first of the results, which are written to memory instead, the leaf that was
            there before, or None: the piece that replaces it stores it in the row.
        exact: those of these results, by index, that memory holds as they were computed.
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
    # The piece that has each result; the first one has those that are read.
    place = [home.get(value, 0) for value in results]
    reread = {results[row]: row for row in exact if results[row] not in rows}
    for row, leaf in enumerate(kept):
        if leaf is not None:
            # Before it is replaced, it is read from memory.
            rows[leaf], home[leaf] = row, place[row]
    free: list[int] = []
    height = len(results)
    pieces = []
    for number, part in enumerate(parts):
        uses = dict.fromkeys(a for v in part for a in _needed(values, v))
        uses |= dict.fromkeys(v for v in results if number == 0 and v in body)
        earlier = [v for v in uses if home.get(v, number) < number]
        fetched = {v: rows[v] for v in earlier if v in rows}
        again = {v: reread[v] for v in earlier if v not in rows}
        leaves = tuple(v for v in body if v in uses and _leaf(values, v) and v not in earlier)
        ready = [(row, v) for row, v in enumerate(results) if place[row] == number]
        written = tuple((row, v) for row, v in ready if row < len(kept))
        stored = [(row, v) for row, v in ready if row >= len(kept)]
        olds = tuple(row for row, _ in written if kept[row] is not None)
        for value in part:
            if last_use.get(value, 0) > number and value not in rows and value not in reread:
                rows[value] = free.pop() if free else height
                height = max(height, rows[value] + 1)
                stored.append((rows[value], value))
        pieces.append(Piece(leaves, fetched, again, part, tuple(stored), olds, written))
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
