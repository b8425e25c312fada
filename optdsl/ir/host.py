"""The operations on single Python floats, with the results of IEEE 754 where Python raises.

Each function stands on its own: emitted Python code carries a copy of those that it calls.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence


def divide(x: float, y: float) -> float:
    """x / y; infinite or NaN where Python raises."""
    if y != 0:
        return x / y
    return math.nan if x == 0 or x != x else math.copysign(math.inf, x) * math.copysign(1, y)


def power(x: float, y: float) -> float:
    """x ** y; infinite or NaN where Python raises; powers of 1/2 and -1/2 are roots."""
    if abs(y) == 0.5:
        root = math.nan if x < 0 else math.sqrt(x)
        return root if y > 0 else 1 / root if root != 0 else math.copysign(math.inf, root)
    try:
        return math.pow(x, y)
    except (OverflowError, ValueError):
        if x < 0 and y != math.floor(y):
            return math.nan
        return math.copysign(math.inf, x) if y % 2 == 1 else math.inf


def square_root(x: float) -> float:
    """sqrt(x); NaN where Python raises."""
    return math.nan if x < 0 else math.sqrt(x)


def exponential(x: float) -> float:
    """exp(x); infinite where Python raises."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def logarithm(x: float) -> float:
    """log(x); minus infinity at 0, NaN below, where Python raises."""
    return math.nan if x < 0 else -math.inf if x == 0 else math.log(x)


def floored(x: float) -> float:
    """The largest whole number up to x; zeros keep their signs, and so do infinities and NaN."""
    return float(math.floor(x)) if math.isfinite(x) and x != 0 else x


def cosine(x: float) -> float:
    """cos(x); NaN where Python raises."""
    return math.cos(x) if math.isfinite(x) else math.nan


def sine(x: float) -> float:
    """sin(x); NaN where Python raises."""
    return math.sin(x) if math.isfinite(x) else math.nan


def signum(x: float) -> float:
    """-1, 0 or 1; NaN stays NaN."""
    return x if x != x else float((x > 0) - (x < 0))


def maximum(x: float, y: float) -> float:
    """The larger; NaN if either is."""
    return x if x > y or x != x else y


def minimum(x: float, y: float) -> float:
    """The smaller; NaN if either is."""
    return x if x < y or x != x else y


def mixed(*parts: float) -> float:
    """The mean of x, y, ... by weights, from w, x, v, y, ...; no weight, no part."""
    total, mean = 0.0, parts[1]
    for weight, x in zip(parts[0::2], parts[1::2], strict=True):
        if weight != 0:
            total += weight
            share, gap = weight / total, mean - x
            if share == 1:
                mean = x
            else:
                finite = math.isfinite(gap)
                mean = mean - share * gap if finite else (1 - share) * mean + share * x
    return mean


def total(numbers: Sequence[float]) -> float:
    """The sum, rounded once; infinite where it overflows."""
    endless = [x for x in numbers if not math.isfinite(x)]
    try:
        return sum(endless) if endless else math.fsum(numbers)
    except OverflowError:
        return sum(numbers)


def total_of_all(numbers: Sequence[float] | float) -> float:
    """The sum over all tensors, of which there is one here."""
    return numbers if isinstance(numbers, float) else total(numbers)


def largest_of_all(numbers: Sequence[float] | float) -> float:
    """The largest number of all tensors, of which there is one here."""
    return numbers if isinstance(numbers, float) else functools.reduce(maximum, numbers)


def average(numbers: Sequence[float]) -> float:
    """The arithmetic mean."""
    return total(numbers) / len(numbers)
