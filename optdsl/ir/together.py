"""Evaluates a step of several tensors, of which sums are taken over all.

The tensors may have different programs, as tensors of different kinds have. Sums of one name are
one sum, over the tensors in whose programs it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce

from optdsl.ir.evaluate import Arithmetic, Number, Part, Point, Watch
from optdsl.ir.laws import Stage
from optdsl.ir.ops import COMPARE, DRAWS, NEUTRAL, TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.types import Extent

# The value of a sum over all tensors in a program, what sums one tensor, and the value summed.
_Summed = tuple[Value, Callable[..., Number], Value]


class Together:
    """Some values of some programs, prepared for many evaluations.

    What depends on a sum over all tensors is computed after what is summed, for every program.
    """

    def __init__(
        self,
        programs: Sequence[Program],
        roots: Sequence[Sequence[Value]],
        arithmetic: Arithmetic,
    ) -> None:
        """Look up the function of each operation, and when it can be computed.

        Args:
            programs: the programs.
            roots: for each of them, the values that are wanted.
            arithmetic: that of the numbers.
        """
        self._programs, self._arithmetic = programs, arithmetic
        self._needed = [p.needed(tuple(r)) for p, r in zip(programs, roots, strict=True)]
        # What makes one number of the parts of two tensors.
        self._combine = {opcode: arithmetic.function(opcode, (False, False)) for opcode in NEUTRAL}
        self._turns: dict[str, int] = {}
        levels = self._levels()
        while (found := self._later(levels)) != self._turns:
            self._turns = found
            levels = self._levels()
        last = max((level for own in levels for level in own.values()), default=0)
        self._parts = [[self._part(n, own, k) for k in range(last + 1)]
                       for n, own in enumerate(levels)]  # fmt: skip
        self._totals = [self._sums(k) for k in range(last + 1)]

    def evaluated(
        self, points: Sequence[tuple[int, Point]], watch: Watch | None = None
    ) -> tuple[list[dict[Value, Number]], dict[str, Number]]:
        """The results of each tensor, and the sums over all.

        Args:
            points: for each tensor the number of its program, and the inputs of its step.
            watch: is called for the tensors of the first program.
        """
        found = [dict[Value, Number]() for _ in points]
        sums: dict[str, Number] = {}
        for level, totals in enumerate(self._totals):
            for name, owners in totals.items():
                added = []
                for (number, _), values in zip(points, found, strict=True):
                    if number in owners:
                        value, function, argument = owners[number]
                        added.append(function(values[argument]))
                if not added:
                    continue
                number, (value, _, _) = next(iter(owners.items()))
                row = TABLE[self._programs[number].operations[value].opcode]
                sums[name] = reduce(self._combine[row.combined], added)
                for (number, _), values in zip(points, found, strict=True):
                    if number in owners:
                        values[owners[number][0]] = sums[name]
            for (number, at), values in zip(points, found, strict=True):
                self._parts[number][level].evaluate(at, values)
        if watch is not None:
            for (number, _), values in zip(points, found, strict=True):
                if not number:
                    for value, x in values.items():
                        if self._programs[0].operations[value].opcode in COMPARE:
                            watch(value, x)
        return found, sums

    def shared(
        self, number: int, roots: Sequence[Value], at: Point, sums: Mapping[str, Number]
    ) -> list[Number]:
        """Values of a program that all tensors share, from the sums over all."""
        program, found = self._programs[number], dict[Value, Number]()
        for value in program.needed(tuple(roots)):
            operation = program.operations[value]
            if TABLE[operation.opcode].stage is Stage.TOTAL:
                found[value] = sums[str(operation.attribute)]
            elif program.type(value).extent > Extent.SHARED:
                continue  # what was summed
            elif not operation.arguments:
                found[value] = at.leaf(operation)
            elif operation.opcode in DRAWS:
                found[value] = at.drawn(operation, found[operation.arguments[0]])
            else:
                numbers = (False,) * len(operation.arguments)
                function = self._arithmetic.function(operation.opcode, numbers)
                found[value] = function(*(found[a] for a in operation.arguments))
        return [found[v] for v in roots]

    def _levels(self) -> list[dict[Value, int]]:
        """For each program and value, how many sums are taken before it, one after the other."""
        found = []
        for program, needed in zip(self._programs, self._needed, strict=True):
            own: dict[Value, int] = {}
            for value in needed:
                operation = program.operations[value]
                if TABLE[operation.opcode].stage is Stage.TOTAL:
                    own[value] = self._turns.get(str(operation.attribute), 1)
                else:
                    own[value] = max((own[a] for a in operation.arguments), default=0)
            found.append(own)
        return found

    def _later(self, levels: Sequence[Mapping[Value, int]]) -> dict[str, int]:
        """When each sum can be taken: after what every program adds to it."""
        found: dict[str, int] = {}
        for program, own in zip(self._programs, levels, strict=True):
            for value in own:
                operation = program.operations[value]
                if TABLE[operation.opcode].stage is Stage.TOTAL:
                    name = str(operation.attribute)
                    turn = 1 + own[operation.arguments[0]]
                    found[name] = max(found.get(name, 1), turn)
        return found

    def _part(self, number: int, levels: Mapping[Value, int], level: int) -> Part:
        program, part = self._programs[number], Part()
        for value in self._needed[number]:
            operation = program.operations[value]
            if levels[value] == level and TABLE[operation.opcode].stage is not Stage.TOTAL:
                part.add(program, value, self._arithmetic)
        return part

    def _sums(self, level: int) -> dict[str, dict[int, _Summed]]:
        """The sums that are taken before a level: for each program its value, and what it adds."""
        found: dict[str, dict[int, _Summed]] = {}
        for number, (program, needed) in enumerate(zip(self._programs, self._needed, strict=True)):
            for value in needed:
                operation = program.operations[value]
                name = str(operation.attribute)
                if TABLE[operation.opcode].stage is not Stage.TOTAL or self._turns[name] != level:
                    continue
                (argument,) = operation.arguments
                tensors = (program.type(argument).extent is Extent.TENSOR,)
                function = self._arithmetic.function(operation.opcode, tensors)
                found.setdefault(name, {})[number] = (value, function, argument)
        return found
