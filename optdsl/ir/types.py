"""Types of values: how far a value extends, and whether it is a number or a condition."""

from __future__ import annotations

import enum
from collections.abc import Container
from dataclasses import dataclass

# The axes of a matrix, as the language calls them. Rules may declare others, with their lengths.
AXES = ("rows", "cols")
# The number of positions of the kernel of a convolution, which is read as matrices.
TAPS = "taps"
# The numbers that the shape of a tensor decides which is read as matrices.
LENGTHS = (*AXES, TAPS)


class Extent(enum.IntEnum):
    """How many values there are; a smaller extent broadcasts to a larger one."""

    UNIFORM = 0
    """One value for all tensors of a group, computed on the host in double precision."""
    SHARED = 1
    """One value for all tensors of the optimizer, on all ranks."""
    SCALAR = 2
    """One value per tensor; of a stack of matrices, one per matrix."""
    AXES = 3
    """One value for each index of some axes of a matrix, which the type names."""
    TENSOR = 4
    """One value per element, shaped like the parameter."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value.

    Attributes:
        extent: how many values there are.
        condition: whether they are conditions, not numbers.
        axes: the axes of a value of `Extent.AXES`, in order: ("rows",), ("cols", "cols") for a
            square matrix, or ("k", "cols") with an axis that the rule declares. ("rows", "cols")
            does not occur: that is `Extent.TENSOR`.
    """

    extent: Extent
    condition: bool = False
    axes: tuple[str, ...] = ()

    def __str__(self) -> str:
        name = " * ".join(self.axes) or str(self.extent)
        return f"{name} condition" if self.condition else name

    @property
    def noun(self) -> str:
        """The type in a sentence."""
        if self.condition:
            return "a condition"
        if self.extent is Extent.AXES:
            return f"`{self}`"
        named = {Extent.UNIFORM: "a uniform number", Extent.SHARED: "a shared number"}
        return named.get(self.extent, f"a {self.extent}")

    @property
    def spans(self) -> tuple[str, ...]:
        """The axes along which the value extends, those of a tensor included."""
        return AXES if self.extent is Extent.TENSOR else self.axes

    def fits(self, other: Type) -> bool:
        """Whether a value of this type can be had at each index of another type."""
        if self.extent is Extent.AXES and self.axes != other.axes:
            # A square matrix meets only its own type; a number for each row, for each column of
            # another matrix stands along that side of it.
            first, second = other.spans if len(other.spans) == 2 else ("", "")
            if len(self.axes) != 1 or first == second:
                return False
            (axis,) = self.axes
            return axis == (first, second)[side(axis)]
        return self.extent <= other.extent

    @property
    def own_axes(self) -> tuple[str, ...]:
        """The axes that a rule declares, among those of the type."""
        return tuple(a for a in self.axes if a not in AXES)


UNIFORM = Type(Extent.UNIFORM)
SHARED = Type(Extent.SHARED)
SCALAR = Type(Extent.SCALAR)
TENSOR = Type(Extent.TENSOR)


def side(axis: str) -> int:
    """Along which side of a matrix the numbers of one axis alone stand: 0 for rows, 1 for columns.

    Those of an axis that a rule declares stand as rows do, since it is the first axis of matrices
    such as ``k * cols``.
    """
    return int(axis == "cols")


def along(axes: tuple[str, ...]) -> Type:
    """The type of the values that extend along some axes, two at most, in this order."""
    if not axes:
        return SCALAR
    return TENSOR if axes == AXES else Type(Extent.AXES, axes=axes)


# The types by their spelling in programs. The language joins names of axes by `*`.
BY_NAME = {
    str(t): t
    for t in (
        UNIFORM,
        SHARED,
        SCALAR,
        TENSOR,
        *(along((a,)) for a in AXES),
        *(along((a, b)) for a in AXES for b in AXES if (a, b) != AXES),
    )
}


def read_type(text: str, own: Container[str] = ()) -> Type | None:
    """The type of a spelling such as ``k * cols``; None for another text.

    Args:
        text: the names of the axes, joined by ``*``, or the name of an extent.
        own: the axes that the rule declares.
    """
    axes = tuple(text.split(" * "))
    if text in BY_NAME or len(axes) > 2 or not all(a in AXES or a in own for a in axes):
        return BY_NAME.get(text)
    return along(axes)


class TypeMismatch(Exception):
    """An operation does not accept its argument number `position` (from 0)."""

    def __init__(self, position: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.position = position
        self.message = message
        self.hint = hint
