"""Forward-mode derivatives of the operations.

Each takes the builder, the result, the arguments and the tangents of the arguments, and gives the
tangent of the result; None stands for a tangent that is zero everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from optdsl.ir.program import Attribute, Operation, Value
from optdsl.ir.types import Extent

Values = tuple[Value, ...]
Tangent = Value | None
Tangents = tuple[Value | None, ...]


class Writer(Protocol):
    """What derivatives are written into; see `optdsl.ir.builder.Builder`."""

    def __getitem__(self, value: Value) -> Operation:
        """The operation that makes a value."""

    def emit(self, opcode: str, *arguments: Value, attribute: Attribute = None) -> Value:
        """An operation on values."""

    def constant(self, number: float) -> Value:
        """A literal."""

    def is_constant(self, value: Value, number: float) -> bool:
        """Whether a value is a literal."""


Derivative = Callable[[Writer, Value, Values, Tangents], Tangent]


def times(b: Writer, tangent: Tangent, factor: Value) -> Tangent:
    """tangent * factor; a factor of one is left out, which changes no bit."""
    if tangent is None or b.is_constant(factor, 1.0):
        return tangent
    return factor if b.is_constant(tangent, 1.0) else b.emit("mul", tangent, factor)


def over(b: Writer, tangent: Tangent, divisor: Value) -> Tangent:
    """tangent / divisor."""
    return None if tangent is None else b.emit("div", tangent, divisor)


def plus(b: Writer, left: Tangent, right: Tangent) -> Tangent:
    """left + right."""
    if left is None or right is None:
        return right if left is None else left
    return b.emit("add", left, right)


def minus(b: Writer, left: Tangent, right: Tangent) -> Tangent:
    """left - right."""
    if right is None:
        return left
    return b.emit("neg", right) if left is None else b.emit("sub", left, right)


def zero(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of a function that is flat, and of leaves, whose tangents differentiation sets."""
    return None


def identity(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of the argument itself."""
    return d[0]


def negation(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of -x."""
    return minus(b, None, d[0])


def addition(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of x + y."""
    return plus(b, d[0], d[1])


def subtraction(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of x - y."""
    return minus(b, d[0], d[1])


def product(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of x * y."""
    return plus(b, times(b, d[0], x[1]), times(b, d[1], x[0]))


def quotient(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of x / y; both terms divide by the same, so that reverse accumulation divides once."""
    return minus(b, over(b, d[0], x[1]), times(b, over(b, d[1], x[1]), y))


def power(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of x^y."""
    base, exponent = x
    total: Tangent = None
    if d[0] is not None:
        operation = b[exponent]
        if operation.opcode == "constant" and isinstance(operation.attribute, float):
            lower = b.constant(operation.attribute - 1)
        else:
            lower = b.emit("sub", exponent, b.constant(1.0))
        lowered = base if b.is_constant(lower, 1.0) else b.emit("pow", base, lower)
        slope = b.emit("mul", exponent, lowered)
        if operation.opcode != "step" and (operation.attribute or 0.0) == 0.0:
            # x^0 is 1 everywhere, and 0 * 0^-1 is NaN.
            flat = b.emit("eq", exponent, b.constant(0.0))
            slope = b.emit("where", flat, b.constant(0.0), slope)
        total = times(b, d[0], slope)
    if d[1] is not None:
        # 0^p does not move with p > 0, but its logarithm is infinite.
        rate = b.emit("mul", y, b.emit("log", base))
        flat = b.emit("eq", base, b.constant(0.0))
        total = plus(b, total, times(b, d[1], b.emit("where", flat, b.constant(0.0), rate)))
    return total


def weighted_mean(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of the mean of parts by weights, from w, x, v, y, ..."""
    weights, parts, by_weights, by_parts = x[0::2], x[1::2], d[0::2], d[1::2]
    total: Tangent = None
    first, *others = by_weights
    if len(others) == 1 and first is not None and _opposite(b, first, others[0]):
        # The sum of the two weights does not change.
        total = times(b, others[0], b.emit("sub", parts[1], parts[0]))
    else:
        for tangent, part in zip(by_weights, parts, strict=True):
            if tangent is not None:
                total = plus(b, total, times(b, tangent, b.emit("sub", part, y)))
    moving = [i for i, t in enumerate(by_parts) if t is not None]
    nothing = b.constant(0.0)
    if len(moving) == 1:
        # The share of the one part that moves; a part without weight does not count here either.
        ones = (b.constant(1.0) if i == moving[0] else nothing for i in range(len(parts)))
        share = b.emit("mix", *(v for pair in zip(weights, ones, strict=True) for v in pair))
        moved = times(b, by_parts[moving[0]], share)
        assert moved is not None
        total = plus(b, total, b.emit("where", b.emit("eq", share, nothing), nothing, moved))
    elif moving:
        tangents = (nothing if t is None else t for t in by_parts)
        pairs = zip(weights, tangents, strict=True)
        total = plus(b, total, b.emit("mix", *(v for pair in pairs for v in pair)))
    return total


def _opposite(b: Writer, x: Value, y: Tangent) -> bool:
    """Whether one of two values is the operation `neg` of the other."""
    return y is not None and (
        (b[x].opcode == "neg" and b[x].arguments == (y,))
        or (b[y].opcode == "neg" and b[y].arguments == (x,))
    )


def square_root(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of sqrt(x); 0 at 0."""
    if d[0] is None:
        return None
    # At sqrt(0) the slope is infinite or 0 / 0, and is taken to be 0: an element that never had a
    # gradient must not make the hyper-gradient infinite or NaN.
    slope = b.emit("div", d[0], b.emit("mul", b.constant(2.0), y))
    corner = b.emit("eq", y, b.constant(0.0))
    return b.emit("where", corner, b.constant(0.0), slope)


def exponential(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of exp(x)."""
    return times(b, d[0], y)


def logarithm(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of log(x)."""
    return over(b, d[0], x[0])


def hyperbolic_tangent(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of tanh(x)."""
    if d[0] is None:
        return None
    return times(b, d[0], b.emit("sub", b.constant(1.0), b.emit("mul", y, y)))


def cosine(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of cos(x)."""
    return None if d[0] is None else minus(b, None, times(b, d[0], b.emit("sin", x[0])))


def sine(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of sin(x)."""
    return None if d[0] is None else times(b, d[0], b.emit("cos", x[0]))


def absolute(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of |x|; 0 at 0."""
    return None if d[0] is None else times(b, d[0], b.emit("sign", x[0]))


def extremum(comparison: str) -> Derivative:
    """Of the argument for which a comparison with the other one holds; of the first in a tie."""

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        return None if d == (None, None) else choice(b, y, (b.emit(comparison, *x),), (None, *d))

    return derivative


def choice(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of where(c, x, y)."""
    if d[1] is None and d[2] is None:
        return None
    nothing = b.constant(0.0)
    return b.emit("where", x[0], *(nothing if t is None else t for t in d[1:]))


def total(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of the sum over the elements."""
    if d[0] is None or b[d[0]].type.spans == b[x[0]].type.spans:
        return None if d[0] is None else b.emit("sum", d[0])
    if b[x[0]].type.extent is Extent.TENSOR and not b[d[0]].type.spans:
        return times(b, d[0], b.emit("size"))
    return b.emit("sum", b.emit("spread", d[0], x[0]))


def average(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of the mean over the elements."""
    if d[0] is None or not b[d[0]].type.spans:
        return d[0]
    return b.emit("mean", d[0])


def total_of_all(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of the sum over all tensors."""
    if d[0] is None:
        return None
    kind, own = b[d[0]].type, b[x[0]].type
    if kind.spans == own.spans and kind.extent > Extent.SHARED:
        return b.emit("sum_all", d[0], attribute="")
    if own.spans and own.extent is not Extent.TENSOR:
        return b.emit("sum_all", b.emit("spread", d[0], x[0]), attribute="")
    size = b.emit("size")
    count = size if own.extent is Extent.TENSOR else b.emit("div", size, size)
    return b.emit("sum_all", b.emit("mul", d[0], count), attribute="")


def largest_of_all(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of the largest number of all tensors: the mean of the tangents of those that are."""
    if d[0] is None:
        return None
    here, zero = b.emit("eq", x[0], y), b.constant(0.0)
    found = b.emit("sum_all", b.emit("where", here, d[0], zero), attribute="")
    count = b.emit("sum_all", b.emit("where", here, b.constant(1.0), zero), attribute="")
    return b.emit("div", found, count)


def total_along(axis: str) -> Derivative:
    """Of the sum along an axis."""

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        if d[0] is None or axis in b[d[0]].type.spans:
            return None if d[0] is None else b.emit(f"sum_{axis}", d[0])
        return times(b, d[0], b.emit("length", attribute=axis))

    return derivative


def average_along(axis: str) -> Derivative:
    """Of the mean along an axis."""

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        if d[0] is None or axis not in b[d[0]].type.spans:
            return d[0]
        return b.emit(f"mean_{axis}", d[0])

    return derivative


def reduced(reduction: str, place: int) -> Derivative:
    """Of the sum or mean along the first axis (0) or the last one (-1): both are linear."""
    opcode = f"{reduction}_{'last' if place else 'first'}"

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        whole = _whole(b, d[0], x[0])
        return None if whole is None else b.emit(opcode, whole)

    return derivative


def _whole(b: Writer, tangent: Tangent, x: Value) -> Tangent:
    """A tangent that extends as far as the matrix that it is the tangent of."""
    if tangent is None or b[tangent].type.spans == b[x].type.spans:
        return tangent
    return b.emit("spread", tangent, x)


def extremum_along(which: str) -> Derivative:
    """Of the largest or the smallest number: the mean of the tangents of those that are."""
    opcode = "sum" if which == "matrix" else f"sum_{which}"

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        if d[0] is None:
            return None
        here, zero = b.emit("eq", x[0], y), b.constant(0.0)
        found = b.emit(opcode, b.emit("where", here, d[0], zero))
        count = b.emit(opcode, b.emit("where", here, b.constant(1.0), zero))
        return b.emit("div", found, count)

    return derivative


def spread(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of a value at each index of another one, which it does not depend on."""
    return d[0]


def of_stack(opcode: str) -> Derivative:
    """Of a sum or mean over all matrices of a stack."""

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        whole = _whole(b, d[0], x[0])
        return None if whole is None else b.emit(f"{opcode}_tensor", whole)

    return derivative


def matrix_product(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of x @ y."""
    left, right = (_whole(b, t, a) for t, a in zip(d, x, strict=True))
    first = None if left is None else b.emit("matmul", left, x[1])
    second = None if right is None else b.emit("matmul", x[0], right)
    return plus(b, first, second)


def linear(opcode: str) -> Derivative:
    """Of a linear function of one matrix, which is the function of the tangent."""

    def derivative(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
        whole = _whole(b, d[0], x[0])
        return None if whole is None else b.emit(opcode, whole)

    return derivative


class NoDerivative(Exception):
    """The new parameter moves only through the function of that name, whose argument is held."""


def held(b: Writer, y: Value, x: Values, d: Tangents) -> Tangent:
    """Of a factorization, which has no derivative where eigenvalues are equal.

    Its argument is held constant, as states are; `optdsl.differentiate` refuses to learn what
    moves the parameter in no other way.
    """
    return None
