"""Directories of specifications besides the library: given ones, and those of installed packages.

A directory is given by an option (``path``), or listed in the environment variable ``OPTDSL_PATH``.
A package names its directories by entry points of the group ``optdsl.specs``, whose values are
modules: the specifications are files of the package, which is not imported.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from optdsl.options import OptionError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

VARIABLE = "OPTDSL_PATH"
GROUP = "optdsl.specs"

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None


class SpecClashError(ValueError):
    """A name is that of several specifications.

    Attributes:
        name: The name that was asked for.
        places: The files, each with where it comes from.
    """

    def __init__(self, name: str, places: Sequence[str]) -> None:
        super().__init__(name, tuple(places))
        self.name = name
        self.places = tuple(places)

    def __str__(self) -> str:
        return (
            f"several specs are named {self.name!r}: {' and '.join(self.places)}; rename all but "
            f"one, or leave out a directory"
        )


@dataclass(frozen=True)
class File:
    """A specification outside the library.

    Attributes:
        name: the stem of the file.
        place: the file.
        origin: how its directory was found: "path", "OPTDSL_PATH", or "package" and a name.
    """

    name: str
    place: str
    origin: str

    def __str__(self) -> str:
        return f"{self.place} ({self.origin})"


@dataclass(frozen=True)
class Found:
    """What some directories hold.

    Attributes:
        files: the specifications by their folded names, each file once.
        troubles: a sentence about each directory that could not be read.
    """

    files: dict[str, tuple[File, ...]]
    troubles: tuple[str, ...]


_PATH: ContextVar[tuple[str, ...]] = ContextVar("path", default=())


@contextlib.contextmanager
def searching(paths: Paths) -> Iterator[None]:
    """Find specifications in these directories, too, until the block ends.

    Args:
        paths: one directory or several; None for no others than before.

    Raises:
        OptionError: for what is not a directory that can be read.
        TypeError: for what is not a path.
    """
    given = () if paths is None else (paths,) if isinstance(paths, str | os.PathLike) else paths
    directories = [os.path.abspath(os.fspath(path)) for path in given]
    for directory in directories:
        try:
            os.listdir(directory)
        except OSError as error:
            raise OptionError(
                f"path: {directory} is no directory of specifications: {error.strerror}"
            ) from None
    token = _PATH.set((*_PATH.get(), *directories))
    try:
        yield
    finally:
        _PATH.reset(token)


def given() -> Found:
    """What the directories hold that the user has given or listed."""
    listed = filter(None, os.environ.get(VARIABLE, "").split(os.pathsep))
    places = [("path", directory) for directory in _PATH.get()]
    return _read([*places, *((VARIABLE, os.path.abspath(directory)) for directory in listed)])


def everywhere() -> Found:
    """What `given` has, and what installed packages bring along."""
    places, troubles = [], []
    for point in _entry_points():
        origin = f"package {point.dist.name if point.dist else point.name}"
        try:
            places += [(origin, directory) for directory in _directories(point.value)]
        except Exception as error:  # finders of modules may raise anything
            troubles.append(f"{origin}: the entry point {point.name} = {point.value}: {error}")
    near, far = given(), _read(places)
    files = {name: _distinct([*near.files.get(name, ()), *own]) for name, own in far.files.items()}
    return Found(near.files | files, (*near.troubles, *far.troubles, *troubles))


def texts(found: Found) -> list[tuple[str, str]]:
    """The files and what they hold, in hexadecimal digits; what cannot be read is left out."""
    read = []
    for file in sorted({f.place for files in found.files.values() for f in files}):
        with contextlib.suppress(OSError):
            read.append((file, Path(file).read_bytes().hex()))
    return read


def folded(name: str) -> str:
    """A name in lower case and without signs between words, which do not count in look-ups."""
    return re.sub(r"[\W_]", "", name.lower())


def files_in(directory: str) -> dict[str, list[str]]:
    """The specifications in a directory: their paths by their folded names.

    Raises:
        OSError: for a directory that cannot be read.
    """
    with os.scandir(directory) as entries:
        names = sorted(e.name for e in entries if e.name.endswith(".opt") and e.is_file())
    found: dict[str, list[str]] = {}
    for name in names:
        if not name.startswith("."):
            place = os.path.join(directory, name)
            found.setdefault(folded(name.removesuffix(".opt")), []).append(place)
    return found


def _read(directories: Iterable[tuple[str, str]]) -> Found:
    """What directories hold, each with where it comes from."""
    files: dict[str, list[File]] = {}
    troubles = []
    for origin, directory in directories:
        try:
            inside = files_in(directory)
        except OSError as error:
            troubles.append(f"{origin}: cannot read {directory}: {error.strerror}")
            continue
        for name, places in inside.items():
            files.setdefault(name, []).extend(File(Path(p).stem, p, origin) for p in places)
    distinct = {name: _distinct(own) for name, own in files.items()}
    return Found(distinct, tuple(dict.fromkeys(troubles)))


def _distinct(files: Iterable[File]) -> tuple[File, ...]:
    """Each file once, as it was found first."""
    first: dict[str, File] = {}
    for file in files:
        first.setdefault(os.path.realpath(file.place), file)
    return tuple(first.values())


def _directories(value: str) -> list[str]:
    """The directories of a module, which is not imported: it may be a folder of data.

    Raises:
        ValueError, and whatever finders of modules raise: for one that is not there.
    """
    if not re.fullmatch(r"\w+(\.\w+)*", value):
        raise ValueError("it must be the name of a package, such as my_rules or my_rules.specs")
    first, *rest = value.split(".")
    module = importlib.util.find_spec(first)
    places = list(module.submodule_search_locations or ()) if module is not None else []
    if not places:
        raise ValueError(f"there is no package {first}")
    found = [place for p in places if os.path.isdir(place := os.path.join(p, *rest))]
    if not found:
        raise ValueError(f"there is no directory {os.path.join(places[0], *rest)}")
    return found


# The entry points that were read last, and what they were read from.
_READ: list[tuple[object, tuple[EntryPoint, ...]]] = []


def _entry_points() -> tuple[EntryPoint, ...]:
    """The entry points of the group, read again where a directory of packages has changed."""
    from importlib.metadata import entry_points

    times: list[tuple[str, int | None]] = []
    for directory in sys.path:
        try:
            times.append((directory, os.stat(directory or os.curdir).st_mtime_ns))
        except OSError:
            times.append((directory, None))
    if not _READ or _READ[0][0] != times:
        _READ[:] = [(times, tuple(entry_points(group=GROUP)))]
    return _READ[0][1]
