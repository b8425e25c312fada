"""Runs of two programs side by side, in double precision, in search of a difference."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from optdsl.ir.domain import Choice, Domain, hull
from optdsl.ir.evaluate import Run, Tensor, trajectory
from optdsl.ir.program import Hyper, Program

RUNS = 24
STEPS = 10
# Rounding, through as many steps, stays far below; what is another rule does not.
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Counterexample:
    """A run after which two programs differ.

    Attributes:
        run: the run, as short as it can be.
        left: the parameter that the specification ends with.
        right: the parameter that the rule ends with.
    """

    run: Run
    left: Tensor
    right: Tensor


def counterexample(
    left: Program,
    right: Program,
    settings: Mapping[str, float],
    valid: Callable[[Mapping[str, float]], bool] = lambda hypers: True,
) -> tuple[Counterexample | None, int]:
    """A run in which two programs part by more than `TOLERANCE`, absolute and relative.

    None when they agree in all runs, of `RUNS` those that are valid; and how many were made.

    Args:
        left: a program.
        right: another one over the same hyperparameters.
        settings: those that have a given value; others are as by default at first, then random.
        valid: whether hyperparameters are ones that both programs may have.
    """
    made = 0
    for run in _runs(left, settings):
        if not valid(dict(run.hypers)):
            continue
        made += 1
        pairs = zip(trajectory(left, run), trajectory(right, run), strict=True)
        for step, (x, y) in enumerate(pairs, start=1):
            if any(_apart(a, b) for a, b in zip(x, y, strict=True)):
                shortened = Run(run.hypers, run.theta, run.gradients[:step])
                return Counterexample(shortened, x, y), made
            if not all(map(math.isfinite, (*x, *y))):
                break  # nothing that comes after tells anything
    return None, made


def _apart(a: float, b: float) -> bool:
    """As `torch.testing.assert_close` judges, with the tolerance for both."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return not (a == b or (math.isnan(a) and math.isnan(b)))
    return abs(a - b) > TOLERANCE * (1 + max(abs(a), abs(b)))


def _runs(program: Program, settings: Mapping[str, float]) -> Iterator[Run]:
    """The same runs every time: simple ones first, then others of many scales."""
    source = random.Random(0)
    for index in range(RUNS):
        hypers = _hypers(program, source, index) | dict(settings)
        elements = 1 if index < RUNS // 3 else 3
        scale = (1.0, 1.0, 1e-4, 1e3)[index % 4]
        theta = tuple(_drawn(source, 1.0) for _ in range(elements))
        gradients = tuple(
            tuple(_drawn(source, scale) for _ in range(elements)) for _ in range(STEPS)
        )
        if index % 4 == 3:  # an element that has no gradient at first
            gradients = ((0.0, *gradients[0][1:]), *gradients[1:])
        yield Run(tuple(hypers.items()), theta, gradients)


def _drawn(source: random.Random, scale: float) -> float:
    """A number with few digits, for readers."""
    return float(f"{source.gauss(0, scale):.2g}")


def _hypers(program: Program, source: random.Random, index: int) -> dict[str, float]:
    found = {h.name: h.default if index < 2 else _random(h, source) for h in program.hypers}
    for simplex in program.simplexes if index >= 2 else ():
        weights = [source.expovariate(1) for _ in simplex.hypers]
        found |= {h: w / sum(weights) for h, w in zip(simplex.hypers, weights, strict=True)}
    return found


def _random(hyper: Hyper, source: random.Random) -> float:
    domain: Domain = hyper.domain
    if isinstance(domain, Choice):
        return source.choice(domain.values)
    bounds = hull(domain)
    if math.isinf(bounds.upper - bounds.lower):
        drawn = (hyper.default or 0.1) * source.uniform(0.3, 3)
        return drawn if drawn in domain else hyper.default
    width = bounds.upper - bounds.lower
    drawn = bounds.lower + width * source.uniform(0.02, 0.98)
    # With few digits, for readers, where few are enough.
    shortened = (float(f"{drawn:.{digits}g}") for digits in range(2, 18))
    close = (x for x in shortened if x in domain and abs(x - drawn) < 0.02 * width)
    return next(close, hyper.default)
