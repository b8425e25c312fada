"""Shared libraries built from C text, kept from one process to the next.

A library is built in a temporary directory inside the cache and published by one rename, so that
other processes see all of it or nothing, even if this process is killed. A lock keeps others from
doing the same work and has no other purpose. If the cache cannot be used for any reason, the
library is built in a private directory.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
import stat
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from optdsl.runtime.build.cache_directory import (
    DIRECTORY_VARIABLE,
    cache_directory,
    entry_text,
    host,
    temporary_name,
)
from optdsl.runtime.build.toolchain import (
    LIBRARIES,
    BuildError,
    CompilerHangs,
    Toolchain,
    processor,
    toolchain,
)

_FORMAT = 1
_MANIFEST = "manifest.json"
_HOUR = 3600.0
_DAY = 24 * _HOUR

_ready: dict[tuple[str | None, str], Path] = {}
_turns: dict[str, threading.Lock] = {}
_warned = threading.Lock()

# The threads that hold these do not exist in a forked child, which would never see them released.
os.register_at_fork(after_in_child=_turns.clear)


def shared_library(text: str, name: str, *, timeout: float = 60.0) -> Path:
    """The path of a shared library built from C text, from the cache if possible.

    Args:
        text: the C text.
        name: the stem of the files; all but ASCII letters and digits become underscores.
        timeout: the number of seconds to wait for another thread or process that builds the same
            library before building a private copy.

    Raises:
        NoCompiler: no C compiler works.
        BuildError: the compiler refuses the text or does not finish, or no directory can be
            written to.
    """
    stem = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)[:100] or "_"
    wanted = _Wanted(text, stem, toolchain())
    place = (os.environ.get(DIRECTORY_VARIABLE), wanted.key)
    turn = _turns.setdefault(wanted.key, threading.Lock())
    mine = turn.acquire(timeout=timeout)
    try:
        library = _ready.get(place)
        if library is None or not library.is_file():
            library = _ready[place] = _obtain(wanted, timeout)
        return library
    finally:
        if mine:
            turn.release()


def discard(library: Path) -> None:
    """Remove a library that `shared_library` returned and that turned out to be damaged."""
    shutil.rmtree(library.parent, ignore_errors=True)


@dataclass(frozen=True)
class _Wanted:
    """A library to build: its text, the stem of its file, and the compiler."""

    text: str
    stem: str
    tools: Toolchain

    @functools.cached_property
    def key(self) -> str:
        made_of = (
            _FORMAT,
            self.text,
            self.stem,
            self.tools.identity,
            self.tools.flags,
            LIBRARIES,
            sys.platform,
            os.uname().machine,
            processor(),
        )
        return hashlib.sha256(repr(made_of).encode()).hexdigest()

    @property
    def file_name(self) -> str:
        return f"{self.stem}.so"


def _obtain(wanted: _Wanted, timeout: float) -> Path:
    """The library in the cache, or else in a private directory."""
    trouble: OSError | BuildError | None = None
    try:
        directory = cache_directory()
        entry = directory / wanted.key[:32]
        return _intact(entry, wanted) or _add(directory, entry, wanted, timeout)
    except TimeoutError:
        pass
    except CompilerHangs:
        raise
    except (OSError, BuildError) as error:
        # The reason may be a full disk. If it is the text, the second build fails, too.
        trouble = error
    library = _build_privately(wanted)
    if trouble is not None:
        _warn_once(trouble)
    return library


def _intact(entry: Path, wanted: _Wanted) -> Path | None:
    """The library of an entry, if it exists and is the one that its manifest describes."""
    library = entry / wanted.file_name
    try:
        manifest = json.loads(entry_text(entry / _MANIFEST))
        status = library.stat()
        good = (
            manifest["key"] == wanted.key
            and stat.S_ISREG(status.st_mode)
            and manifest["size"] == status.st_size
            and manifest["sha256"] == _digest(library)
        )
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    return library if good else None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _add(directory: Path, entry: Path, wanted: _Wanted, timeout: float) -> Path:
    """Build a library and publish it as an entry of the cache."""
    with _lock(directory, wanted.key, timeout):
        if theirs := _intact(entry, wanted):
            return theirs
        with _scratch(directory) as scratch:
            _build(wanted, scratch)
            _publish(scratch, entry, wanted)
    _sweep(directory)
    return entry / wanted.file_name


def _build(wanted: _Wanted, directory: Path) -> Path:
    source = directory / f"{wanted.stem}.c"
    library = directory / wanted.file_name
    source.write_text(wanted.text, encoding="utf-8")
    wanted.tools.build(source, library)
    manifest = {
        "format": _FORMAT,
        "key": wanted.key,
        "size": library.stat().st_size,
        "sha256": _digest(library),
        "compiler": wanted.tools.compiler,
        "version": wanted.tools.version,
        "flags": [*wanted.tools.flags, *LIBRARIES],
    }
    text = json.dumps(manifest, indent=2) + "\n"
    (directory / _MANIFEST).write_text(text, encoding="utf-8")
    return library


def _publish(scratch: Path, entry: Path, wanted: _Wanted) -> None:
    """Rename a finished directory to its entry; an intact entry of another process is kept."""
    try:
        os.rename(scratch, entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise
        if not _intact(entry, wanted):
            with _scratch(scratch.parent) as aside:
                os.rename(entry, aside / entry.name)
                os.rename(scratch, entry)


@contextlib.contextmanager
def _scratch(directory: Path) -> Iterator[Path]:
    scratch = directory / temporary_name()
    scratch.mkdir(mode=0o700)
    try:
        yield scratch
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextlib.contextmanager
def _lock(directory: Path, key: str, timeout: float) -> Iterator[None]:
    """Keep others from building the same library; the lock of a killed process is released.

    Raises:
        TimeoutError: another holder did not release it in time.
    """
    locks = directory / "locks"
    locks.mkdir(mode=0o700, exist_ok=True)
    # Lock files are never removed, since processes could then hold locks on different files of one
    # name. So that there are few of them, keys share them.
    descriptor = os.open(locks / key[:2], os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + timeout
        while not _locked(descriptor):
            if time.monotonic() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, "another process builds the same library")
            time.sleep(0.02)
        yield
    finally:
        # Closing does not release the lock if a forked child has the descriptor, too.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return True  # The file system has no locks, and the cache works without them.
    return True


def _sweep(directory: Path) -> None:
    """Remove the temporary files of killed processes."""
    for left in directory.glob("tmp-*"):
        with contextlib.suppress(OSError):
            status = left.lstat()
            age = time.time() - status.st_mtime
            # After a day, a running process of that number must be another one; the processes of
            # other hosts cannot be looked up.
            if age < _HOUR or (age < _DAY and not _dead(left.name)):
                continue
            if stat.S_ISDIR(status.st_mode):
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink()


def _dead(temporary: str) -> bool:
    """Whether the process that made a temporary file is known to have ended."""
    prefix, _, process = temporary.rpartition("-")[0].rpartition("-")
    if prefix != f"tmp-{host()}" or not process.isdecimal():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    return False


def _build_privately(wanted: _Wanted) -> Path:
    """Build a library in a directory that is removed when this process ends."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="optdsl-"))
        atexit.register(_remove, directory, os.getpid())
        return _build(wanted, directory)
    except OSError as error:
        raise BuildError(f"There is no place to build {wanted.file_name} in: {error}") from error


def _remove(directory: Path, owner: int) -> None:
    # A forked child inherits the call, too, but must not remove the directory.
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)


def _warn_once(trouble: OSError | BuildError) -> None:
    if not _warned.acquire(blocking=False):
        return
    if isinstance(trouble, BuildError):
        why = "the compiler cannot write to the cache directory"
    else:
        why = f"{trouble.strerror}: {trouble.filename}" if trouble.filename else str(trouble)
    warnings.warn(
        f"optdsl cannot keep compiled libraries ({why}), so every process compiles them again:"
        f" set {DIRECTORY_VARIABLE} to a directory of your own.",
        stacklevel=2,
    )
