"""Types of values: how far a value extends, and whether it is a number or a condition."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Extent(enum.IntEnum):
    """How many values there are; a smaller extent broadcasts to a larger one."""

    UNIFORM = 0
    """One value for all tensors of a group, computed on the host in double precision."""
    SCALAR = 1
    """One value per tensor."""
    TENSOR = 2
    """One value per element, shaped like the parameter."""

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Type:
    """The type of a value."""

    extent: Extent
    condition: bool = False

    def __str__(self) -> str:
        return f"{self.extent} condition" if self.condition else str(self.extent)

    @property
    def noun(self) -> str:
        """The type in a sentence."""
        if self.condition:
            return "a condition"
        return "a uniform number" if self.extent is Extent.UNIFORM else f"a {self.extent}"


UNIFORM = Type(Extent.UNIFORM)
SCALAR = Type(Extent.SCALAR)
TENSOR = Type(Extent.TENSOR)

BY_NAME = {str(t): t for t in (UNIFORM, SCALAR, TENSOR)}


class TypeMismatch(Exception):
    """An operation does not accept its argument number `position` (from 0)."""

    def __init__(self, position: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.position = position
        self.message = message
        self.hint = hint
