"""How far the results of a run move if everything that is given moves a little.

This stands in for an error analysis where there is none, for matrices: rounding moves a result by
about as much as a change of what it is computed from in the last places. Here the change is larger,
`SHAKEN`, to cover what many operations add up. It bounds nothing, but a result that it leaves where
it is does not hang on rounding.
"""

from __future__ import annotations

import math
import random
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.evaluate import Run, Tensor, trajectory
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.rewrite import rewrite

# Results that differ by less than this, relative to how far the parameter moved, count as equal.
ALIKE = 1e-9
# By how much numbers are changed, relative to themselves.
SHAKEN = 2.0**-40
# What a sign of rounding errors decides comes out alike in one try of two, or fewer.
_TRIES = 16


def shaken(program: Program, run: Run, result: Tensor, enough: float) -> float:
    """How far the last parameter of a run moves; infinite if numbers become none, or none numbers.

    Args:
        program: takes the steps.
        run: the run.
        result: its last parameter.
        enough: a distance beyond which it does not matter how far.
    """
    source = random.Random(0)

    def beside(x: float) -> float:
        return x * (1 + source.choice((-1, 1)) * source.uniform(0.5, 1) * SHAKEN)

    def hyper(name: str, x: float) -> float:
        domain = program.hyper(name).domain
        moved = (beside(x), x * (1 + SHAKEN), x * (1 - SHAKEN))
        return x if domain.discrete else next((m for m in moved if m in domain), x)

    def literal(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        number = operation.attribute
        if operation.opcode != "constant" or not isinstance(number, float) or _binary(number):
            return None
        return builder.constant(beside(number))

    largest = 0.0
    for _ in range(_TRIES):
        if largest >= enough:
            break
        other = replace(
            run,
            hypers=tuple((name, hyper(name, x)) for name, x in run.hypers),
            theta=tuple(map(beside, run.theta)),
            gradients=tuple(tuple(map(beside, g)) for g in run.gradients),
        )
        moved = rewrite(program, literal)
        for was, now in zip(result, trajectory(moved, other)[-1], strict=True):
            if math.isfinite(was) != math.isfinite(now):
                return math.inf
            largest = max(largest, abs(was - now) if math.isfinite(was) else 0.0)
    return largest


def _binary(number: float) -> bool:
    """Whether a literal is a number that double precision has, such as 2 or 0.25, or infinite."""
    return not math.isfinite(number) or (number * 1024).is_integer()
