"""The cache directory: where it is, and how what lies in it is named and read."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

DIRECTORY_VARIABLE = "OPTDSL_CACHE_DIR"

# Far more than any text of the compiler takes.
_MOST_BYTES = 1 << 26


def temporary_name() -> str:
    """A name for a file or directory in the making, which tells whose it is."""
    return f"tmp-{host()}-{os.getpid()}-{os.urandom(8).hex()}"


def host() -> str:
    """This machine's name, as `temporary_name` spells it."""
    return "".join(c if c.isascii() and c.isalnum() else "_" for c in os.uname().nodename)[:64]


def cache_directory() -> Path:
    """The directory for libraries and for what is known of compilers; made where it is missing.

    Raises:
        OSError: there is none, or it is no place for programs that this user will run.
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
    """The text of a file in the cache directory, whatever lies there.

    Raises:
        OSError: there is no regular file, or it is too large to be one of the compiler's.
        ValueError: it is no UTF-8.
    """
    # A pipe would be waited for otherwise.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MOST_BYTES:
            raise OSError(errno.EINVAL, "it is no file that optdsl wrote", str(path))
        return file.read(_MOST_BYTES).decode()
