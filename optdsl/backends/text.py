"""Emitted modules as text, for the cache."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

from optdsl.backends.base import EntryPoint, SourceModule


def print_module(module: SourceModule) -> str:
    """A module as text that `parse_module` reads."""
    return json.dumps(asdict(module))


def parse_module(text: str) -> SourceModule:
    """The module of a text.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is not a text that `print_module`
            wrote.
    """
    found = json.loads(text)
    entries = {name: _entry(entry) for name, entry in found["entries"].items()}
    module = SourceModule(
        _text(found["name"]), _text(found["language"]), _text(found["text"]), entries
    )
    if any(name != entry.name for name, entry in module.entries.items()):
        raise ValueError("an entry point has another name")
    if print_module(module) != text:
        raise ValueError("there is something else in the text")
    return module


def _entry(found: Mapping[str, Any]) -> EntryPoint:
    return EntryPoint(**{f.name: _READ[str(f.type)](found[f.name]) for f in fields(EntryPoint)})


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise ValueError(f"{value!r} is no list")
    return tuple(map(_text, value))


# What reads the fields of an entry point, by their types.
_READ: dict[str, Callable[[Any], Any]] = {
    "str": _text,
    "bool": _flag,
    "tuple[str, ...]": _texts,
    "Mapping[str, str]": lambda value: {_text(k): _text(v) for k, v in value.items()},
}
