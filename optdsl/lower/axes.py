"""Rows and columns in expressions: the operation behind a name depends on the axes of its argument.

``sum(x over cols)`` is the operation ``sum_cols``, ``rows(x)`` the length of the first axis of x.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optdsl.diagnostics import Span
from optdsl.ir.builder import Builder
from optdsl.ir.program import Value
from optdsl.ir.types import AXES, Extent, Type, TypeMismatch, along, side

# Its second argument is an axis that the file declares.
VECTORS = "singular_vectors"
# What may stand after `over`, beside the axes that the file declares; a call without it reduces all
# axes of its argument.
ALL = "all"
OVER = (*AXES, "tensor", ALL)
REDUCTIONS = ("sum", "mean")
# Reductions if they have one argument, and functions of two else.
EXTREMA = ("max", "min")
# Reductions over all matrices of a stack.
OF_STACKS = frozenset(f"{name}_tensor" for name in (*REDUCTIONS, *EXTREMA))
# Functions of one matrix whose operations depend on its axes, and of one axis.
OF_MATRICES = ("rows", "cols", "diagonal")
IDENTITY = "identity"
FUNCTIONS = (*OF_MATRICES, IDENTITY)


def reduction(function: str, axis: str, matrices: bool, kind: Type) -> str:
    """The opcode of a reduction over an axis; a tensor that is no stack is one reduction.

    Args:
        function: its name.
        axis: what stands after `over`.
        matrices: whether tensors are read as matrices.
        kind: the type of the argument.

    Raises:
        TypeMismatch: where the argument lacks the axis.
    """
    if kind.own_axes and axis in kind.spans:
        place = kind.spans.index(axis) if len(kind.spans) > 1 else side(axis)
        return f"{function}_{'last' if place else 'first'}"
    if axis not in (*OVER, "matrix"):
        raise TypeMismatch(0, f"{kind.noun} has no axis `{axis}`")
    if function in EXTREMA:
        return f"{function}_{axis if matrices or axis != 'tensor' else 'matrix'}"
    return function if axis == "tensor" and not matrices else f"{function}_{axis}"


def of_matrix(function: str, x: Value, builder: Builder, own: Mapping[str, Value]) -> Value:
    """The value of one of `OF_MATRICES`.

    Args:
        function: its name.
        x: the matrix.
        builder: receives the operations.
        own: the lengths of the axes that the file declares.

    Raises:
        TypeMismatch: for what is no matrix, or has no diagonal.
    """
    kind = builder[x].type
    if len(kind.spans) != 2 or kind.condition:
        raise TypeMismatch(0, f"{kind.noun} is not a matrix")
    if function == "diagonal":
        which = kind.spans[0] if kind.spans[0] in AXES else "own"
        return builder.emit(f"diagonal_{which}", x)
    axis = kind.spans[function == "cols"]
    return own[axis] if axis in own else length(axis, builder)


def length(axis: str, builder: Builder) -> Value:
    """The number of rows, of columns, or of positions of a kernel."""
    return builder.emit("length", attribute=axis, hint=axis)


def reduced(function: str, axis: str, x: Value, builder: Builder, matrices: bool) -> Value:
    """The reduction of a value over an axis; see `reduction`."""
    return builder.emit(reduction(function, axis, matrices, builder[x].type), x)


def over_all(
    function: str, x: Value, builder: Builder, name: Callable[[], str], span: Span
) -> Value:
    """The sum, the mean, the largest or the smallest of the elements of all tensors.

    A mean is the quotient of two sums, and the smallest is the largest of the opposites.

    Args:
        function: "sum", "mean", "max" or "min".
        x: what is summed up.
        builder: receives the operations.
        name: gives each sum a name of its own.
        span: where it is written.

    Raises:
        TypeMismatch: for what is one number for all tensors already.
    """
    if function in EXTREMA:
        given = builder.emit("neg", x) if function == "min" else x
        found = builder.emit("max_all", given, attribute=name(), span=span)
        return builder.emit("neg", found) if function == "min" else found
    total, kind = builder.emit("sum_all", x, attribute=name(), span=span), builder[x].type
    if function == "sum":
        return total
    if kind.extent is Extent.TENSOR:
        each = builder.emit("size")
    elif kind.spans:
        each = builder.emit("sum", builder.emit("spread", builder.constant(1.0), x))
    else:
        each = builder.emit("pow", builder.emit("size"), builder.constant(0.0))
    count = builder.emit("sum_all", each, attribute=name(), span=span)
    return builder.emit("div", total, count)


def indices(axis: str, builder: Builder) -> Value:
    """The indices of an axis that the file declares."""
    return builder.emit("indices", type=along((axis,)), hint=axis)


def identity(axis: str, builder: Builder) -> Value:
    """The identity matrix of an axis."""
    return builder.emit("identity", type=along((axis, axis)))
