"""Controls: coefficients that move without learning, made from those that another run learned."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from torch.optim import Optimizer

from optdsl.ir.domain import Interval
from optdsl.ir.program import Program
from optdsl.studies.frame.values import Frozen, Result

PREFIX = "coefficient/"  # of the series with the values of a coefficient after every step
MEAN = "/mean"  # ends the name of the mean over tensors, where each has a value of its own


class Control(Frozen):
    """What the coefficients do in place of learning.

    Attributes:
        kind: "final" is fixed at the last values of the other run; "walk" takes steps of the sizes
            that the other run took, with random signs; "path" goes from the first to the last
            values of the other run in a straight line.  Where the other run has a value for each
            tensor, all of them follow the mean over tensors.
        of: The key of the other run.
    """

    kind: Literal["final", "walk", "path"]
    of: str


Script = Callable[[int], Mapping[str, float]]
"""Returns the values of the coefficients for a step, from 1."""


def script_of(control: Control, learned: Result, program: Program, steps: int, seed: int) -> Script:
    """Returns the values that a control prescribes.

    Args:
        control: The control.
        learned: The result of the run that learned.
        program: The program of the rule, which has the bounds of the coefficients.
        steps: The steps of the run.
        seed: Decides the signs of a walk.

    Raises:
        ValueError: The run that the control follows has learned no coefficient.
    """
    values = _coefficients(learned)
    if not values:
        raise ValueError("the run that the control follows has learned no coefficient of its own")
    if control.kind == "final":
        return lambda _: {name: xs[-1] for name, xs in values.items()}
    if control.kind == "path":
        return lambda step: {
            name: xs[0] + (xs[-1] - xs[0]) * (step - 1) / max(1, steps - 1)
            for name, xs in values.items()
        }
    bounds = {how.hyper: how.bounds for how in program.learned}
    walks = {name: _walk(xs, bounds[name], f"{seed}/{name}") for name, xs in values.items()}
    for vector in program.simplexes:
        if walks.keys() >= set(vector.hypers):
            walks |= _normalized({name: walks[name] for name in vector.hypers})
    return lambda step: {name: xs[min(step, len(xs)) - 1] for name, xs in walks.items()}


def _coefficients(learned: Result) -> dict[str, tuple[float, ...]]:
    """Returns the values of coefficients after every step; of tensors, their mean."""
    series = learned.outcome.series
    named = {n.removeprefix(PREFIX): xs for n, xs in series.items() if n.startswith(PREFIX)}
    return {n.removesuffix(MEAN): xs for n, xs in named.items() if "/" not in n or MEAN in n}


def _walk(xs: tuple[float, ...], bounds: Interval, seed: str) -> list[float]:
    """Returns a walk with the same start and step sizes, kept in the bounds."""
    signs = random.Random(seed)
    walk = [xs[0]]
    for before, after in pairwise(xs):
        moved = walk[-1] + signs.choice((-1, 1)) * abs(after - before)
        walk.append(min(max(moved, bounds.lower), bounds.upper))
    return walk


def _normalized(walks: Mapping[str, Sequence[float]]) -> dict[str, list[float]]:
    """Returns walks of the components of a weight vector, divided by their sum."""
    sums = [sum(step) for step in zip(*walks.values(), strict=True)]
    equal = 1 / len(walks)
    return {
        name: [x / total if total else equal for x, total in zip(xs, sums, strict=True)]
        for name, xs in walks.items()
    }


def prescribe(optimizer: Optimizer, values: Mapping[str, float]) -> None:
    """Sets hyperparameters in all groups."""
    for group in optimizer.param_groups:
        group.update(values)
