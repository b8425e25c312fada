"""What an optimizer keeps from one step to the next, each kind of value under its own type."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, TypeVar

Kept = TypeVar("Kept")


class StepCache:
    """Values that save work in later steps; a cache may be replaced by an empty one at any time.

    A value is found by its type and by what it belongs to, such as an engine and the name of an
    entry point. So a reader gets what it asked for, and the type checker knows it. A cache can be
    kept in another one, for a part that has steps of its own.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._kept: dict[Any, Any] = {}

    def get(self, kind: type[Kept], *owner: Hashable) -> Kept:
        """The value of a type; ``kind()`` is kept and returned where there is none yet."""
        key = (kind, *owner)
        found: Kept | None = self._kept.get(key)
        if found is None:
            found = self._kept[key] = kind()
        return found

    def find(self, kind: type[Kept], *owner: Hashable) -> Kept | None:
        """The value of a type; None where there is none."""
        return self._kept.get((kind, *owner))

    def put(self, value: object, *owner: Hashable) -> None:
        """Keep a value under its type, in place of an older one."""
        self._kept[type(value), *owner] = value
