"""How the types of arguments give the type of a result; each raises `TypeMismatch`."""

from __future__ import annotations

from collections.abc import Callable

from optdsl.ir.types import SCALAR, Extent, Type, TypeMismatch

Infer = Callable[[tuple[Type, ...]], Type]


def _numbers(types: tuple[Type, ...], first: int = 0) -> None:
    """Check that the arguments from the position `first` on are numbers."""
    for position, kind in enumerate(types[first:], first):
        if kind.condition:
            raise TypeMismatch(
                position, "a condition is not a number", "write `where(condition, 1, 0)`"
            )


def _widest(types: tuple[Type, ...]) -> Extent:
    return max((t.extent for t in types), default=Extent.UNIFORM)


def elementwise(types: tuple[Type, ...]) -> Type:
    """Numbers give a number of the largest extent."""
    _numbers(types)
    return Type(_widest(types))


def comparison(types: tuple[Type, ...]) -> Type:
    """Numbers give a condition of the largest extent."""
    _numbers(types)
    return Type(_widest(types), condition=True)


def choice(types: tuple[Type, ...]) -> Type:
    """A condition and two numbers give a number of the largest extent."""
    if not types[0].condition:
        raise TypeMismatch(0, "the first argument must be a condition", "compare, as in `x > 0`")
    _numbers(types, 1)
    return Type(_widest(types))


def reduction(types: tuple[Type, ...]) -> Type:
    """The elements of a tensor give one number for it."""
    _numbers(types)
    if types[0].extent is not Extent.TENSOR:
        raise TypeMismatch(0, f"{types[0].noun} has no elements to reduce over")
    return SCALAR


def same(types: tuple[Type, ...]) -> Type:
    """The type of the argument."""
    return types[0]


def leaf(kind: Type) -> Infer:
    """The type of a leaf, unless the program gives it another extent."""
    return lambda types: kind
