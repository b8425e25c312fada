"""Interval arithmetic: one function an operation, each an enclosure of its true range.

Open ends matter: that ``1 - beta^t`` is never zero rests on ``beta < 1``. They are those of
floating-point arithmetic: an end that rounding or underflow can reach is closed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

from optdsl.ir import host
from optdsl.ir.domain import ANYTHING, Interval

# A number that may be an open end: (value, open).
_End = tuple[float, bool]


def _ends(x: Interval) -> tuple[_End, _End]:
    return (x.lower, x.lower_open), (x.upper, x.upper_open)


def _around(ends: Iterable[_End]) -> Interval:
    """The smallest interval around some ends; where two coincide, a closed one wins."""
    found = list(ends)
    if any(math.isnan(v) for v, _ in found):
        return ANYTHING
    lower, upper = min(v for v, _ in found), max(v for v, _ in found)
    return Interval(
        lower,
        upper,
        all(o for v, o in found if v == lower),
        all(o for v, o in found if v == upper),
    )


def point(value: float) -> Interval:
    """The interval of one number."""
    return Interval(value, value)


def negate(x: Interval) -> Interval:
    """-x."""
    return Interval(-x.upper, -x.lower, x.upper_open, x.lower_open)


def add(x: Interval, y: Interval) -> Interval:
    """x + y."""
    lower, upper = x.lower + y.lower, x.upper + y.upper
    if math.isnan(lower) or math.isnan(upper):
        return ANYTHING
    # Rounding can reach an end, except zero: unequal numbers never cancel (gradual underflow).
    return Interval(
        lower,
        upper,
        lower == 0 and (x.lower_open or y.lower_open),
        upper == 0 and (x.upper_open or y.upper_open),
    )


def subtract(x: Interval, y: Interval) -> Interval:
    """x - y."""
    return add(x, negate(y))


def multiply(x: Interval, y: Interval) -> Interval:
    """x * y; an unbounded factor times zero is taken as zero, as its limit from inside is.

    Every end can be reached, by rounding or by underflow.
    """
    pairs = itertools.product((x.lower, x.upper), (y.lower, y.upper))
    return _around((0.0 if 0 in (a, b) else a * b, False) for a, b in pairs)


def excludes_zero(x: Interval) -> bool:
    """Whether zero is certainly not a value of `x`."""
    return 0.0 not in x


def divide(x: Interval, y: Interval) -> Interval:
    """x / y; anything, where y can be zero."""
    if not excludes_zero(y):
        return ANYTHING
    far = math.copysign(math.inf, y.lower + y.upper)
    return multiply(x, _around((far if v == 0 else 1 / v, False) for v in (y.lower, y.upper)))


def power(x: Interval, y: Interval) -> Interval:
    """x^y for non-negative x; squares of anything are non-negative."""
    if y.lower == y.upper == 2:
        return absolute(multiply(absolute(x), absolute(x)))
    if x.lower < 0 or y.lower < 0:
        return ANYTHING
    pairs = itertools.product((x.lower, x.upper), (y.lower, y.upper))
    values = [a if a in (0, 1) and math.isinf(b) else host.power(a, b) for a, b in pairs]
    # No power of at least 1 of a number below 1 rounds up to 1; every other end can be reached.
    below_one = x.upper == 1 and x.upper_open and y.lower >= 1
    return Interval(min(values), max(values), False, below_one)


def absolute(x: Interval) -> Interval:
    """|x|."""
    if x.lower >= 0:
        return x
    if x.upper <= 0:
        return negate(x)
    return _around([(0.0, False), (-x.lower, x.lower_open), (x.upper, x.upper_open)])


def square_root(x: Interval) -> Interval:
    """sqrt(x); non-negative whatever x is (NaN aside)."""
    lower, upper = (math.sqrt(max(end, 0.0)) for end in (x.lower, x.upper))
    return Interval(lower, upper, x.lower_open and x.lower >= 0)


def exponential(x: Interval) -> Interval:
    """exp(x); rounding can reach its ends."""
    return Interval(host.exponential(x.lower), host.exponential(x.upper))


def logarithm(x: Interval) -> Interval:
    """log(x); anything, where x can be negative. Rounding can reach its ends."""
    if x.lower < 0:
        return ANYTHING
    return Interval(host.logarithm(x.lower), host.logarithm(x.upper))


def floor(x: Interval) -> Interval:
    """The largest whole number up to x; below an open end, that of the number before it."""
    below = math.nextafter(x.upper, -math.inf) if x.upper_open and x.upper < math.inf else x.upper
    upper_open = x.upper_open and x.upper == math.inf
    lower_open = x.lower_open and x.lower == -math.inf
    return Interval(host.floored(x.lower), host.floored(below), lower_open, upper_open)


def sign(x: Interval) -> Interval:
    """-1, 0 or 1."""
    return Interval(
        -1.0 if x.lower < 0 else 1.0 if x.lower > 0 or x.lower_open else 0.0,
        1.0 if x.upper > 0 else -1.0 if x.upper < 0 or x.upper_open else 0.0,
    )


def maximum(x: Interval, y: Interval) -> Interval:
    """max(x, y)."""
    return negate(minimum(negate(x), negate(y)))


def minimum(x: Interval, y: Interval) -> Interval:
    """min(x, y)."""
    lower, lower_open = min((x.lower, x.lower_open), (y.lower, y.lower_open))
    upper, not_open = min((x.upper, not x.upper_open), (y.upper, not y.upper_open))
    return Interval(lower, upper, lower_open, not not_open)


def union(x: Interval, y: Interval) -> Interval:
    """The smallest interval around both."""
    return _around([*_ends(x), *_ends(y)])
