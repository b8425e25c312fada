"""Results of the compiler as texts, kept from one process to the next.

A note is a text that takes long to make, such as a program (`optdsl.ir.text`). It is stored in the
cache directory, beside the libraries, under a hash of everything that it depends on, including the
compiler's own files. A note that cannot be read is made again; one that cannot be written is not
kept.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import TypeVar

from optdsl.resources import PACKAGE, grammar_text, prelude_text
from optdsl.runtime.build.cache_directory import cache_directory, entry_text, write_entry

_FORMAT = 2

T = TypeVar("T")


def noted(
    kind: str,
    key: Sequence[str],
    make: Callable[[], str],
    read: Callable[[str], T],
    holds: Callable[[], bool] = lambda: True,
) -> T:
    """The result that a note holds, made now if there is no valid note.

    Args:
        kind: the kind of note; notes of different kinds do not share keys.
        key: everything that the text depends on besides the compiler.
        make: makes the text; its exceptions are passed on, and nothing is kept then.
        read: makes the result from the text; it raises an exception for a text that `make` cannot
            have made.
        holds: says, when the text has been made, whether what the key was made of is still so. A
            text that may be made of something else is not kept.
    """
    parts = json.dumps([_FORMAT, _COMPILER, grammar_text(), prelude_text(), kind, *key])
    whole = hashlib.sha256(parts.encode()).hexdigest()
    try:
        place = cache_directory() / "notes" / f"{whole[:32]}.json"
    except OSError:
        return read(make())
    # The file may hold anything. Whatever goes wrong shows that it is not a valid note.
    with contextlib.suppress(Exception):
        note = json.loads(entry_text(place))
        if note["sha256"] == _digest(whole, note["text"]):
            return read(note["text"])
    made = make()
    found = read(made)
    # Parts of the compiler are imported by what makes the text, and may be newer than this one.
    if not holds() or _compiler() != _COMPILER:
        return found
    with contextlib.suppress(OSError):
        write_entry(place, json.dumps({"text": made, "sha256": _digest(whole, made)}))
    return found


def _digest(key: str, text: str) -> str:
    """The hash of a text and its key, so that a note that was moved is not valid."""
    return hashlib.sha256(f"{key}\n{text}".encode()).hexdigest()


def _compiler() -> str:
    """A hash of the compiler's files, as they were when it was imported."""
    found = hashlib.sha256()
    for path in sorted(glob.glob("**/*.py", root_dir=PACKAGE, recursive=True)):
        found.update(path.encode() + b"\0" + (PACKAGE / path).read_bytes())
    return found.hexdigest()


_COMPILER = _compiler()
