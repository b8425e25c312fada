"""Emitted modules as text, for the cache."""

from __future__ import annotations

import json
from dataclasses import asdict

from pydantic import TypeAdapter

from optdsl.backends.base import SourceModule

_MODULE = TypeAdapter(SourceModule)


def print_module(module: SourceModule) -> str:
    """A module as text that `parse_module` reads."""
    return json.dumps(asdict(module))


def parse_module(text: str) -> SourceModule:
    """The module of a text.

    Raises:
        ValueError: it is not a text that `print_module` wrote.
    """
    module = _MODULE.validate_json(text, strict=True)
    if any(name != entry.name for name, entry in module.entries.items()):
        raise ValueError("an entry point has another name")
    if print_module(module) != text:
        raise ValueError("there is something else in the text")
    return module
