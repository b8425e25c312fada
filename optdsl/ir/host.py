"""The operations on single Python floats, with the results of IEEE 754 where Python raises."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable


def divide(x: float, y: float) -> float:
    """x / y; infinite or NaN where Python raises."""
    try:
        return x / y
    except ZeroDivisionError:
        return math.nan if x == 0 or math.isnan(x) else math.copysign(math.inf, x) * _sign_of(y)


def _sign_of(zero: float) -> float:
    return math.copysign(1.0, zero)


def power(x: float, y: float) -> float:
    """x^y; infinite or NaN where Python raises or leaves the real numbers."""
    try:
        return math.pow(x, y)
    except OverflowError:
        odd = y == math.floor(y) and y % 2 == 1
        return -math.inf if x < 0 and odd else math.inf
    except ValueError:
        # 0^negative is infinite, negative^fraction is no real number.
        odd = y == math.floor(y) and y % 2 == 1
        return math.nan if x != 0 else math.copysign(math.inf, x) if odd else math.inf


def square_root(x: float) -> float:
    """sqrt(x); NaN for a negative x."""
    return math.nan if x < 0 else math.sqrt(x)


def exponential(x: float) -> float:
    """exp(x); infinite beyond the range of doubles."""
    try:
        return math.exp(x)
    except OverflowError:
        return math.inf


def logarithm(x: float) -> float:
    """log(x); minus infinity at 0, NaN below."""
    return math.nan if x < 0 else -math.inf if x == 0 else math.log(x)


def sign(x: float) -> float:
    """-1, 0 or 1; NaN stays NaN."""
    return x if math.isnan(x) else float((x > 0) - (x < 0))


def maximum(x: float, y: float) -> float:
    """The larger; NaN if either is."""
    return x if x > y or math.isnan(x) else y


def minimum(x: float, y: float) -> float:
    """The smaller; NaN if either is."""
    return x if x < y or math.isnan(x) else y


APPLY: dict[str, Callable[..., float]] = {
    "define": lambda x: x,
    "stop_gradient": lambda x: x,
    "neg": operator.neg,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": divide,
    "pow": power,
    "sqrt": square_root,
    "exp": exponential,
    "log": logarithm,
    "tanh": math.tanh,
    "abs": abs,
    "sign": sign,
    "max": maximum,
    "min": minimum,
}
