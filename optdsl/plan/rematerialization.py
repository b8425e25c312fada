"""Computes a step of a program again later, from values that still exist then."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.derivatives import times
from optdsl.ir.evaluate import number
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value, upstream
from optdsl.ir.types import Extent
from optdsl.plan.keys import pending

# A slope is checked at these steps, and at the bounds of at most so many learned coefficients.
_CORNERS = 8
_STEPS = (1.0, 2.0, 3.0, 10.0, 1e6)


class Rematerialization:
    """Computes values of a step again, from those of its values that still exist.

    Attributes:
        program: the step.
        builder: receives the operations.
        alive: the values of the step that still exist, as values of `builder`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = Builder()
        self.alive: dict[Value, Value] = {}

    def values(self, roots: Iterable[Value]) -> dict[Value, Value] | None:
        """Values of the step as values of the builder; None if one cannot be computed."""
        new: dict[Value, Value] = {}
        for value in upstream(self.program.operations, roots, self.alive):
            operation = self.program.operations[value]
            if value in self.alive:
                new[value] = self.alive[value]
            elif not TABLE[operation.opcode].laws.replayable:
                return None
            elif TABLE[operation.opcode].stage is Stage.HOST:
                name = pending(str(operation.attribute or "t"))
                new[value] = self.builder.emit("hyper", attribute=name)
            else:
                arguments = tuple(new[a] for a in operation.arguments)
                new[value] = self.builder.copy(operation, arguments)
        return new

    def recovered(self, old: Value) -> Value | None:
        """The parameter before the step, computed from the parameter after it.

        That is possible if the new parameter is a * theta + b, with one a for all elements that is
        not close to zero; the result is None otherwise.
        """
        alive, target = self.alive, self.program.parameter
        others = {v: x for v, x in alive.items() if v != target}
        self.alive = {**others, old: self.builder.constant(0.0)}
        at_zero = self.values([target])
        self.alive = alive
        if at_zero is None:
            return None
        slopes: dict[Value, Value | None] = {old: self.builder.constant(1.0)}
        # The values that stay finite if the parameter becomes infinite.
        replaced: set[Value] = set()
        for value in upstream(self.program.operations, [target], {*others, old}):
            operation = self.program.operations[value]
            tangents = tuple(slopes.get(a) for a in operation.arguments)
            if value == old or value in others or all(s is None for s in tangents):
                continue
            arguments = tuple(at_zero[a] for a in operation.arguments)
            if operation.opcode == "sub" and len(set(operation.arguments)) == 1:
                continue  # zero, or no number
            if all(a in replaced for a in operation.arguments if slopes.get(a) is not None):
                replaced.add(value)
            if self.program.is_finite_part(operation):
                slopes[value] = tangents[1]
                replaced.add(value)
                continue
            row = TABLE[operation.opcode]
            if not row.laws.affine(tuple(t is not None for t in tangents)):
                return None
            slopes[value] = row.derivative(self.builder, at_zero[value], arguments, tangents)
        slope = slopes.get(target)
        uniform = slope is not None and self.builder[slope].type.extent is Extent.UNIFORM
        if slope is None or not uniform or not self._far_from_zero(slope):
            return None
        moved = self.builder.emit("sub", self.builder.emit("parameter"), at_zero[target])
        before = self.builder.emit("div", moved, slope, hint="theta_before")
        for value, each in slopes.items():
            if value in replaced:
                continue
            # Values between the old and the new parameter follow in the same way.
            if each is not None and self.builder[each].type.extent is Extent.UNIFORM:
                part = times(self.builder, before, each)
                assert part is not None
                found = self.builder.emit("add", at_zero[value], part)
                self.builder.suggest(found, self.program.operations[value].hint)
                self.alive.setdefault(value, found)
        return before

    def _far_from_zero(self, slope: Value) -> bool:
        """Whether dividing by a slope loses little precision, whatever values are learned."""
        program = replace(self.program, operations=self.builder.operations)
        hypers = {pending(name): default for name, default in program.defaults.items()}
        read = {str(self.builder[v].attribute) for v in program.needed((slope,))}
        ends = {
            pending(x.hyper): (x.bounds.lower, x.bounds.upper)
            for x in program.learned
            if pending(x.hyper) in read
        }
        if len(ends) > _CORNERS:
            return False
        corners = [dict(zip(ends, x, strict=True)) for x in itertools.product(*ends.values())]
        points = ({**hypers, **corner, pending("t"): t} for t in _STEPS for corner in corners)
        return all(0.5 <= abs(number(program, slope, at)) <= 2 for at in points)
