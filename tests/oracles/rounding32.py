"""How far rounding may carry a program from its exact values: running error analysis.

Every value has a radius, a bound of the error that it may have by then: what its arguments bring
along, and the roundings of the operation itself. A faithful evaluation in float32, in whatever way
its operations are fused, is within the radius; where a comparison is closer than the error of its
sides, both outcomes are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import UNIFORM, Extent

# The largest relative error of one rounding.
SINGLE, DOUBLE = 2.0**-24, 2.0**-53
# How many of them an operation may make. Functions of a good library are within one unit in the
# last place, which is two, and a product with a reciprocal is within three; sums in blocks are
# within so many of the sum of the magnitudes.
_RESULT, _SUM = 4.0, 32.0
# The smallest numbers: an error that subnormal results may have.
_FLOORS = {SINGLE: 2.0**-149, DOUBLE: 2.0**-1074}

Limits = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Near:
    """A number in float64, or a condition, and how far off float32 may be.

    For a condition the radius is 1 where it may as well be the other way, and 0 elsewhere.
    """

    value: Tensor
    radius: Tensor

    @classmethod
    def exactly(cls, value: Any) -> Near:
        exact = torch.as_tensor(value, dtype=torch.float64)
        return cls(exact, torch.zeros_like(exact))

    def rounded(self, unit: float, times: float = 1.0) -> Near:
        """With some more relative errors; zeros stay what they are."""
        size = self.value.abs()
        own = times * (unit * (size + self.radius) + _FLOORS[unit])
        own = torch.where(size > 0, own, 0.0)
        return Near(self.value, self.radius + own)

    @property
    def limits(self) -> Limits:
        return self.value - self.radius, self.value + self.radius


def _away(value: Tensor, candidates: list[Tensor]) -> Tensor:
    """The largest distance; what is no number there is infinitely far."""
    distances = [torch.where(c == value, 0.0, (c - value).abs()) for c in candidates]
    return torch.stack(torch.broadcast_tensors(*distances)).amax(0).nan_to_num(torch.inf, torch.inf)


def _corners(f: Callable[..., Tensor], *x: Near) -> Near:
    """Of a function that is monotonous in each of its arguments."""
    value = f(*(a.value for a in x))
    points = [[]]
    for a in x:
        points = [[*p, end] for p in points for end in a.limits]
    return Near(value, _away(value, [f(*p) for p in points]))


def _sqrt(x: Near) -> Near:
    # What is not negative exactly does not become so by rounding.
    low = torch.where(x.value >= 0, x.limits[0].clamp_min(0), x.limits[0])
    value = x.value.sqrt()
    return Near(value, _away(value, [low.sqrt(), x.limits[1].sqrt()]))


def _mul(unit: float, x: Near, y: Near) -> Near:
    crossed = x.value.abs() * y.radius + y.value.abs() * x.radius + x.radius * y.radius
    value = x.value * y.value
    # What is too small for a result of its own is not too small in a fused sum.
    vanished = (value == 0) & (x.value != 0) & (y.value != 0)
    return Near(value, crossed + torch.where(vanished, _FLOORS[unit], 0.0))


def _div(x: Near, y: Near) -> Near:
    value = x.value / y.value
    room = y.value.abs() - y.radius
    radius = (x.radius + value.abs() * y.radius) / room
    radius = torch.where((room <= 0) & ((x.radius > 0) | (y.radius > 0)), torch.inf, radius)
    return Near(value, torch.where((x.radius == 0) & (y.radius == 0), 0.0, radius))


def _abs(x: Near) -> Near:
    return Near(x.value.abs(), x.radius)


def _sign(x: Near) -> Near:
    doubtful = (x.radius > 0) & (x.value.abs() <= x.radius)
    return Near(torch.sign(x.value), 2.0 * doubtful)


def _pow(x: Near, y: Near) -> Near:
    exponent = y.value.item() if y.value.ndim == 0 else y.value
    if isinstance(exponent, float) and not bool(y.radius):
        around_zero = (x.limits[0] < 0) & (x.limits[1] > 0)
        low = torch.where(around_zero & (x.value >= 0) & (exponent % 1 != 0), 0.0, x.limits[0])
        value = torch.pow(x.value, exponent)
        ends = [torch.pow(low, exponent), torch.pow(x.limits[1], exponent)]
        if exponent > 0:
            ends.append(torch.where(around_zero, 0.0, value))
        return Near(value, _away(value, ends))
    return _corners(torch.pow, x, y)


def _limit(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Near, Near], Near]:
    return lambda x, y: Near(f(x.value, y.value), torch.maximum(x.radius, y.radius))


def _compare(f: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Near, Near], Near]:
    def compared(x: Near, y: Near) -> Near:
        room = x.radius + y.radius
        doubtful = (room > 0) & ((x.value - y.value).abs() <= room)
        return Near(f(x.value, y.value), doubtful.double())

    return compared


def _where(condition: Near, x: Near, y: Near) -> Near:
    value = torch.where(condition.value, x.value, y.value)
    sure = torch.where(condition.value, x.radius, y.radius)
    either = (x.value - y.value).abs() + torch.maximum(x.radius, y.radius)
    return Near(value, torch.where(condition.radius > 0, either, sure))


def _mix(unit: float, *pairs: Near) -> Near:
    """A mean by weights that are exact, one part after the other."""
    total, mean = torch.zeros((), dtype=torch.float64), pairs[1]
    for weight, x in zip(pairs[0::2], pairs[1::2], strict=True):
        total = total + weight.value
        share = torch.where(weight.value == 0, 0.0, weight.value / total)
        moved = torch.where(share == 1, x.value, mean.value - share * (mean.value - x.value))
        # Infinities have no difference, but they have a mean.
        apart = (1 - share) * mean.value + share * x.value
        moved = torch.where((mean.value - x.value).isfinite() | (share == 1), moved, apart)
        value = torch.where(share == 0, mean.value, moved)
        brought = (1 - share) * mean.radius + share * x.radius
        size = torch.maximum(mean.value.abs(), x.value.abs())
        own = torch.where((share == 0) | (share == 1), 0.0, 2 * _RESULT * unit * size)
        mean = Near(value, brought + own)
    return mean


def _reduced(f: Callable[[Tensor], Tensor]) -> Callable[[float, Near], Near]:
    return lambda unit, x: Near(f(x.value), f(x.radius) + _SUM * unit * f(x.value.abs()))


_APPLY: dict[str, Callable[..., Near]] = {
    "define": lambda x: x,
    "stop_gradient": lambda x: x,
    "neg": lambda x: Near(-x.value, x.radius),
    "add": lambda x, y: Near(x.value + y.value, x.radius + y.radius),
    "sub": lambda x, y: Near(x.value - y.value, x.radius + y.radius),
    "mul": _mul,
    "div": _div,
    "pow": _pow,
    "mix": _mix,
    "sqrt": _sqrt,
    "exp": lambda x: _corners(torch.exp, x),
    "log": lambda x: _corners(torch.log, x),
    "tanh": lambda x: _corners(torch.tanh, x),
    # Their slopes are at most one, and so are their magnitudes.
    "cos": lambda x: Near(torch.cos(x.value), x.radius.clamp_max(2)),
    "sin": lambda x: Near(torch.sin(x.value), x.radius.clamp_max(2)),
    "floor": lambda x: _corners(torch.floor, x),
    "abs": _abs,
    "sign": _sign,
    "max": _limit(torch.maximum),
    "min": _limit(torch.minimum),
    "where": _where,
    "lt": _compare(torch.lt),
    "le": _compare(torch.le),
    "gt": _compare(torch.gt),
    "ge": _compare(torch.ge),
    "eq": _compare(torch.eq),
    "ne": _compare(torch.ne),
    "sum": _reduced(torch.sum),
    "mean": _reduced(torch.mean),
}
_OWN = frozenset({"mul", "mix", "sum", "mean"})
# These choose among numbers, or change a sign, and round nothing.
_EXACT = frozenset(
    {"define", "stop_gradient", "neg", "abs", "sign", "floor", "max", "min", "where"}
)


def _short(x: Tensor) -> bool:
    """Whether a number is the same in float32."""
    return bool(x.float().double() == x)


def evaluate(
    program: Program,
    roots: tuple[Value, ...],
    theta: Near,
    g: Tensor,
    state: Mapping[str, Near],
    hypers: Mapping[str, float],
    t: int,
    unit: float,
) -> dict[Value, Near]:
    """Values of a program with their radii.

    Args:
        program, roots, theta, g, state, hypers, t: as of the interpreter.
        unit: `SINGLE` or `DOUBLE`, for elements and numbers of a tensor; uniform values are
            always calculated in double precision.
    """

    def leaf(operation: Operation) -> Near:
        match operation.opcode:
            case "constant":
                return Near.exactly(operation.attribute)
            case "hyper":
                return Near.exactly(hypers[str(operation.attribute)])
            case "step":
                return Near.exactly(t)
            case "gradient":
                return Near.exactly(g)
            case "parameter":
                return theta
            case "size":
                return Near.exactly(g.numel())
            case _:
                return state[str(operation.attribute)]

    found: dict[Value, Near] = {}
    for value in program.needed(roots):
        operation = program.operations[value]
        if not operation.arguments:
            found[value] = leaf(operation)
            continue
        uniform = operation.type.extent is Extent.UNIFORM
        arguments = [found[a] for a in operation.arguments]
        if not uniform and operation.opcode != "mix":
            arguments = [
                x.rounded(unit) if program.type(a) == UNIFORM and not _short(x.value) else x
                for a, x in zip(operation.arguments, arguments, strict=True)
            ]
        if operation.opcode == "sub" and len(set(operation.arguments)) == 1:
            # Zero, or NaN, whatever the error of the number is that is taken from itself.
            found[value] = Near.exactly(arguments[0].value - arguments[0].value)
            continue
        own = DOUBLE if uniform else unit
        given = (own,) if operation.opcode in _OWN else ()
        result = _APPLY[operation.opcode](*given, *arguments)
        exact = operation.type.condition or operation.opcode in _EXACT
        found[value] = result if exact else result.rounded(own, _RESULT)
    return found
