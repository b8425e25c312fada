"""Rows and columns in expressions: the operation behind a name depends on the axes of its argument.

``sum(x over cols)`` is the operation ``sum_cols``, ``rows(x)`` the length of the first axis of x.
"""

from __future__ import annotations

from optdsl.ir.builder import Builder
from optdsl.ir.program import Value
from optdsl.ir.types import AXES, TypeMismatch, along

# What may stand after `over`; a call without it reduces all axes of its argument.
ALL = "all"
OVER = (*AXES, "tensor", ALL)
REDUCTIONS = ("sum", "mean")
# Reductions over all matrices of a stack.
OF_STACKS = frozenset(f"{name}_tensor" for name in REDUCTIONS)
# Functions of one matrix whose operations depend on its axes, and of one axis.
OF_MATRICES = ("rows", "cols", "diagonal")
IDENTITY = "identity"
FUNCTIONS = (*OF_MATRICES, IDENTITY)


def reduction(function: str, axis: str, matrices: bool) -> str:
    """The opcode of a reduction over an axis; a tensor that is no stack is one reduction."""
    return function if axis == "tensor" and not matrices else f"{function}_{axis}"


def of_matrix(function: str, x: Value, builder: Builder) -> Value:
    """The value of one of `OF_MATRICES`.

    Raises:
        TypeMismatch: for what is no matrix, or has no diagonal.
    """
    kind = builder[x].type
    if len(kind.spans) != 2 or kind.condition:
        raise TypeMismatch(0, f"{kind.noun} is not a matrix")
    if function == "diagonal":
        return builder.emit(f"diagonal_{kind.spans[0]}", x)
    axis = kind.spans[function == "cols"]
    return length(axis, builder)


def length(axis: str, builder: Builder) -> Value:
    """The number of rows or of columns."""
    return builder.emit("length", attribute=axis, hint=axis)


def identity(axis: str, builder: Builder) -> Value:
    """The identity matrix of an axis."""
    return builder.emit("identity", type=along((axis, axis)))
