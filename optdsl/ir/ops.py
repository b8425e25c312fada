"""The operations: one row each, with typing, derivative, range and meaning.

A new operation is a row here, a spelling in each backend and one in the interpreter; a test fails
until all are there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optdsl.ir import intervals
from optdsl.ir.domain import ANYTHING, Interval
from optdsl.ir.types import SCALAR, TENSOR, UNIFORM, Extent, Type, TypeMismatch

if TYPE_CHECKING:
    from optdsl.ir.builder import Builder
    from optdsl.ir.program import Value

Infer = Callable[[tuple[Type, ...]], Type]
# (builder, result, arguments, tangents of the arguments) -> tangent of the result, where None
# stands for a tangent that is zero everywhere.
Derivative = Callable[
    ["Builder", "Value", "tuple[Value, ...]", "tuple[Value | None, ...]"], "Value | None"
]
Range = Callable[..., Interval]


# The arity of an operation that takes any number of pairs.
ANY = -1


@dataclass(frozen=True)
class Row:
    """What the compiler knows about an operation."""

    opcode: str
    arity: int
    infer: Infer
    derivative: Derivative
    interval: Range
    meaning: str
    attribute: type | None = None
    function: str | None = None
    """The name by which the language calls it, if it is called like a function."""

    @property
    def leaf(self) -> bool:
        """Whether the operation has no arguments, so that its type is given, not inferred."""
        return self.arity == 0


# --- typing -------------------------------------------------------------------------------------


def _numbers(types: tuple[Type, ...]) -> None:
    for position, kind in enumerate(types):
        if kind.condition:
            raise TypeMismatch(
                position, "a condition is not a number", "write `where(condition, 1, 0)`"
            )


def _widest(types: tuple[Type, ...]) -> Extent:
    return max((t.extent for t in types), default=Extent.UNIFORM)


def _elementwise(types: tuple[Type, ...]) -> Type:
    _numbers(types)
    return Type(_widest(types))


def _compare(types: tuple[Type, ...]) -> Type:
    _numbers(types)
    return Type(_widest(types), condition=True)


def _where(types: tuple[Type, ...]) -> Type:
    if not types[0].condition:
        raise TypeMismatch(0, "the first argument must be a condition", "compare, as in `x > 0`")
    try:
        _numbers(types[1:])
    except TypeMismatch as error:
        raise TypeMismatch(error.position + 1, error.message, error.hint) from None
    return Type(_widest(types))


def _reduction(types: tuple[Type, ...]) -> Type:
    _numbers(types)
    if types[0].extent is not Extent.TENSOR:
        raise TypeMismatch(0, f"{types[0].noun} has no elements to reduce over")
    return SCALAR


def _same(types: tuple[Type, ...]) -> Type:
    return types[0]


def _leaf(kind: Type) -> Infer:
    """The type of a leaf, unless the program gives it another extent."""
    return lambda types: kind


# --- derivatives --------------------------------------------------------------------------------


def _zero(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> None:
    return None


def _pow(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    base, exponent = x
    total: Value | None = None
    if d[0] is not None:
        operation = b[exponent]
        if operation.opcode == "constant" and isinstance(operation.attribute, float):
            lower = b.constant(operation.attribute - 1)
        else:
            lower = b.emit("sub", exponent, b.constant(1.0))
        power = base if b.is_constant(lower, 1.0) else b.emit("pow", base, lower)
        slope = b.emit("mul", exponent, power)
        if operation.opcode != "step" and (operation.attribute or 0.0) == 0.0:
            # x^0 is 1 everywhere, and 0 * 0^-1 no number.
            flat = b.emit("eq", exponent, b.constant(0.0))
            slope = b.emit("where", flat, b.constant(0.0), slope)
        total = b.times(d[0], slope)
    if d[1] is not None:
        # 0^p does not move with p > 0, but its logarithm is infinite.
        rate = b.emit("mul", y, b.emit("log", base))
        flat = b.emit("eq", base, b.constant(0.0))
        total = b.plus(total, b.times(d[1], b.emit("where", flat, b.constant(0.0), rate)))
    return total


def _mix(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    weights, parts, by_weights, by_parts = x[0::2], x[1::2], d[0::2], d[1::2]
    total: Value | None = None
    first, *others = by_weights
    if len(others) == 1 and first is not None and _opposite(b, first, others[0]):
        # What one weight gains, the other one loses.
        total = b.times(others[0], b.emit("sub", parts[1], parts[0]))
    else:
        for tangent, part in zip(by_weights, parts, strict=True):
            if tangent is not None:
                total = b.plus(total, b.times(tangent, b.emit("sub", part, y)))
    moving = [i for i, t in enumerate(by_parts) if t is not None]
    zero = b.constant(0.0)
    if len(moving) == 1:
        # The share of the one part that moves; what weighs nothing takes no part here either.
        ones = (b.constant(1.0) if i == moving[0] else zero for i in range(len(parts)))
        share = b.emit("mix", *(v for pair in zip(weights, ones, strict=True) for v in pair))
        moved = b.times(by_parts[moving[0]], share)
        assert moved is not None
        total = b.plus(total, b.emit("where", b.emit("eq", share, zero), zero, moved))
    elif moving:
        tangents = (zero if t is None else t for t in by_parts)
        pairs = zip(weights, tangents, strict=True)
        total = b.plus(total, b.emit("mix", *(v for pair in pairs for v in pair)))
    return total


def _opposite(b: Builder, x: Value, y: Value | None) -> bool:
    """Whether one value is written as the negation of another."""
    return y is not None and (
        (b[x].opcode == "neg" and b[x].arguments == (y,))
        or (b[y].opcode == "neg" and b[y].arguments == (x,))
    )


def _sqrt(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    if d[0] is None:
        return None
    # At sqrt(0) the slope is infinite, or 0 / 0. It is taken as 0: an element that never had a
    # gradient shall not keep the others from moving a coefficient.
    slope = b.emit("div", d[0], b.emit("mul", b.constant(2.0), y))
    corner = b.emit("eq", y, b.constant(0.0))
    return b.emit("where", corner, b.constant(0.0), slope)


def _tanh(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    if d[0] is None:
        return None
    return b.times(d[0], b.emit("sub", b.constant(1.0), b.emit("mul", y, y)))


def _select(
    b: Builder, condition: Value, then: Value | None, otherwise: Value | None
) -> Value | None:
    if then is None and otherwise is None:
        return None
    zero = b.constant(0.0)
    return b.emit(
        "where", condition, zero if then is None else then, zero if otherwise is None else otherwise
    )


def _neg(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    return b.minus(None, d[0])


def _sum(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    if d[0] is None or b[d[0]].type.extent is Extent.TENSOR:
        return None if d[0] is None else b.emit("sum", d[0])
    return b.times(d[0], b.emit("size"))


def _mean(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    if d[0] is None or b[d[0]].type.extent is not Extent.TENSOR:
        return d[0]
    return b.emit("mean", d[0])


def _abs(b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]) -> Value | None:
    return None if d[0] is None else b.times(d[0], b.emit("sign", x[0]))


def _extremum(comparison: str) -> Derivative:
    """The derivative of the argument that is taken; of the first one in a tie."""

    def derivative(
        b: Builder, y: Value, x: tuple[Value, ...], d: tuple[Value | None, ...]
    ) -> Value | None:
        if d == (None, None):
            return None
        return _select(b, b.emit(comparison, *x), d[0], d[1])

    return derivative


_COUNT = Interval(1.0, float("inf"), False, True)

# --- the table ----------------------------------------------------------------------------------

_ROWS = (
    # Leaves. Their tangents are seeded by differentiation, their extents may be narrowed.
    Row("constant", 0, _leaf(UNIFORM), _zero, lambda: ANYTHING, "a literal", attribute=float),
    Row("hyper", 0, _leaf(UNIFORM), _zero, lambda: ANYTHING, "a hyperparameter", attribute=str),
    Row("step", 0, _leaf(UNIFORM), _zero, lambda: _COUNT, "t, the step, from 1"),
    Row("gradient", 0, _leaf(TENSOR), _zero, lambda: ANYTHING, "g"),
    Row("parameter", 0, _leaf(TENSOR), _zero, lambda: ANYTHING, "theta, before the step"),
    Row("state", 0, _leaf(TENSOR), _zero, lambda: ANYTHING, "a state, before the step",
        attribute=str),
    Row("size", 0, _leaf(SCALAR), _zero, lambda: _COUNT, "the number of elements of theta"),
    # Names and barriers.
    Row("define", 1, _same, lambda b, y, x, d: d[0], lambda x: x,
        "the value itself, under the name of an equation, so that a blend can rebind it",
        attribute=str),
    Row("stop_gradient", 1, _same, _zero, lambda x: x,
        "the value itself, a constant to differentiation", function="stop_gradient"),
    # Arithmetic.
    Row("neg", 1, _elementwise, _neg, intervals.negate, "-x"),
    Row("add", 2, _elementwise, lambda b, y, x, d: b.plus(d[0], d[1]), intervals.add, "x + y"),
    Row("sub", 2, _elementwise, lambda b, y, x, d: b.minus(d[0], d[1]), intervals.subtract,
        "x - y"),
    Row("mul", 2, _elementwise,
        lambda b, y, x, d: b.plus(b.times(d[0], x[1]), b.times(d[1], x[0])),
        intervals.multiply, "x * y"),
    Row("div", 2, _elementwise,
        # Both divide the same in reverse accumulation, so that one division serves.
        lambda b, y, x, d: b.minus(b.over(d[0], x[1]), b.times(b.over(d[1], x[1]), y)),
        intervals.divide, "x / y"),
    Row("pow", 2, _elementwise, _pow, intervals.power, "x^y"),
    Row("mix", ANY, _elementwise, _mix, lambda *x: functools.reduce(intervals.union, x[1::2]),
        "the mean of x, y, ... by weights w, v, ... that sum to one, from w, x, v, y, ...; what "
        "weighs nothing takes no part, and equal parts have that value as their mean"),
    # Functions.
    Row("sqrt", 1, _elementwise, _sqrt, intervals.square_root, "square root", function="sqrt"),
    Row("exp", 1, _elementwise, lambda b, y, x, d: b.times(d[0], y), intervals.exponential,
        "exponential", function="exp"),
    Row("log", 1, _elementwise, lambda b, y, x, d: b.over(d[0], x[0]), intervals.logarithm,
        "natural logarithm", function="log"),
    Row("tanh", 1, _elementwise, _tanh, lambda x: Interval(-1.0, 1.0), "hyperbolic tangent",
        function="tanh"),
    Row("abs", 1, _elementwise, _abs, intervals.absolute, "|x|", function="abs"),
    Row("sign", 1, _elementwise, _zero, intervals.sign, "-1, 0 or 1; NaN stays NaN",
        function="sign"),
    Row("max", 2, _elementwise, _extremum("ge"), intervals.maximum,
        "the larger; NaN if either is", function="max"),
    Row("min", 2, _elementwise, _extremum("le"), intervals.minimum,
        "the smaller; NaN if either is", function="min"),
    Row("where", 3, _where, lambda b, y, x, d: _select(b, x[0], d[1], d[2]),
        lambda c, x, y: intervals.union(x, y), "x where the condition holds, else y",
        function="where"),
    # Conditions.
    *(Row(opcode, 2, _compare, _zero, lambda x, y: ANYTHING, meaning) for opcode, meaning in (
        ("lt", "x < y"), ("le", "x <= y"), ("gt", "x > y"), ("ge", "x >= y"),
        ("eq", "x == y"), ("ne", "x != y"))),
    # Reductions over the elements of a tensor.
    Row("sum", 1, _reduction, _sum, lambda x: ANYTHING, "sum", function="sum"),
    Row("mean", 1, _reduction, _mean, lambda x: x, "arithmetic mean", function="mean"),
)  # fmt: skip

TABLE = {row.opcode: row for row in _ROWS}
FUNCTIONS = {row.function: row for row in _ROWS if row.function}
OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow",
    "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne",
}  # fmt: skip
