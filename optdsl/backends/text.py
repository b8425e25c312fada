"""Emitted modules as text, to be kept."""

from __future__ import annotations

import json
from dataclasses import asdict

from optdsl.backends.base import EntryPoint, SourceModule


def print_module(module: SourceModule) -> str:
    """A module as text that `parse_module` reads."""
    return json.dumps(asdict(module))


def parse_module(text: str) -> SourceModule:
    """The module of a text."""
    found = json.loads(text)
    entries = {name: _entry(entry) for name, entry in found.pop("entries").items()}
    return SourceModule(**found, entries=entries)


def _entry(fields: dict[str, object]) -> EntryPoint:
    known = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return EntryPoint(**known)  # type: ignore[arg-type]
