"""The cache directory: where it is, and how its files are named, read and written."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

DIRECTORY_VARIABLE = "OPTDSL_CACHE_DIR"

# Far more than any text that the compiler writes.
_MOST_BYTES = 1 << 26


def temporary_name() -> str:
    """A name for an unfinished file or directory, with the host and process that it belongs to."""
    return f"tmp-{host()}-{os.getpid()}-{os.urandom(8).hex()}"


def host() -> str:
    """This machine's name, as `temporary_name` spells it."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in os.uname().nodename)[:64]


def cache_directory() -> Path:
    """The directory for libraries and other results of the compiler, created if it is missing.

    Raises:
        OSError: it cannot be created, or it is not safe for programs that this user will run.
    """
    directory = _chosen_directory()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = directory.stat()
    if status.st_uid != os.geteuid():
        raise PermissionError(errno.EPERM, "it belongs to another user", str(directory))
    if status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "other users may write to it", str(directory))
    if os.statvfs(directory).f_flag & getattr(os, "ST_NOEXEC", 0):
        raise PermissionError(errno.EPERM, "programs in it may not run", str(directory))
    return directory


def _chosen_directory() -> Path:
    try:
        if chosen := os.environ.get(DIRECTORY_VARIABLE):
            return Path(chosen).expanduser().absolute()
        if os.path.isabs(general := os.environ.get("XDG_CACHE_HOME", "")):
            return Path(general, "optdsl")
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "optdsl"
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, "the user has no home", "~") from error


def entry_text(path: Path) -> str:
    """The text of a file in the cache directory.

    Raises:
        OSError: it is missing, no regular file, or too large to be one of the compiler's.
        ValueError: it is not UTF-8.
    """
    # Without O_NONBLOCK, opening a pipe would wait for a writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(errno.EINVAL, "it is no file that optdsl wrote", str(path))
        return file.read(_MOST_BYTES).decode()


def write_entry(path: Path, text: str) -> None:
    """Write a file in a folder of the cache directory; readers see all of it or nothing.

    A process that is killed meanwhile leaves a temporary file in the cache directory itself, where
    `library_cache` removes it later.

    Raises:
        OSError: it cannot be written.
    """
    temporary = path.parents[1] / temporary_name()
    try:
        temporary.write_text(text, encoding="utf-8")
        path.parent.mkdir(mode=0o700, exist_ok=True)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
