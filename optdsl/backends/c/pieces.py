"""A long loop in C, cut into shorter ones; see `stages` for the reasons.

Values that one piece computes and a later one uses are stored in rows of a small array, unless the
later one computes them again for less than it costs to write and to read them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from optdsl.backends.c.stages import Cost, cost, is_simple, staged
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent

# The approximate number of operations in a piece, and in one of a step that learns with vectors of
# 512 bits: processors that have these have 32 registers instead of 16.
SIZE, LONG = 20, 24
# How many instructions at most are repeated to save a store and a load.
_AGAIN = 2
# How many values are moved to a later piece together, and how much longer it may be than others.
_TOGETHER, _ROOM = 3, 1.1


@dataclass(frozen=True)
class Piece:
    """One of the loops.

    Attributes:
        leaves: the values that it reads from memory.
        fetched: the row of each value that it reads from rows.
        reread: the values that it reads from where the loop has written them as results, with the
            index of each result.
        computed: the values that it computes, in order, those of earlier pieces included that it
            computes again.
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
    parts = _later(values, _parts(values, body, size), results)
    home = {v: number for number, part in enumerate(parts) for v in part}
    again = _again(values, parts, results)
    parts = _live(values, parts, again, results)
    last_use: dict[Value, int] = {}
    for number, part in enumerate(parts):
        for value in part:
            used = (a for a in _needed(values, value) if a not in again[number])
            last_use |= dict.fromkeys(used, number)
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
        earlier = [v for v in uses if home.get(v, number) < number and v not in again[number]]
        fetched = {v: rows[v] for v in earlier if v in rows}
        from_results = {v: reread[v] for v in earlier if v not in rows}
        leaves = tuple(v for v in body if v in uses and _leaf(values, v) and v not in earlier)
        ready = [(row, v) for row, v in enumerate(results) if place[row] == number]
        written = tuple((row, v) for row, v in ready if row < len(kept))
        stored = [(row, v) for row, v in ready if row >= len(kept)]
        olds = tuple(row for row, _ in written if kept[row] is not None)
        for value in part:
            known = value in rows or value in reread or value in again[number]
            if last_use.get(value, 0) > number and not known:
                rows[value] = free.pop() if free else height
                height = max(height, rows[value] + 1)
                stored.append((rows[value], value))
        pieces.append(Piece(leaves, fetched, from_results, part, tuple(stored), olds, written))
        done = [v for v, row in rows.items() if row >= len(results) and last_use[v] == number]
        free += [rows.pop(v) for v in done]
    return tuple(pieces), height


def _again(
    values: Values, parts: Sequence[Sequence[Value]], results: Collection[Value]
) -> list[list[Value]]:
    """The values of earlier pieces that each piece computes again, in order.

    They are few instructions on what the piece has anyway, and on at most one more value that is in
    memory or was there: to read that one takes no longer than to read the result. A value that one
    of the pieces cannot compute so is stored for all of them, and so are results.
    """
    home = {v: number for number, part in enumerate(parts) for v in part}
    ready = [{*part, *(a for v in part for a in _needed(values, v))} for part in parts]
    found: list[set[Value]] = [set() for _ in parts]
    for value in sorted(home):
        users = [k for k in range(home[value] + 1, len(parts)) if value in ready[k]]
        if value in results or not users:
            continue
        more = [_computed_from(values, value, ready[k]) for k in users]
        if all(x is not None for x in more):
            for k, x in zip(users, more, strict=True):
                found[k].update(v for v in x or () if not _leaf(values, v))
                ready[k].update(x or ())
    return [sorted(more) for more in found]


def _live(
    values: Values,
    parts: Sequence[Sequence[Value]],
    again: Sequence[Collection[Value]],
    results: Collection[Value],
) -> list[tuple[Value, ...]]:
    """What each piece computes, without what only pieces use that compute it themselves."""
    stored, found = set(results), []
    for part, more in zip(reversed(parts), reversed(again), strict=True):
        used: set[Value] = set()
        live = []
        for value in sorted({*part, *more}, reverse=True):
            if value in used or (value in stored and value not in more):
                live.append(value)
                used.update(_needed(values, value))
        stored |= used.difference(more)
        found.append(tuple(reversed(live)))
    return found[::-1]


def _computed_from(values: Values, value: Value, ready: Collection[Value]) -> list[Value] | None:
    """The values that computing one again takes, and it; None if these are too many."""
    found, open_values = [value], [value]
    while open_values:
        here = open_values.pop()
        if not is_simple(values.program, here):
            return None
        for argument in _needed(values, here):
            if argument not in ready and argument not in found:
                found.append(argument)
                open_values += [] if _leaf(values, argument) else [argument]
    leaves = sum(_leaf(values, v) for v in found)
    return found if leaves <= 1 and len(found) - leaves <= _AGAIN else None


def _later(
    values: Values, parts: Sequence[Sequence[Value]], results: Collection[Value]
) -> list[tuple[Value, ...]]:
    """The same pieces with values in later ones where that leaves fewer to be stored.

    A value is moved to the first piece that uses it, alone or with those of its arguments that
    nothing else uses, as long as that piece does not get much longer than the others.
    """
    home = {v: number for number, part in enumerate(parts) for v in part}
    users: dict[Value, list[Value]] = {}
    for value in home:
        for argument in _needed(values, value):
            users.setdefault(argument, []).append(value)
    sizes = [sum(_cost(values, v).slots for v in part) for part in parts]
    room = _ROOM * sum(sizes) / max(len(sizes), 1)

    def shared(found: Mapping[Value, int]) -> tuple[list[list[Value]], int]:
        made: list[list[Value]] = [[] for _ in parts]
        for value in sorted(found):
            made[found[value]].append(value)
        again = _again(values, made, results)
        later = (
            {found[u] for u in users.get(v, ()) if found[u] > number and v not in again[found[u]]}
            for v, number in found.items()
            if v not in results
        )
        return made, sum(map(bool, later))

    made, least = shared(home)
    for value in sorted(home, reverse=True):
        last = min((home[u] for u in users.get(value, ())), default=home[value])
        if last == home[value] or value in results:
            continue
        moved = [value]
        for _ in range(_TOGETHER):
            trial = home | dict.fromkeys(moved, last)
            size = sum(_cost(values, v).slots for v in trial if trial[v] == last)
            parts_then, stored = shared(trial)
            if stored < least and size <= room:
                home, made, least = trial, parts_then, stored
                break
            alone = (
                a
                for v in moved
                for a in _needed(values, v)
                if home.get(a) == home[value]
                and a not in moved
                and a not in results
                and all(u in moved for u in users[a])
            )
            further = next(alone, None)
            if further is None:
                break
            moved.append(further)
    return [tuple(part) for part in made]


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
