"""Operations shared out to stages such that a processor is busy in each of them.

A processor has several operations under way while it waits for results, but only so many. In a
loop with a long chain of operations, one after the other, it waits most of the time. Cut into
stages of shorter chains, each a loop of its own, more elements are under way at once. Divisions and
roots have a unit of their own, which should have something to do in every stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.ir.program import Value


@dataclass(frozen=True)
class Cost:
    """What an operation on vectors costs, in cycles of a common processor, about.

    Attributes:
        latency: until its result is there.
        slots: how many instructions it takes.
        divider: how long the unit for divisions and roots is busy.
    """

    latency: int
    slots: int = 1
    divider: int = 0


# Figures for 512-bit vectors of floats; only their proportions count.
_COSTS = {
    "div": Cost(18, divider=10),
    "sqrt": Cost(20, divider=12),
    "mix": Cost(8, slots=4),
    "sign": Cost(6, slots=3),
    "where": Cost(5, slots=2),
    "neg": Cost(1),
}
_USUAL = Cost(4)


def cost(opcode: str) -> Cost:
    """The cost of an operation."""
    return _COSTS.get(opcode, _USUAL)


@dataclass
class _Load:
    slots: int = 0
    divider: int = 0

    def with_(self, more: Cost) -> _Load:
        return _Load(self.slots + more.slots, self.divider + more.divider)

    def within(self, room: _Load) -> bool:
        return self.slots <= room.slots and self.divider <= room.divider

    @property
    def cycles(self) -> float:
        return max(self.slots / 2, self.divider)


def staged(
    needed: Mapping[Value, Sequence[Value]], costs: Mapping[Value, Cost], count: int
) -> list[tuple[Value, ...]]:
    """The values of each stage, in order.

    A value goes to the first stage that has room, after those of the values that it needs, and no
    later than its place on the longest way through all of them allows.

    Args:
        needed: for each value, in order, those before it that it needs.
        costs: that of each.
        count: the number of stages.
    """
    end: dict[Value, int] = {}
    for value, before in needed.items():
        end[value] = costs[value].latency + max((end[a] for a in before), default=0)
    length = max(end.values(), default=0)
    latest = {value: length - costs[value].latency for value in needed}
    for value in reversed(list(needed)):
        for argument in needed[value]:
            latest[argument] = min(latest[argument], latest[value] - costs[argument].latency)
    slots, divider = (sum(getattr(costs[v], k) for v in needed) for k in ("slots", "divider"))
    # Divisions are large: one may reach over the end by half.
    half = max((costs[v].divider for v in needed), default=0) // 2
    room = _Load(-(-slots // count), -(-divider // count) + half)
    loads = [_Load() for _ in range(count)]
    stage: dict[Value, int] = {}
    for value in sorted(needed, key=lambda v: (latest[v], end[v])):
        first = max((stage[a] for a in needed[value]), default=0)
        last = max(first, min(count - 1, latest[value] * count // max(length, 1)))
        after = {k: loads[k].with_(costs[value]) for k in range(first, last + 1)}
        fitting = (k for k, load in after.items() if load.within(room))
        stage[value] = next(fitting, min(after, key=lambda k: after[k].cycles))
        loads[stage[value]] = after[stage[value]]
    return [tuple(v for v in needed if stage[v] == k) for k in range(count)]
