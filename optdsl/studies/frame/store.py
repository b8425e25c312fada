"""The results on disk, one file per run, and the locks that keep studies out of each other's way.

A file is published by one rename, so that it is there as a whole or not at all.  Whoever carries a
run out holds a lock of the operating system on a file beside it, which ends with the process even
if that is killed.
"""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import IO

from optdsl.studies.errors import StudyError
from optdsl.studies.frame.values import Result


class Store:
    """The directory of results."""

    def __init__(self, directory: Path) -> None:
        """Creates the directory unless it exists.

        Raises:
            StudyError: It cannot be created or written to.
        """
        self._directory = directory
        self._held: dict[str, IO[str]] = {}
        try:
            directory.mkdir(parents=True, exist_ok=True)
            probe = directory / f".probe.{os.getpid()}"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise StudyError(
                f"cannot write to directory '{directory}': {error.strerror or error}; "
                "give another one with --out"
            ) from None

    def read(self, key: str) -> Result | None:
        """Returns the result of a run; None if there is none, or if its file is damaged."""
        try:
            result = Result.from_json(json.loads(self._path(key).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        return result if result.key == key else None

    def write(self, result: Result) -> None:
        """Publishes a result.

        Raises:
            StudyError: It cannot be written.
        """
        path = self._path(result.key)
        temporary = path.with_name(f".{result.key}.{os.getpid()}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as file:
                json.dump(result.as_json(), file, allow_nan=False)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StudyError(f"cannot write '{path}': {error.strerror or error}") from None
        finally:
            temporary.unlink(missing_ok=True)

    def acquire(self, key: str) -> bool:
        """Takes the lock of a run; False if another process has it."""
        file = (self._directory / f"{key}.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return False
        self._held[key] = file
        return True

    def release(self, key: str) -> None:
        """Gives the lock of a run back, after its result was written or when it is given up.

        A process that has opened the file before it is removed may still lock it; so whoever gets
        a lock looks for a result first.
        """
        (self._directory / f"{key}.lock").unlink(missing_ok=True)
        self._held.pop(key).close()

    def close(self) -> None:
        """Gives all locks back."""
        for key in list(self._held):
            self.release(key)

    def _path(self, key: str) -> Path:
        return self._directory / f"{key}.json"
