"""Runs of programs on Python floats: the parameters after each step.

A run may have several tensors of one shape, over which sums are taken, and inputs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
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
    Number,
    Point,
    Tensor,
    Watch,
    first_states,
    prepared,
)
from optdsl.ir.lengths import own_lengths
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program
from optdsl.ir.types import TENSOR, Extent


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
    """

    hypers: tuple[tuple[str, float], ...]
    theta: Tensor
    gradients: tuple[Tensor, ...]
    shape: arrays.Shape | None = None
    tensors: int = 1
    inputs: tuple[tuple[str, tuple[Tensor | None, ...]], ...] = ()

    def given(self, step: int) -> dict[str, Tensor]:
        """What is given to a step, counted from 0."""
        own = ((name, values[step]) for name, values in self.inputs)
        return {name: x for name, x in own if x is not None}


def trajectory(program: Program, run: Run, watch: Watch | None = None) -> list[Tensor]:
    """The parameter after each step."""
    return _followed(program, run, FLOATS if run.shape is None else MATRICES, watch)


def rounded(program: Program, run: Run, trusting: bool = False) -> list[tuple[Bounded, ...]]:
    """The parameter after each step, as `trajectory` gives it, with bounds on its rounding errors.

    The run is not one of matrices, for which there is no such analysis.
    With `trusting`, the bounds hold only if rounding has not decided any condition.
    """
    return _followed(program, run, TRUSTING if trusting else BOUNDED, None)


def changed(program: Program, run: Run, change: Callable[[float], float]) -> list[Tensor]:
    """A run of matrices in which what is rounded is changed, by a function of the number."""

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

    return _followed(program, run, replace(MATRICES, function=function, literal=literal), None)


def _followed(
    program: Program, run: Run, arithmetic: Arithmetic, watch: Watch | None
) -> list[tuple[Any, ...]]:
    def tensors(numbers: Tensor) -> list[Any]:
        """The tensors of which some numbers are the elements, one after the other."""
        exact, size = tuple(map(arithmetic.exact, numbers)), len(numbers) // run.tensors
        parts = [exact[i * size : (i + 1) * size] for i in range(run.tensors)]
        return parts if run.shape is None else [Array(run.shape, x) for x in parts]

    hypers, found = dict(run.hypers), list[tuple[Any, ...]]()
    code, steady = prepared(program, program.carried_values, arithmetic), None
    if program.axes and run.shape is not None:
        lengths = own_lengths(program, run.shape, hypers)
        arithmetic = replace(
            arithmetic,
            expanded=functools.partial(arrays.expanded, own=lengths),
            of_shape=functools.partial(arrays.of_shape, own=lengths),
            drawn=functools.partial(arrays.drawn, own=lengths),
        )
    thetas, states = tensors(run.theta), [dict[str, Number]() for _ in range(run.tensors)]
    inputs = {s.name: s.type for s in program.states if s.input}

    def shared_out(name: str, numbers: Tensor) -> list[Any]:
        """What is given for each tensor, or one number for all of them."""
        if inputs[name].extent is Extent.TENSOR:
            return tensors(numbers)
        return [arithmetic.exact(numbers[0])] * run.tensors

    for t, g in enumerate(run.gradients, start=1):
        given = {n: shared_out(n, x) for n, x in run.given(t - 1).items() if n in inputs}
        points = []
        for number, (theta, gradient) in enumerate(zip(thetas, tensors(g), strict=True)):
            at = Point(theta, gradient, states[number], hypers, t, arithmetic, given)
            state = first_states(program, at, watch) if t == 1 else states[number]
            own = {name: x[number] for name, x in given.items()}
            points.append(replace(at, state={**state, **own}))
        if run.tensors == 1:
            steady = code.steady(points[0]) if steady is None else steady
            results = [code.evaluated(points[0], watch, steady)]
        else:
            results = code.together(points, watch)
        pairs = list(zip(points, results, strict=True))
        states = [
            {s.name: at.extended(x[s.next], s.type) for s in program.states} for at, x in pairs
        ]
        thetas = [at.extended(x[program.parameter], TENSOR) for at, x in pairs]
        found.append(tuple(y for theta in thetas for y in elements(theta)))
    return found
