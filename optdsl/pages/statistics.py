"""Means, spreads and tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, stdev

import numpy as np


@dataclass(frozen=True)
class Paired:
    """The differences of pairs, and a test of whether their mean is zero.

    Attributes:
        mean: Their mean; NaN without pairs.
        deviation: Their standard deviation; NaN with fewer than two.
        count: How many there are.
        p: The two-sided p-value of Student's paired t-test; NaN where it is not defined.
    """

    mean: float
    deviation: float
    count: int
    p: float

    def __str__(self) -> str:
        """Says it in a cell of a table."""
        if not self.count:
            return "–"
        if self.count < 2:
            return f"{self.mean:+.2g}"
        test = f", p = {self.p:.2g}" if math.isfinite(self.p) else ""
        return f"{self.mean:+.2g} ± {self.deviation:.2g}{test}"


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired:
    """Compares pairs; a pair with a number that is not finite makes the mean NaN."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    count = len(differences)
    if not count or not all(map(math.isfinite, differences)):
        return Paired(math.nan, math.nan, count, math.nan)
    mean = fmean(differences)
    if count < 2:
        return Paired(mean, math.nan, count, math.nan)
    deviation = stdev(differences)
    if deviation == 0:
        return Paired(mean, 0.0, count, 1.0 if mean == 0 else 0.0)
    return Paired(mean, deviation, count, student_p(mean / deviation * count**0.5, count - 1))


def student_p(t: float, freedom: int) -> float:
    """Returns the two-sided p-value of a t statistic, by integrating Student's density."""
    # With x = tan(u) * sqrt(freedom) the density becomes a power of a cosine, on a finite interval.
    angle = math.atan2(abs(t), math.sqrt(freedom))
    grid = np.linspace(0.0, math.pi / 2, 20_001)
    density = np.cos(grid) ** (freedom - 1)
    total = float(np.trapezoid(density, grid))
    tail = grid >= angle
    points = np.concatenate([[angle], grid[tail]])
    values = np.cos(points) ** (freedom - 1)
    return float(np.trapezoid(values, points)) / total


def z_test(values: Sequence[float]) -> tuple[float, float]:
    """Tests whether a mean is zero: z, and its two-sided p-value by the normal distribution."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan, math.nan
    deviation = stdev(values)
    if deviation == 0:
        return math.nan, math.nan
    z = fmean(values) / deviation * len(values) ** 0.5
    return z, 2 * (1 - NormalDist().cdf(abs(z)))


def sign_test(more: int, fewer: int) -> float:
    """Returns the two-sided p-value that two outcomes are equally likely, by how often each was."""
    count = more + fewer
    tail = sum(math.comb(count, k) for k in range(max(more, fewer), count + 1))
    return min(1.0, 2 * tail * 0.5**count)


def spread(values: Sequence[float], digits: int = 4) -> str:
    """Returns mean and standard deviation in a cell of a table; "diverged" if one is not finite."""
    if not values:
        return "–"
    if not all(map(math.isfinite, values)):
        return "diverged"
    mean = f"{fmean(values):.{digits}g}"
    return mean if len(values) < 2 else f"{mean} ± {stdev(values):.2g}"


def slope(xs: Sequence[float], ys: Sequence[float]) -> float:
    """Returns the slope of the line of least squares through the logarithms."""
    known = [(math.log(x), math.log(y)) for x, y in zip(xs, ys, strict=True) if x > 0 and y > 0]
    if len(known) < 2:
        return math.nan
    points = np.array(known)
    return float(np.polyfit(points[:, 0], points[:, 1], 1)[0])
