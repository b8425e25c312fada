"""Weight vectors on the probability simplex: how a vector returns to it after a move."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from optdsl.ir.program import Value
from optdsl.learning.arithmetic import Arithmetic

# The least weight whose logarithm is taken. A weight of zero has none, and one far below this would
# have to grow for many steps before anything came of it; so a weight that starts in a corner, or
# was driven there, can return. To lift a weight this far takes next to nothing from the others.
FLOOR = 1e-4


def project(math: Arithmetic, point: Sequence[Value]) -> list[Value]:
    """The nearest point of the probability simplex {x >= 0, sum x = 1}, by Euclidean distance.

    It is max(x - threshold, 0), with the one threshold that makes the sum one (Held, Wolfe and
    Crowder, 1974, Validation of subgradient optimization; Duchi et al., ICML 2008, Efficient
    projections onto the l1-ball for learning in high dimensions).

    Args:
        math: writes the operations.
        point: finite numbers, one or more.

    Returns:
        Weights in [0, 1] that sum to one to within rounding. A point of the simplex, by its
        rounded sum, is returned to the bit.
    """
    emit, zero = math.builder.emit, math.number(0.0)
    # A number that is added to all changes nothing. With the largest at zero only numbers above
    # -1 matter, so that no sum overflows or loses the one to which the weights must sum.
    ordered = _descending(math, point)
    least, threshold = math.number(-1.0), math.number(-1.0)
    shifted, descending = (
        [emit("max", emit("sub", x, ordered[0]), least) for x in numbers]
        for numbers in (point, ordered)
    )
    for count, total in enumerate(math.sums(descending), 1):
        candidate = emit("div", emit("sub", total, math.number(1.0)), math.number(count))
        threshold = emit("max", threshold, candidate)
    nearest = [emit("max", emit("sub", x, threshold), zero) for x in shifted]
    inside = [emit("ge", x, zero) for x in point]
    inside += [emit("le", x, math.number(1.0)) for x in point]
    there = math.all([*inside, emit("eq", math.sum(ordered), math.number(1.0))])
    return [emit("where", there, x, y) for x, y in zip(point, nearest, strict=True)]


def _descending(math: Arithmetic, numbers: Sequence[Value]) -> list[Value]:
    """The numbers in descending order, by exchanges of neighbours."""
    found = list(numbers)
    for end in range(len(found) - 1, 0, -1):
        for k in range(end):
            x, y = found[k], found[k + 1]
            found[k], found[k + 1] = math.builder.emit("max", x, y), math.builder.emit("min", x, y)
    return found


def logarithms(math: Arithmetic, weights: Sequence[Value]) -> list[Value]:
    """The logarithms of weights in [0, 1], each lifted to `FLOOR` first."""
    emit = math.builder.emit
    return [emit("log", emit("max", w, math.number(FLOOR))) for w in weights]


def softmax(math: Arithmetic, logits: Sequence[Value]) -> list[Value]:
    """Weights in [0, 1] proportional to exp(logits), which sum to one to within rounding.

    After a step of plain gradient descent from `logarithms` these are w exp(-lr h) / Z, the
    exponentiated gradient (Kivinen and Warmuth, 1997, Exponentiated gradient versus gradient
    descent for linear predictors): mirror descent with the entropy.

    Args:
        math: writes the operations.
        logits: finite numbers, one or more.
    """
    emit = math.builder.emit
    # So that the largest power is 1 and none overflows.
    top = functools.reduce(lambda x, y: emit("max", x, y), logits)
    powers = [emit("exp", emit("sub", z, top)) for z in logits]
    total = math.sum(powers)
    return [emit("div", p, total) for p in powers]
