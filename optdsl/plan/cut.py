"""Which values of a step are kept for its tangents, and which are computed again.

Each value that tangents, or lagging states, are made of is kept, which takes memory, or computed
again from others that are available, which takes arithmetic. The cheapest choice for a given rate
of exchange is a minimum cut (`optdsl.plan.flow`): a value has two nodes, for "it is computed
again" and for "it is available"; the edge between them is cut if it is kept, the edge from the
source if it is computed again, and edges without limit ask for the arguments of what is computed
again. As the rate varies, the cuts give the lower hull of arithmetic over memory; between its
corners, values are added one at a time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from fractions import Fraction

from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE, price
from optdsl.ir.program import Program, Value, upstream
from optdsl.ir.types import Extent
from optdsl.plan import keys
from optdsl.plan.flow import ENDLESS, Network
from optdsl.plan.programs import parameter_of, recoverable
from optdsl.plan.rematerialization import Rematerialization

is_name = keys.is_value
Kept = frozenset[Value]
# So many operations are more than any program has.
_ALL = 1 << 30


def names(program: Program) -> dict[Value, str]:
    """The names of the states in which the values with a number for each element are kept.

    They follow from how a value is computed, and from nothing else in the program, so that another
    program that computes it finds it.
    """
    found: dict[Value, str] = {}
    digests: list[str] = []
    for number, operation in enumerate(program.operations):
        arguments = [digests[a] for a in operation.arguments]
        text = repr((operation.opcode, operation.attribute, arguments, str(operation.type)))
        digests.append(hashlib.sha256(text.encode()).hexdigest()[:12])
        if operation.type.extent is Extent.TENSOR:
            found[Value(number)] = keys.value(digests[-1])
    old = parameter_of(program)
    return found if old is None else found | {old: keys.pending("theta")}


def choices(
    program: Program, start: Mapping[str, Value], lagging: bool, rounded: bool
) -> Iterator[dict[str, Value]]:
    """What may be kept of a step, from little to much; the less is kept, the more is computed.

    At most as many values are kept as the step has tangents, which could be kept themselves.

    Args:
        program: the step, with its tangents.
        start: what is kept in any case, by the names of its states.
        lagging: whether the states lag; see `optdsl.plan.programs.planned`.
        rounded: as of `optdsl.plan.programs.planned`.

    Yields:
        The values that are kept, by the names of their states; `start` alone is not among them.
    """
    if any(program.type(v).extent is Extent.SCALAR for v in program.needed(program.step_values)):
        return
    graph = _Graph(program, frozenset(start.values()), lagging, rounded)
    known, most = names(program), len(program.tangents) - len(start)
    for kept in graph.frontier(most):
        if kept:
            yield {**start, **{known[v]: v for v in sorted(kept)}}


class _Graph:
    """The values of a step: what each costs, and what it is made of."""

    def __init__(self, program: Program, start: Kept, lagging: bool, rounded: bool) -> None:
        self.operations = program.operations
        self.program = program
        nexts = [s.next for s in program.states]
        self.free = set(start)
        if lagging:
            self.free |= {Value(v) for v, o in enumerate(self.operations) if o.opcode == "state"}
        else:
            self.free |= {v for v in nexts if program.type(v).extent is Extent.TENSOR}
        if not rounded:
            self.free.add(program.parameter)
        self.roots = {*(nexts if lagging else ()), *(t.value for t in program.tangents)}
        # What a step computes anyway is computed twice if it is computed again.
        self.twice = set(program.needed(program.carried_values))
        self.recovery = self._recovery(lagging, rounded)
        reached, waiting = set(self.roots), list(self.roots)
        while waiting:
            for argument in self.made_of(waiting.pop()):
                if argument not in reached:
                    reached.add(argument)
                    waiting.append(argument)
        self.needed = sorted(reached)

    def _recovery(self, lagging: bool, rounded: bool) -> tuple[int, frozenset[Value]] | None:
        """What the old parameter takes if it is computed from the new one, and from what."""
        old = parameter_of(self.program)
        again = Rematerialization(self.program)
        for value, operation in enumerate(self.operations):
            if operation.opcode in {"gradient", "state"}:
                again.alive[Value(value)] = again.builder.copy(operation, ())
        if old is None or not recoverable(self.program, again, lagging, rounded):
            return None
        if again.recovered(old) is None:
            return None
        depends = {old}
        behind = upstream(self.operations, [self.program.parameter])
        for value in behind:
            if any(a in depends for a in self.operations[value].arguments):
                depends.add(value)
        inside = [v for v in behind if v in depends and v != old]
        parts = {a for v in inside for a in self.operations[v].arguments} - depends
        cost = sum(price(self.operations[v]) for v in inside) + TABLE["div"].laws.price
        return cost, frozenset(parts)

    def made_of(self, value: Value) -> tuple[Value, ...]:
        """What a value is computed from again."""
        if self.recovery is not None and self.operations[value].opcode == "parameter":
            return tuple(sorted(self.recovery[1]))
        return self.operations[value].arguments

    def price(self, value: Value) -> int | None:
        """What computing a value again takes beyond what a step takes; None if it cannot be."""
        operation = self.operations[value]
        if operation.opcode == "parameter" and self.recovery is not None:
            return self.recovery[0]
        if not TABLE[operation.opcode].laws.replayable:
            return None
        tensor = operation.type.extent is Extent.TENSOR
        return price(operation) if tensor and value in self.twice else 0

    def keepable(self, value: Value) -> bool:
        """Whether a value may be kept in a state: it has a number for each element."""
        operation = self.operations[value]
        held = TABLE[operation.opcode].stage not in {Stage.LITERAL, Stage.HOST}
        return held and operation.type.extent is Extent.TENSOR

    def cut(self, rate: Fraction) -> Kept | None:
        """What is kept if a state may cost as much as `rate` additions; None if nothing serves."""
        network = Network()
        again = {v: network.node() for v in self.needed}
        there = {v: network.node() for v in self.needed}
        for value in self.needed:
            cost = 0 if value in self.free else rate.numerator if self.keepable(value) else ENDLESS
            network.edge(again[value], there[value], cost)
            paid = self.price(value)
            paid = ENDLESS if paid is None else paid * rate.denominator
            network.edge(Network.SOURCE, again[value], paid)
            for argument in set(self.made_of(value)):
                network.edge(there[argument], again[value], ENDLESS)
        for value in self.roots:
            network.edge(there[value], Network.SINK, ENDLESS)
        behind = network.behind()
        if behind is None:
            return None
        kept = (v for v in self.needed if there[v] in behind and again[v] not in behind)
        return frozenset(v for v in kept if v not in self.free)

    def again(self, kept: Kept) -> int | None:
        """What is computed again, in additions, if `kept` is kept; None if that is too few."""
        total, seen = 0, set(self.roots)
        waiting = sorted(self.roots)
        while waiting:
            value = waiting.pop()
            if value in self.free or value in kept:
                continue
            paid = self.price(value)
            if paid is None:
                return None
            total += paid
            for argument in self.made_of(value):
                if argument not in seen:
                    seen.add(argument)
                    waiting.append(argument)
        return total

    def frontier(self, most: int) -> list[Kept]:
        """Choices of at most so many values, from few to many; each computes less than the last."""
        fewest, cheapest = self.cut(Fraction(_ALL)), self.cut(Fraction(1, _ALL))
        if fewest is None or cheapest is None:
            return []
        corners = [fewest, *self._between(fewest, cheapest), cheapest]
        found: list[Kept] = []
        for kept in corners:
            if found:
                found += self._steps(found[-1], kept, most)
            if len(kept) <= most:
                found.append(kept)
        return list(dict.fromkeys(found))

    def _between(self, few: Kept, many: Kept) -> list[Kept]:
        """The corners of the hull between two of them."""
        more, less = self.again(few), self.again(many)
        if more is None or less is None or len(many) <= len(few) or more <= less:
            return []
        rate = Fraction(more - less, len(many) - len(few))
        middle = self.cut(rate)
        if middle is None or middle in {few, many}:
            return []
        cost = self.again(middle)
        if cost is None or cost + rate * len(middle) >= more + rate * len(few):
            return []
        return [*self._between(few, middle), middle, *self._between(middle, many)]

    def _steps(self, few: Kept, many: Kept, most: int) -> list[Kept]:
        """Choices between two corners: at each, the value that saves most is added."""
        found: list[Kept] = []
        kept = few
        while len(kept) + 1 < len(many) and len(kept) < most:
            tried = [(cost, v) for v in sorted(many - kept)
                     if (cost := self.again(kept | {v})) is not None]  # fmt: skip
            if not tried:
                break
            kept = kept | {min(tried)[1]}
            found.append(kept)
        return found
