"""A step of a program done again later, from what is alive of it by then."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.evaluate import number
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value, upstream
from optdsl.ir.types import Extent
from optdsl.plan.keys import pending

# At these steps a slope is looked at, and at the ends of the bounds of so many coefficients.
_CORNERS = 8
_STEPS = (1.0, 2.0, 3.0, 10.0, 1e6)


class Rematerialization:
    """A step of a program done again later, from what is alive of it by then.

    Attributes:
        program: the step.
        builder: receives the operations that do it again.
        alive: values of the step that are at hand, as values of `builder`.
    """

    def __init__(self, program: Program) -> None:
        self.program = program
        self.builder = Builder()
        self.alive: dict[Value, Value] = {}

    def values(self, roots: Iterable[Value]) -> dict[Value, Value] | None:
        """Values of the step as values of the builder; None if something is not at hand."""
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
        """The parameter before the step, from the parameter after it; None if that cannot be.

        It can where the new parameter is a * theta + b, with one a for all elements.
        """
        alive, target = self.alive, self.program.parameter
        others = {v: x for v, x in alive.items() if v != target}
        self.alive = {**others, old: self.builder.constant(0.0)}
        at_zero = self.values([target])
        self.alive = alive
        if at_zero is None:
            return None
        slopes: dict[Value, Value | None] = {old: self.builder.constant(1.0)}
        # What does not become infinite with the parameter.
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
        if slope is None or self.builder[slope].type.extent is not Extent.UNIFORM:
            return None
        if not self._far_from_zero(slope):
            return None
        moved = self.builder.emit("sub", self.builder.emit("parameter"), at_zero[target])
        before = self.builder.emit("div", moved, slope, hint="theta_before")
        for value, each in slopes.items():
            if value in replaced:
                continue
            # What was computed to find the parameter gives the values on the way from it, too.
            if each is not None and self.builder[each].type.extent is Extent.UNIFORM:
                part = self.builder.times(before, each)
                assert part is not None
                found = self.builder.emit("add", at_zero[value], part)
                hint = self.program.operations[value].hint
                if hint is not None:
                    self.builder.suggest(found, hint)
                self.alive.setdefault(value, found)
        return before

    def _far_from_zero(self, slope: Value) -> bool:
        """Whether a division by a slope loses little, wherever learning may go."""
        program = replace(self.program, operations=self.builder.operations)
        hypers = {pending(h.name): h.default for h in program.hypers}
        read = {str(self.builder[v].attribute) for v in program.needed((slope,))}
        ends = {
            pending(x.hyper): (x.bounds.lower, x.bounds.upper)
            for x in program.learned
            if pending(x.hyper) in read
        }
        if len(ends) > _CORNERS:
            return False
        for t in _STEPS:
            for corner in itertools.product(*ends.values()):
                values = {**hypers, **dict(zip(ends, corner, strict=True)), pending("t"): t}
                if not 0.5 <= abs(number(program, slope, values)) <= 2:
                    return False
        return True
