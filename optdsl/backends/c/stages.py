"""Operations distributed over stages so that a processor is busy in each of them.

A processor has only a limited number of operations in flight. In a loop with a long chain of
dependent operations it waits for results most of the time. Cut into stages with shorter chains,
each a loop of its own, more elements are in flight at once. Divisions and roots have an execution
unit of their own, which should have work in every stage.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from optdsl.ir.program import Program, Value
from optdsl.ir.types import TENSOR


@dataclass(frozen=True)
class Cost:
    """The approximate cost of an operation on vectors, on a common processor.

    Attributes:
        latency: cycles until the result is available.
        slots: the number of instructions.
        divider: cycles for which the unit for divisions and roots is busy.
    """

    latency: int
    slots: int = 1
    divider: int = 0

    def plus(self, more: Cost) -> Cost:
        """The cost of two operations, one of which needs the other."""
        return Cost(
            self.latency + more.latency, self.slots + more.slots, self.divider + more.divider
        )


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


def is_simple(program: Program, value: Value) -> bool:
    """Whether a value takes one instruction on elements: a sum, a product, or a square."""
    operation = program.operations[value]
    if operation.opcode == "pow":
        exponent = program.operations[operation.arguments[1]]
        return exponent.opcode == "constant" and exponent.attribute == 2
    return operation.opcode in {"add", "sub", "mul", "neg"}


def tensors_of(program: Program, value: Value) -> tuple[Value, ...]:
    """The arguments of a value that are tensors."""
    return tuple(a for a in program.operations[value].arguments if program.type(a) == TENSOR)


def staged(
    needed: Mapping[Value, Sequence[Value]], costs: Mapping[Value, Cost], count: int
) -> list[tuple[Value, ...]]:
    """The values of each stage, in order.

    A value goes to the first stage that has room, no earlier than the values that it needs, and no
    later than its place on the longest chain of operations allows.

    Args:
        needed: for each value, in order, the values before it that it needs.
        costs: the cost of each value.
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
    # The room in each stage. Divisions are large: one may exceed it by half.
    slots = -(-sum(costs[v].slots for v in needed) // count)
    divider = -(-sum(costs[v].divider for v in needed) // count)
    divider += max((costs[v].divider for v in needed), default=0) // 2
    loads = [Cost(0, slots=0)] * count
    stage: dict[Value, int] = {}
    for value in sorted(needed, key=lambda v: (latest[v], end[v])):
        first = max((stage[a] for a in needed[value]), default=0)
        last = max(first, min(count - 1, latest[value] * count // max(length, 1)))
        after = {k: loads[k].plus(costs[value]) for k in range(first, last + 1)}
        fitting = (k for k, x in after.items() if x.slots <= slots and x.divider <= divider)
        # Two instructions begin in a cycle.
        cycles = {k: max(x.slots / 2, x.divider) for k, x in after.items()}
        stage[value] = next(fitting, min(cycles, key=cycles.__getitem__))
        loads[stage[value]] = after[stage[value]]
    return [tuple(v for v in needed if stage[v] == k) for k in range(count)]
