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

# Operations in a piece, about.
SIZE = 45


@dataclass(frozen=True)
class Piece:
    """One of the loops.

    Attributes:
        leaves: what it reads from memory.
        fetched: what it reads from rows, by value.
        computed: what it computes, in order.
        stored: the rows that it writes, with the value of each.
        written: the results that it writes to memory, by their number, with the value of each.
    """

    leaves: tuple[Value, ...]
    fetched: Mapping[Value, int]
    computed: tuple[Value, ...]
    stored: tuple[tuple[int, Value], ...]
    written: tuple[tuple[int, Value], ...]


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
        body: those of the loop, in order.
        results: what the rows hold in the end, from the first on.
        kept: for the first of the results, which go to memory instead, what was there before: the
            first piece reads it and keeps it in the row.
        size: the number of operations in a piece, about.
    """
    computed = [v for v in body if not _leaf(values, v) and not _inlined(values, v)]
    parts = _parts(values, computed, results, size)
    home = {v: number for number, part in enumerate(parts) for v in part}
    last_use: dict[Value, int] = {}
    for number, part in enumerate(parts):
        for value in part:
            last_use |= dict.fromkeys(_needed(values, value), number)
    rows: dict[Value, int] = {}
    for row, value in enumerate(results[len(kept) :], start=len(kept)):
        rows.setdefault(value, row)
    before = {leaf: row for row, leaf in enumerate(kept) if leaf is not None}
    rows |= before
    home |= dict.fromkeys(before, 0)
    free: list[int] = []
    height = len(results)
    pieces = []
    for number, part in enumerate(parts):
        uses = dict.fromkeys(a for v in part for a in _needed(values, v))
        uses |= dict.fromkeys(v for v in results if number == 0 and v in body)
        fetched = {v: rows[v] for v in uses if home.get(v, number) < number}
        ready = [(row, v) for row, v in enumerate(results) if home.get(v, 0) == number]
        written = [(row, v) for row, v in ready if row < len(kept)]
        stored = [(row, v) for row, v in ready if row >= len(kept)]
        for value in part:
            if last_use.get(value, 0) > number and value not in rows:
                rows[value] = free.pop() if free else height
                height = max(height, rows[value] + 1)
                stored.append((rows[value], value))
        leaves = tuple(v for v in body if v in uses and _leaf(values, v) and v not in fetched)
        pieces.append(Piece(leaves, fetched, part, tuple(stored), tuple(written)))
        done = [v for v, row in rows.items() if row >= len(results) and last_use[v] == number]
        free += [rows.pop(v) for v in done]
    return tuple(pieces), height


def _parts(
    values: Values, computed: Sequence[Value], results: Sequence[Value], size: int
) -> list[tuple[Value, ...]]:
    """Stages: each value in the one that its place on the longest path allows and that is idlest.

    Args:
        values: the values of the kernel.
        computed: those to be shared out, in order.
        results: unused.
        size: the number of operations in a stage, about.
    """
    count = max(1, round(len(computed) / size))
    if count == 1:
        return [tuple(computed)]
    inside = set(computed)
    needed = {v: [a for a in _needed(values, v) if a in inside] for v in computed}
    cost = {v: _COSTS.get(_kind(values, v), _Cost(4, 1, 0)) for v in computed}
    end: dict[Value, int] = {}
    for value in computed:
        end[value] = cost[value].latency + max((end[a] for a in needed[value]), default=0)
    length = max(end.values())
    latest = {v: length - cost[v].latency for v in computed}
    for value in reversed(computed):
        for argument in needed[value]:
            latest[argument] = min(latest[argument], latest[value] - cost[argument].latency)
    room = _Load(
        -(-sum(c.slots for c in cost.values()) // count),
        -(-sum(c.divider for c in cost.values()) // count),
    )
    loads = [_Load() for _ in range(count)]
    stage: dict[Value, int] = {}
    for value in sorted(computed, key=lambda v: (latest[v], end[v])):
        low = max((stage[a] for a in needed[value]), default=0)
        high = max(low, min(count - 1, latest[value] * count // length)) if PATH else count-1
        open_ = [k for k in range(low, high + 1) if loads[k].fits(cost[value], room)]
        best = open_[0] if open_ else min(range(low, high + 1), key=lambda k: loads[k].cycles(cost[value]))
        stage[value] = best
        loads[best].add(cost[value])
    return [tuple(v for v in computed if stage[v] == k) for k in range(count)]


PATH = True
@dataclass(frozen=True)
class _Cost:
    """What an operation on a vector costs, in cycles or so of a processor of today.

    Attributes:
        latency: until its result is there.
        slots: how many instructions it takes.
        divider: how long the unit for divisions and roots is busy.
    """

    latency: int
    slots: int
    divider: int


_COSTS = {
    "div": _Cost(18, 1, 10),
    "sqrt": _Cost(20, 1, 12),
    "mix": _Cost(8, 4, 0),
    "sign": _Cost(6, 3, 0),
    "where": _Cost(5, 2, 0),
    "neg": _Cost(1, 1, 0),
}


@dataclass
class _Load:
    slots: int = 0
    divider: int = 0

    def cycles(self, more: _Cost) -> float:
        return max((self.slots + more.slots) / 2, self.divider + more.divider)

    def fits(self, more: _Cost, room: _Load) -> bool:
        return (
            self.slots + more.slots <= room.slots
            and (more.divider == 0 or self.divider + more.divider <= room.divider + more.divider // 2)
        )

    def add(self, more: _Cost) -> None:
        self.slots += more.slots
        self.divider += more.divider


def _kind(values: Values, value: Value) -> str:
    operation = values.operation(value)
    product = operation.opcode == "div" and values.by_reciprocal(operation, "real")
    return "mul" if product else operation.opcode


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
