"""Runs of programs on Python floats: the parameters after each step.

A run may have several tensors, over which sums are taken, and inputs. The tensors may be of
different sizes and kinds, stand in groups with hyperparameters of their own, and have no gradient
in some steps.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optdsl.ir import arrays
from optdsl.ir.arrays import Array, elements
from optdsl.ir.bounded import Bounded
from optdsl.ir.evaluate import (
    BOUNDED,
    FLOATS,
    MATRICES,
    TRUSTING,
    Arithmetic,
    Code,
    Number,
    Point,
    Tensor,
    Watch,
    first_states,
)
from optdsl.ir.lengths import own_lengths
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.sections import unread
from optdsl.ir.together import Together
from optdsl.ir.types import TENSOR, Extent


@dataclass(frozen=True)
class Part:
    """A tensor of a run.

    Attributes:
        size: how many numbers it has.
        shape: if it is read as matrices, how many there are, of how many rows and columns; the
            numbers stand row after row.
        section: the number of its kind, where a rule has sections.
        hypers: the hyperparameters of its group that differ from those of the run.
        missing: the steps, counted from 0, in which it has no gradient.
    """

    size: int
    shape: arrays.Shape | None = None
    section: int = 0
    hypers: tuple[tuple[str, float], ...] = ()
    missing: tuple[int, ...] = ()


@dataclass(frozen=True)
class Run:
    """A run of a program: where it starts, and its gradients.

    Attributes:
        hypers: a value for each hyperparameter.
        theta: the parameter at the start.
        gradients: the gradient of each step, with the length of the parameter.
        shape: of a parameter that is read as matrices, how many there are, of how many rows and
            columns; the numbers stand row after row.
        tensors: how many parameters of one shape there are, whose numbers stand one after the
            other.
        inputs: by name, what is given to each step, for the parameters or as one number; None to a
            step without it.
        mixed: the parameters where they are not alike, in place of `shape` and `tensors`.
    """

    hypers: tuple[tuple[str, float], ...]
    theta: Tensor
    gradients: tuple[Tensor, ...]
    shape: arrays.Shape | None = None
    tensors: int = 1
    inputs: tuple[tuple[str, tuple[Tensor | None, ...]], ...] = ()
    mixed: tuple[Part, ...] = ()

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parameters, in the order of their numbers."""
        return self.mixed or (Part(len(self.theta) // self.tensors, self.shape),) * self.tensors

    @property
    def of_matrices(self) -> bool:
        """Whether the parameters are read as matrices."""
        return self.parts[0].shape is not None

    def given(self, step: int) -> dict[str, Tensor]:
        """What is given to a step, counted from 0."""
        own = ((name, values[step]) for name, values in self.inputs)
        return {name: x for name, x in own if x is not None}


def trajectory(program: Program, run: Run, watch: Watch | None = None) -> list[Tensor]:
    """The parameter after each step."""
    return Followed((program,), MATRICES if run.of_matrices else FLOATS).parameters(run, watch)


def rounded(program: Program, run: Run, trusting: bool = False) -> list[tuple[Bounded, ...]]:
    """The parameter after each step, as `trajectory` gives it, with bounds on its rounding errors.

    The run is not one of matrices, for which there is no such analysis.
    With `trusting`, the bounds hold only if rounding has not decided any condition.
    """
    return Followed((program,), TRUSTING if trusting else BOUNDED).parameters(run)


def changed(
    programs: Sequence[Program], run: Run, change: Callable[[float], float], points: bool = False
) -> tuple[Tensor, Tensor]:
    """The end of a run of matrices in which what is rounded is changed, by a function of numbers.

    That is the last parameter and, with `points`, where the model is evaluated there.
    """

    def function(opcode: str, tensors: tuple[bool, ...]) -> Callable[..., Any]:
        row, exact = TABLE[opcode], arrays.FUNCTIONS[opcode]
        laws = row.laws
        if laws.selects or laws.jumps:
            return exact

        def number(x: float) -> float:
            return x if laws.integral and x.is_integer() else change(x)

        after, before = arrays.elementwise(number), arrays.elementwise(change)
        if row.stage.mixes:
            return lambda *x: after(exact(*map(before, x)))
        return lambda *x: after(exact(*x))

    def literal(x: float) -> float:
        # Double precision has numbers such as 2 and 0.25.
        return x if not math.isfinite(x) or (x * 1024).is_integer() else change(x)

    arithmetic = replace(MATRICES, function=function, literal=literal)
    *_, last = Followed(programs, arithmetic).followed(run, points=points)
    return last


class Followed:
    """A rule, prepared for many runs: one program, or one for each kind of tensors."""

    def __init__(self, programs: Sequence[Program], arithmetic: Arithmetic) -> None:
        """Look up the function of each operation; see `optdsl.ir.evaluate.Arithmetic`."""
        self._programs, self._arithmetic = programs, arithmetic
        self._codes = [Code(p, p.carried_values, arithmetic) for p in programs]
        self._initial = [Code(p, p.initial_values, arithmetic) for p in programs]
        self._points = [Code(p, p.points, arithmetic) for p in programs]
        self._inputs = {s.name: s.type for p in programs for s in p.states if s.input}
        self._shared = [_shared(p) for p in programs]

    @functools.cached_property
    def _together(self) -> Together:
        return Together(self._programs, [p.step_values for p in self._programs], self._arithmetic)

    def parameters(self, run: Run, watch: Watch | None = None) -> list[tuple[Any, ...]]:
        """The numbers of all parameters after each step."""
        return [after for after, _ in self.followed(run, watch)]

    def followed(
        self, run: Run, watch: Watch | None = None, points: bool = False
    ) -> Iterator[tuple[tuple[Any, ...], tuple[Any, ...]]]:
        """The numbers of all parameters after each step, and where the model is then evaluated.

        Without `points`, that is left out.
        """
        exact, hypers, parts = self._arithmetic.exact, dict(run.hypers), run.parts
        cuts = [0, *itertools.accumulate(part.size for part in parts)]

        def tensors(numbers: Tensor) -> list[Any]:
            """The tensors of which some numbers are the elements, one after the other."""
            found = []
            for part, start in zip(parts, cuts, strict=False):
                own = tuple(map(exact, numbers[start : start + part.size]))
                found.append(own if part.shape is None else Array(part.shape, own))
            return found

        def shared_out(name: str, numbers: Tensor) -> list[Any]:
            """What is given for each tensor, or one number for all of them."""
            if self._inputs[name].extent is Extent.TENSOR:
                return tensors(numbers)
            return [exact(numbers[0])] * len(parts)

        held = [
            _Tensor(self._programs[part.section], part, hypers, theta, self._arithmetic)
            for part, theta in zip(parts, tensors(run.theta), strict=True)
        ]
        alone = len(held) == 1 and not run.mixed
        steady: dict[Value, Number] | None = None
        shared: dict[str, Number] | None = None
        for step, gradient in enumerate(run.gradients):
            given = {n: shared_out(n, x) for n, x in run.given(step).items() if n in self._inputs}
            moved = []
            for number, (x, g) in enumerate(zip(held, tensors(gradient), strict=True)):
                if step in x.part.missing:
                    continue
                x.t += 1
                if x.t == 1:
                    x.state = first_states(x.program, x.at(g, given), self._initial[x.part.section])
                x.state |= shared or {}
                x.state |= {name: y[number] for name, y in given.items()}
                moved.append((x, x.at(g, given)))
            if alone:
                ((x, at),) = moved
                code = self._codes[x.part.section]
                steady = code.steady(at) if steady is None else steady
                results = [code.evaluated(at, watch, steady)]
            else:
                together = [(x.part.section, at) for x, at in moved]
                results, sums = self._together.evaluated(together, watch)
                x, at = moved[0]
                names = self._shared[x.part.section]
                if names:
                    # What all tensors share counts the steps of the optimizer.
                    now = replace(at, t=step + 1)
                    new = self._together.shared(x.part.section, [*names.values()], now, sums)
                    shared = dict(zip(names, new, strict=True))
            for (x, at), values in zip(moved, results, strict=True):
                x.state = {s.name: at.extended(values[s.next], s.type) for s in x.program.states}
                x.theta = at.extended(values[x.program.parameter], TENSOR)
            after = tuple(y for x in held for y in elements(x.theta))
            yield after, self._evaluated(held, shared, watch) if points else ()

    def _evaluated(
        self, held: Sequence[_Tensor], shared: Mapping[str, Number] | None, watch: Watch | None
    ) -> tuple[Any, ...]:
        """The numbers of the points at which the model is evaluated, between two steps."""
        found: list[Any] = []
        for x in held:
            place, point = x.program.evaluation, x.theta
            if place is not None and x.t:
                x.state |= shared or {}
                at = x.at(x.theta, ())
                values = self._points[x.part.section].evaluated(at, watch)
                point = at.extended(values[place], TENSOR)
            found += elements(point)
        return tuple(found)


class _Tensor:
    """A tensor in the course of a run.

    Attributes:
        program: the program of its kind.
        part: what it is.
        theta: the parameter.
        state: its states.
        t: how many steps it has taken.
    """

    def __init__(
        self,
        program: Program,
        part: Part,
        hypers: Mapping[str, float],
        theta: Any,
        arithmetic: Arithmetic,
    ) -> None:
        self.program, self.part, self.theta, self.t = program, part, theta, 0
        self.state: dict[str, Number] = {}
        self._hypers = {**hypers, **dict(part.hypers)} if part.hypers else hypers
        if part.shape is not None and (
            lengths := own_lengths(program, unread(program.kind, part.shape), self._hypers)
        ):
            arithmetic = replace(
                arithmetic,
                expanded=functools.partial(arrays.expanded, own=lengths),
                of_shape=functools.partial(arrays.of_shape, own=lengths),
                drawn=functools.partial(arrays.drawn, own=lengths),
            )
        self._arithmetic = arithmetic

    def at(self, g: Any, given: Container[str]) -> Point:
        """The inputs of its step, or of an evaluation, where there is no gradient."""
        return Point(self.theta, g, self.state, self._hypers, self.t, self._arithmetic, given)


def _shared(program: Program) -> dict[str, Value]:
    """The next values of the states that all tensors share."""
    own = (s for s in program.states if s.type.extent is Extent.SHARED and not s.input)
    return {s.name: s.next for s in own}
