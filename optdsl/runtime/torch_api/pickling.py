"""Pickling of classes that no module holds: by the recipe that makes them again."""

from __future__ import annotations

import copyreg
from typing import Any


class RecipeType(type):
    """The type of optimizer classes; one that was compiled pickles as its recipe."""


def made_by_recipe(cls: type) -> bool:
    """Whether a class was compiled, unlike a subclass that somebody wrote in a module."""
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
