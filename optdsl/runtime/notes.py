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

from optdsl.resources import PACKAGE, grammar_text, prelude_text
from optdsl.runtime.toolchain import cache_directory, temporary_name

_FORMAT = 1


def noted(kind: str, key: Sequence[str], make: Callable[[], str]) -> str:
    """The text of a note, made now if it is not there.

    Args:
        kind: what it is about; notes of different kinds have different keys.
        key: everything that the text depends on, the compiler aside.
        make: makes the text; what it raises is not noted.
    """
    parts = json.dumps([_FORMAT, _COMPILER, grammar_text(), prelude_text(), kind, *key])
    name = hashlib.sha256(parts.encode()).hexdigest()[:32]
    try:
        place = cache_directory() / "notes" / f"{name}.json"
    except OSError:
        return make()
    found = _read(place)
    if found is None:
        found = make()
        with contextlib.suppress(OSError):
            _write(place, found)
    return found


def _read(place: Path) -> str | None:
    try:
        note = json.loads(place.read_text(encoding="utf-8"))
        text, digest = note["text"], note["sha256"]
        return text if hashlib.sha256(text.encode()).hexdigest() == digest else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _write(place: Path, text: str) -> None:
    place.parent.mkdir(mode=0o700, exist_ok=True)
    scratch = place.with_name(temporary_name())
    try:
        note = {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
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
