"""How the types of arguments give the type of a result; each raises `TypeMismatch`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from optdsl.ir.types import (
    AXES,
    SCALAR,
    SHARED,
    UNIFORM,
    Extent,
    Type,
    TypeMismatch,
    along,
    side,
)

Infer = Callable[[tuple[Type, ...]], Type]


def _numbers(types: tuple[Type, ...], first: int = 0) -> None:
    """Check that the arguments from the position `first` on are numbers."""
    for position, kind in enumerate(types[first:], first):
        if kind.condition:
            raise TypeMismatch(
                position, "a condition is not a number", "write `where(condition, 1, 0)`"
            )


def _joined(types: tuple[Type, ...]) -> Type:
    """The type of numbers that extend as far as all arguments: axes join by their names."""
    joined = UNIFORM
    for position, kind in enumerate(types):
        own = replace(kind, condition=False) if kind.condition else kind
        if own.fits(joined):
            continue
        if joined.fits(own):
            joined = own
        elif len(own.axes) == len(joined.axes) == 1 and side(*own.axes) != side(*joined.axes):
            joined = along(tuple(sorted((*joined.axes, *own.axes), key=side)))
        else:
            raise TypeMismatch(position, *_apart(joined, own))
    return joined


def _apart(joined: Type, own: Type) -> tuple[str, str]:
    """Why two types do not join, and what to do."""
    left, right = (" * ".join(t.spans) for t in (joined, own))
    if len(joined.spans) == 2 and joined.spans == own.spans[::-1]:
        return f"`{left}` meets `{right}` only transposed", "write `transpose(...)` around one"
    return f"`{left}` does not meet `{right}`", (
        "an elementwise operation takes matrices with the same axes; `@` multiplies matrices"
    )


def elementwise(types: tuple[Type, ...]) -> Type:
    """Numbers give a number that extends as far as all of them."""
    _numbers(types)
    return _joined(types)


def comparison(types: tuple[Type, ...]) -> Type:
    """Numbers give a condition that extends as far as all of them."""
    _numbers(types)
    return replace(_joined(types), condition=True)


def choice(types: tuple[Type, ...]) -> Type:
    """A condition and two numbers give a number that extends as far as all of them."""
    if not types[0].condition:
        raise TypeMismatch(0, "the first argument must be a condition", "compare, as in `x > 0`")
    _numbers(types, 1)
    return _joined(types)


def reduction(types: tuple[Type, ...]) -> Type:
    """The elements of a tensor, or all along its axes, give one number for it."""
    _numbers(types)
    if types[0].extent < Extent.AXES:
        raise TypeMismatch(0, f"{types[0].noun} has no elements to reduce over")
    return SCALAR


def total(types: tuple[Type, ...]) -> Type:
    """The elements of all tensors give one number for the optimizer."""
    _numbers(types)
    if types[0].extent <= Extent.SHARED:
        raise TypeMismatch(0, f"{types[0].noun} is one number for all tensors already")
    return SHARED


def reduction_of(place: int) -> Infer:
    """The elements along the first or the last axis give one number for each index of the other.

    Args:
        place: 0 for the first axis, -1 for the last one.
    """

    def infer(types: tuple[Type, ...]) -> Type:
        _numbers(types)
        spans = types[0].spans
        if not spans or (len(spans) == 1 and side(*spans) != -place):
            raise TypeMismatch(0, f"{types[0].noun} has no such axis")
        axis, rest = spans[place], spans[:-1] if place else spans[1:]
        if rest == (axis,):
            raise TypeMismatch(
                0, f"`{axis}` is twice an axis of {types[0].noun}", "reduce over both: `sum(x)`"
            )
        if rest and side(*rest) != 1 + place:
            raise TypeMismatch(
                0,
                f"{types[0].noun} is not reduced over `{axis}` as it stands",
                "write `transpose(...)` around it",
            )
        return along(rest)

    return infer


def reduction_along(axis: str) -> Infer:
    """The elements along one axis give one number for each index of the other one."""

    def infer(types: tuple[Type, ...]) -> Type:
        _numbers(types)
        spans = types[0].spans
        if axis not in spans:
            raise TypeMismatch(0, f"{types[0].noun} has no axis `{axis}`")
        if spans.count(axis) > 1:
            raise TypeMismatch(
                0, f"`{axis}` is twice an axis of {types[0].noun}", "reduce over both: `sum(x)`"
            )
        if spans == AXES[::-1]:
            raise TypeMismatch(
                0,
                f"a transposed matrix is not reduced over `{axis}`",
                "reduce it before it is transposed",
            )
        return along(tuple(a for a in spans if a != axis))

    return infer


def _matrix(kind: Type, position: int) -> tuple[str, str]:
    """The two axes of a matrix."""
    if len(kind.spans) != 2:
        raise TypeMismatch(position, f"{kind.noun} is not a matrix")
    return kind.spans[0], kind.spans[1]


def _square(kind: Type) -> str:
    """The axis of a square matrix."""
    first, second = _matrix(kind, 0)
    if first != second:
        raise TypeMismatch(0, f"`{first} * {second}` is not a square matrix")
    return first


def product(types: tuple[Type, ...]) -> Type:
    """The product of two matrices: the last axis of the first is the first axis of the second."""
    _numbers(types)
    (rows, inner), (outer, cols) = _matrix(types[0], 0), _matrix(types[1], 1)
    if inner != outer:
        raise TypeMismatch(
            1,
            f"`{rows} * {inner} @ {outer} * {cols}`: `{inner}` and `{outer}` are not one axis",
            "transpose one of the two",
        )
    return along((rows, cols))


def spread(types: tuple[Type, ...]) -> Type:
    """A number that fits the second argument gives one that extends as far."""
    _numbers(types)
    if not types[0].fits(types[1]):
        raise TypeMismatch(0, f"{types[0].noun} does not fit {types[1].noun}")
    return types[1]


def transposition(types: tuple[Type, ...]) -> Type:
    """A matrix gives one with its axes in the other order."""
    _numbers(types)
    rows, cols = _matrix(types[0], 0)
    return along((cols, rows))


def vectors(types: tuple[Type, ...]) -> Type:
    """A matrix, and a value of one axis, give a matrix with as many columns as that is long."""
    _numbers(types)
    rows, _ = _matrix(types[0], 0)
    if len(types[1].axes) != 1 or types[1].axes[0] in AXES:
        raise TypeMismatch(1, f"{types[1].noun}, where the name of a declared axis is needed")
    return along((rows, *types[1].axes))


def diagonal(axis: str) -> Infer:
    """A square matrix of an axis gives a number for each of its indices."""

    def infer(types: tuple[Type, ...]) -> Type:
        _numbers(types)
        if _square(types[0]) != axis:
            raise TypeMismatch(0, f"{types[0].noun} is not a matrix of `{axis} * {axis}`")
        return along((axis,))

    return infer


def own_diagonal(types: tuple[Type, ...]) -> Type:
    """A square matrix of an axis that a rule declares gives a number for each of its indices."""
    _numbers(types)
    return along((_square(types[0]),))


def square(types: tuple[Type, ...]) -> Type:
    """A square matrix gives another one."""
    _numbers(types)
    axis = _square(types[0])
    return along((axis, axis))


def square_and_number(types: tuple[Type, ...]) -> Type:
    """A square matrix and a uniform number give another matrix."""
    if types[1].extent is not Extent.UNIFORM:
        raise TypeMismatch(1, f"{types[1].noun}, where a uniform number is needed")
    return square(types)


def ordered(types: tuple[Type, ...]) -> Type:
    """A square matrix, and a number for each of its columns, give another matrix."""
    _numbers(types)
    axis = _square(types[0])
    if types[1].spans != (axis,):
        raise TypeMismatch(1, f"{types[1].noun}, where `{axis}` is needed")
    return along((axis, axis))


def same(types: tuple[Type, ...]) -> Type:
    """The type of the argument."""
    return types[0]


def leaf(kind: Type) -> Infer:
    """The type of a leaf, unless the program gives it another extent."""
    return lambda types: kind
