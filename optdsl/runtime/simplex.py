"""Weight vectors on the probability simplex: how a vector returns to it after a move.

All of it is arithmetic on Python floats.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

# The least weight whose logarithm is taken. A weight of zero has none, and one far below this would
# have to grow for many steps before anything came of it; so a weight that starts in a corner, or
# was driven there, can return. To lift a weight this far takes next to nothing from the others.
FLOOR = 1e-4


def project(point: Sequence[float]) -> list[float]:
    """The nearest point of the probability simplex {x >= 0, sum x = 1}, by Euclidean distance.

    It is max(x - threshold, 0), with the one threshold that makes the sum one (Held, Wolfe and
    Crowder, 1974, Validation of subgradient optimization; Duchi et al., ICML 2008, Efficient
    projections onto the l1-ball for learning in high dimensions).

    Args:
        point: finite numbers, one or more.

    Returns:
        Weights in [0, 1] that sum to one to within rounding. A point of the simplex, by its
        rounded sum, is returned to the bit.
    """
    if all(0 <= x <= 1 for x in point) and math.fsum(point) == 1:
        return list(point)
    # A number that is added to all changes nothing. With the largest at zero only numbers above
    # -1 matter, so that no sum overflows or loses the one to which the weights must sum.
    top = max(point)
    shifted = [x - top for x in point]
    ordered = sorted(shifted, reverse=True)
    threshold = -1.0
    for count, total in enumerate(itertools.accumulate(ordered), 1):
        candidate = (total - 1) / count
        if ordered[count - 1] <= candidate:
            break
        threshold = candidate
    return [max(x - threshold, 0.0) for x in shifted]


def logarithms(weights: Sequence[float]) -> list[float]:
    """The logarithms of weights in [0, 1], each lifted to `FLOOR` first."""
    return [math.log(max(w, FLOOR)) for w in weights]


def softmax(logits: Sequence[float]) -> list[float]:
    """Weights in [0, 1] proportional to exp(logits), which sum to one to within rounding.

    After a step of plain gradient descent from `logarithms` these are w exp(-lr h) / Z, the
    exponentiated gradient (Kivinen and Warmuth, 1997, Exponentiated gradient versus gradient
    descent for linear predictors): mirror descent with the entropy.

    Args:
        logits: finite numbers, one or more.
    """
    top = max(logits)  # so that the largest power is 1 and none overflows
    powers = [math.exp(z - top) for z in logits]
    total = math.fsum(powers)
    return [p / total for p in powers]
