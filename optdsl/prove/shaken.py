"""How far rounding may move the results of a run of matrices, as far as a few tries tell.

This stands in for an error analysis where there is none. The run is repeated with the results of
its operations changed at random in their last places, and so is what matrices are multiplied,
reduced and factorized from, as in Monte Carlo arithmetic (Parker, 1997). It bounds nothing, but a
result that stays where it is does not hang on rounding.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from optdsl.ir.evaluate import Tensor
from optdsl.ir.program import Program
from optdsl.ir.trajectories import Run, changed

# Results that differ by less than this, relative to how far the parameter moved, count as equal.
ALIKE = 1e-9
# By how much numbers are changed at most, relative to themselves: a few units in the last place.
SHAKEN = 2.0**-50
# What a sign of rounding errors decides comes out alike in one try of two, or fewer.
_TRIES = 16


def shaken(
    programs: Sequence[Program], run: Run, result: tuple[Tensor, Tensor], enough: float
) -> float:
    """How far the end of a run moves; infinite if numbers become none, or none numbers.

    Args:
        programs: take the steps; one for each kind of tensors.
        run: the run.
        result: its last parameter, and where the model is evaluated there, which may be left out.
        enough: a distance beyond which it does not matter how far.
    """
    source, largest = random.Random(0), 0.0

    def beside(x: float) -> float:
        return x * (1 + source.uniform(-1, 1) * SHAKEN)

    for _ in range(_TRIES):
        if largest >= enough:
            break
        moved = changed(programs, run, beside, points=bool(result[1]))
        for was, now in zip(sum(result, ()), sum(moved, ()), strict=True):
            if math.isfinite(was) != math.isfinite(now):
                return math.inf
            largest = max(largest, abs(was - now) if math.isfinite(was) else 0.0)
    return largest
