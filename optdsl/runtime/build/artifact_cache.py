"""Texts that take long to make, kept from one process to the next.

What the front half of the compiler makes of a specification is a text (`optdsl.ir.text`). It lies
in the cache directory beside the libraries, under a key of all that it was made from, the
compiler's own files included. A note that cannot be read or written is made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from optdsl.resources import PACKAGE, grammar_text, prelude_text
from optdsl.runtime.build.cache_directory import cache_directory, entry_text, temporary_name

_FORMAT = 2

T = TypeVar("T")


def noted(kind: str, key: Sequence[str], make: Callable[[], str], read: Callable[[str], T]) -> T:
    """What a note says, made now if it is not there or cannot be read.

    Args:
        kind: what it is about; notes of different kinds have different keys.
        key: everything that the text depends on, the compiler aside.
        make: makes the text; what it raises is not noted.
        read: makes of the text what is wanted; it raises something for a text that `make` cannot
            have made.
    """
    parts = json.dumps([_FORMAT, _COMPILER, grammar_text(), prelude_text(), kind, *key])
    whole = hashlib.sha256(parts.encode()).hexdigest()
    try:
        place = cache_directory() / "notes" / f"{whole[:32]}.json"
    except OSError:
        return read(make())
    # Whatever lies there is data of unknown origin, and anything that goes wrong says that it is
    # no note: it is made again.
    with contextlib.suppress(Exception):
        note = json.loads(entry_text(place))
        if note["sha256"] == _digest(whole, note["text"]):
            return read(note["text"])
    made = make()
    found = read(made)
    with contextlib.suppress(OSError):
        _write(place, {"text": made, "sha256": _digest(whole, made)})
    return found


def _digest(key: str, text: str) -> str:
    """Of a text under a key: a note that was moved to another place is none."""
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()


def _write(place: Path, note: dict[str, str]) -> None:
    place.parent.mkdir(mode=0o700, exist_ok=True)
    scratch = place.with_name(temporary_name())
    try:
        scratch.write_text(json.dumps(note), encoding="utf-8")
        os.replace(scratch, place)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)


def _compiler() -> str:
    """What identifies the compiler: its files, as they were when it was imported."""
    found = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*.py")):
        found.update(str(path.relative_to(PACKAGE)).encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


_COMPILER = _compiler()
