"""Pickling of compiled classes, which no module holds, as recipes to make them again."""

from __future__ import annotations

import copyreg
from typing import Any


class RecipeType(type):
    """The metaclass of optimizers; compiled classes pickle as recipes."""


def made_by_recipe(cls: type) -> bool:
    """Whether a class was compiled; a user's subclass in a module was not."""
    return "compiled" in cls.__dict__


def blank(cls: type[object]) -> object:
    """An instance without state, for pickle to fill."""
    return object.__new__(cls)


def _reduce(cls: RecipeType) -> str | tuple[Any, ...]:
    if made_by_recipe(cls):
        recipe: tuple[Any, ...] = cls.__dict__["compiled"].recipe
        return recipe
    return cls.__qualname__


copyreg.pickle(RecipeType, _reduce)
