"""Floating-point numbers with bounds on their rounding errors.

This is a running error analysis (Wilkinson, 1963; Higham, Accuracy and Stability of Numerical
Algorithms, section 3.3): the bound of a result comes from the bounds of the arguments and from the
rounding of the operation. Infinities and NaN have no bound, since overflow and undefined operations
are not rounding.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from optdsl.ir import host
from optdsl.ir.ops import APPLY, COMPARE, TABLE

_UNIT = 2.0**-53
_TINY = 5e-324
# A function of the mathematical library is right to a few units in the last place.
_LIBRARY = 4 * _UNIT


@dataclass(frozen=True, slots=True)
class Bounded:
    """A number in double precision and a bound on its error.

    Attributes:
        value: the number.
        error: a bound on its distance from the result of the same operations on real numbers;
            infinite if the analysis finds none.
        given: whether it is an input or a literal, whose comparisons rounding does not affect.
    """

    value: float
    error: float = 0.0
    given: bool = False


def literal(number: float) -> Bounded:
    """A literal, which stands for the decimal number that is written."""
    if not math.isfinite(number):
        return Bounded(number)
    distance = abs(Fraction(repr(number)) - Fraction(number))
    return Bounded(number, math.nextafter(float(distance), math.inf) if distance else 0.0, True)


def exact(number: float) -> Bounded:
    """A number without error."""
    return Bounded(number, 0.0, True)


def _rounded(value: float, error: float, unit: float = _UNIT) -> Bounded:
    if not math.isfinite(value):
        return Bounded(value)
    total = error + unit * abs(value) + _TINY
    return Bounded(value, total if total == total else math.inf)


def _add(x: Bounded, y: Bounded) -> Bounded:
    value = x.value + y.value
    if not math.isfinite(value):
        return Bounded(value)
    # The exact rounding error of a sum (Knuth, 1969).
    part = value - x.value
    lost = abs((x.value - (value - part)) + (y.value - part))
    return Bounded(value, x.error + y.error + lost)


def _subtract(x: Bounded, y: Bounded) -> Bounded:
    if x is y:
        # x - x is exactly zero, however x was rounded.
        return Bounded(x.value - y.value)
    return _add(x, Bounded(-y.value, y.error))


def _times(x: float, error: float) -> float:
    """|x| * error; zero if one of both is zero, even if the other one is infinite."""
    return abs(x) * error if error and x else 0.0


def _multiply(x: Bounded, y: Bounded) -> Bounded:
    error = _times(x.value, y.error) + _times(y.value, x.error) + _times(x.error, y.error)
    value = x.value * y.value
    if not math.isfinite(value):
        return Bounded(value)
    simple = 0.0 in (x.value, y.value) or abs(x.value) == 1 or abs(y.value) == 1
    whole = abs(value) < 2.0**53 and x.value.is_integer() and y.value.is_integer()
    return Bounded(value, error) if simple or whole else _rounded(value, error)


def _divide(x: Bounded, y: Bounded) -> Bounded:
    value = host.divide(x.value, y.value)
    if not math.isfinite(value):
        return Bounded(value)
    if y.error and not abs(y.value) > y.error:
        return Bounded(value, math.inf)
    whole = math.isfinite(y.value) and math.fmod(x.value, y.value) == 0 and abs(value) < 2.0**53
    if not x.error and (x.value == 0 or (whole and not y.error)):
        return Bounded(value)
    error = (x.error + _times(value, y.error)) / (abs(y.value) - y.error)
    return _rounded(value, error)


def _power(x: Bounded, y: Bounded) -> Bounded:
    value = host.power(x.value, y.value)
    if not math.isfinite(value) or (y.value == 0 and not y.error):
        return Bounded(value)
    if not x.error and not y.error:
        return _rounded(value, 0.0, _LIBRARY) if value else Bounded(value, _TINY)
    if not abs(x.value) > x.error or (x.value < 0 and y.error):
        small = (abs(x.value) + x.error) ** y.value if not y.error and y.value >= 1 else math.inf
        return Bounded(value, small + abs(value))
    relative = abs(y.value) * -math.log1p(-x.error / abs(x.value))
    relative += _times(abs(math.log(abs(x.value))) + 1.0, y.error)
    return _rounded(value, abs(value) * _expm1(relative), _LIBRARY)


def _expm1(x: float) -> float:
    return math.expm1(x) if x < 700 else math.inf


def _root(x: Bounded) -> Bounded:
    value = host.square_root(x.value)
    if not math.isfinite(value) or (x.value == 0 and not x.error):
        return Bounded(value)
    if not x.value > x.error:
        return Bounded(value, math.inf)
    return _rounded(value, x.error / value)


def _exponential(x: Bounded) -> Bounded:
    value = host.exponential(x.value)
    return _rounded(value, value * _expm1(x.error) if x.error else 0.0, _LIBRARY)


def _logarithm(x: Bounded) -> Bounded:
    value = host.logarithm(x.value)
    if math.isfinite(value) and x.error and not x.value > x.error:
        return Bounded(value, math.inf)
    return _rounded(value, x.error / (x.value - x.error) if x.error else 0.0, _LIBRARY)


def _sign(x: Bounded) -> Bounded:
    decided = not x.error or abs(x.value) > x.error
    return Bounded(host.signum(x.value), 0.0 if decided else 2.0)


def _floor(x: Bounded) -> Bounded:
    value = host.floored(x.value)
    if not x.error or not math.isfinite(value):
        return Bounded(value)
    lower = host.floored(math.nextafter(x.value - x.error, -math.inf))
    upper = host.floored(math.nextafter(x.value + x.error, math.inf))
    return Bounded(value, max(value - lower, upper - value))


def _lipschitz(function: Callable[..., float]) -> Callable[..., Bounded]:
    """A function that is exact, and changes by no more than its arguments do."""

    def applied(*x: Bounded) -> Bounded:
        return Bounded(function(*(a.value for a in x)), max(a.error for a in x))

    return applied


_larger = _lipschitz(host.maximum)


def _largest(x: Sequence[Bounded]) -> Bounded:
    return functools.reduce(_larger, x)


def _mixed(*parts: Bounded) -> Bounded:
    value = host.mixed(*(a.value for a in parts))
    weights, x = parts[0::2], parts[1::2]
    used = [(w, a) for w, a in zip(weights, x, strict=True) if w.value or w.error]
    total = abs(math.fsum(w.value for w, _ in used))
    if not math.isfinite(value) or not used:
        return Bounded(value)
    if not total:
        return Bounded(value, math.inf)
    error = sum(_times(w.value, a.error) + _times(a.value - value, w.error) for w, a in used)
    size = max(abs(a.value) for _, a in used)
    return _rounded(value, error / total + 4 * len(used) * _UNIT * size if len(used) > 1 else error)


def _compared(opcode: str) -> Callable[[Bounded, Bounded], Bounded]:
    compare = COMPARE[opcode]

    def applied(x: Bounded, y: Bounded) -> Bounded:
        value = float(compare(x.value, y.value))
        error = x.error + y.error
        decided = not error or (x.given and y.given) or not math.isfinite(x.value - y.value)
        return Bounded(value, 0.0 if decided or abs(x.value - y.value) > error else 1.0)

    return applied


def _computed(function: Callable[..., float]) -> Callable[..., Bounded]:
    """A comparison or a sign, taken to be exact."""
    return lambda *x: Bounded(float(function(*(a.value for a in x))))


def _where(condition: Bounded, x: Bounded, y: Bounded) -> Bounded:
    chosen, other = (x, y) if condition.value else (y, x)
    if not condition.error:
        return chosen
    gap = abs(chosen.value - other.value)
    error = gap + max(x.error, y.error) if math.isfinite(gap) else math.inf
    return Bounded(chosen.value, error)


def _sum(x: Sequence[Bounded]) -> Bounded:
    value = host.total([a.value for a in x])
    size = sum(abs(a.value) for a in x)
    if size < 2.0**20 and all(not a.error and (a.value * 2.0**30).is_integer() for a in x):
        # Such a sum is exact in any order.
        return Bounded(value)
    return _rounded(value, sum(a.error for a in x) + len(x) * _UNIT * size)


def _unknown(function: Callable[..., float]) -> Callable[..., Bounded]:
    """Any other function, which libraries compute to a few units in the last place."""

    def bounded(*x: Bounded) -> Bounded:
        explained = 0.0 if all(a.error == 0 for a in x) else math.inf
        return _rounded(function(*(a.value for a in x)), explained, _LIBRARY)

    return bounded


# A reduction takes a sequence of numbers.
FUNCTIONS: dict[str, Callable[..., Bounded]] = {
    **{opcode: _unknown(function) for opcode, function in APPLY.items()},
    "define": lambda x: x,
    "stop_gradient": lambda x: x,
    "neg": _lipschitz(operator.neg),
    "add": _add,
    "sub": _subtract,
    "mul": _multiply,
    "div": _divide,
    "pow": _power,
    "mix": _mixed,
    "sqrt": _root,
    "exp": _exponential,
    "log": _logarithm,
    "tanh": lambda x: _rounded(math.tanh(x.value), x.error, _LIBRARY),
    "cos": lambda x: _rounded(host.cosine(x.value), x.error, _LIBRARY),
    "sin": lambda x: _rounded(host.sine(x.value), x.error, _LIBRARY),
    "floor": _floor,
    "abs": _lipschitz(abs),
    "sign": _sign,
    "max": _lipschitz(host.maximum),
    "min": _lipschitz(host.minimum),
    **{opcode: _compared(opcode) for opcode in COMPARE},
    "where": _where,
    "sum": _sum,
    "max_matrix": lambda x: _largest(x),
    "min_matrix": functools.partial(functools.reduce, _lipschitz(host.minimum)),
    # Over all tensors, of which there is one here.
    "sum_all": lambda x: x if isinstance(x, Bounded) else _sum(x),
    "max_all": lambda x: x if isinstance(x, Bounded) else _largest(x),
    "mean": lambda x: _divide(_sum(x), exact(float(len(x)))),
}
# The same functions, except that conditions and signs are taken to be exact.
TRUSTING: dict[str, Callable[..., Bounded]] = {
    **FUNCTIONS,
    **{r.opcode: _computed(r.apply) for r in TABLE.values() if r.laws.jumps and r.apply},
}
