"""Emitted modules as text, to be kept."""

from __future__ import annotations

import json
from dataclasses import asdict

from optdsl.backends.base import EntryPoint, SourceModule


def print_module(module: SourceModule) -> str:
    """A module as text that `parse_module` reads."""
    return json.dumps(asdict(module))


def parse_module(text: str) -> SourceModule:
    """The module of a text.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: it is none that `print_module` wrote.
    """
    found = json.loads(text)
    entries = {name: _entry(entry) for name, entry in found.pop("entries").items()}
    module = SourceModule(**found, entries=entries)
    _check_texts(module.name, module.language, module.text)
    if any(name != entry.name for name, entry in entries.items()):
        raise ValueError("an entry point has another name")
    return module


def _entry(fields: dict[str, object]) -> EntryPoint:
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    entry = EntryPoint(**known)  # type: ignore[arg-type]
    lists = (entry.states, entry.hypers, entry.keywords, entry.results, entry.dots)
    if not all(isinstance(names, tuple) for names in lists):
        raise ValueError("names are a list")
    _check_texts(entry.name, *(name for names in lists for name in names))
    _check_texts(*entry.buffers.keys(), *entry.buffers.values())
    if not isinstance(entry.takes_step, bool):
        raise ValueError("takes_step is true or false")
    return entry


def _check_texts(*texts: object) -> None:
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("a name or text is no string")
