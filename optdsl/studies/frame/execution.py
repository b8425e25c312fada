"""Carrying out one run, and the protocol of those that carry out many."""

from __future__ import annotations

import time
import traceback
from collections.abc import Mapping
from typing import Protocol

from optdsl.studies.frame.keys import circumstances
from optdsl.studies.frame.values import Result, Run, Status


def execute(run: Run, given: Mapping[str, Result]) -> Result:
    """Carries out a run; an exception in it becomes a result that says so."""
    started = time.perf_counter()
    data = run.model_dump(mode="json")
    try:
        outcome = run.execute(given)
    except Exception as error:
        return Result(
            run.key,
            data,
            Status.FAILED,
            message=first_line(error),
            details=traceback.format_exc(),
            seconds=time.perf_counter() - started,
            notes=circumstances(),
        )
    seconds = time.perf_counter() - started
    return Result(run.key, data, Status.FINISHED, outcome, seconds=seconds, notes=circumstances())


def lost(run: Run, message: str) -> Result:
    """Returns the result of a run whose process did not come back."""
    return Result(run.key, run.model_dump(mode="json"), Status.FAILED, message=message)


def first_line(error: BaseException) -> str:
    """Returns the type of an error and the first line of its message."""
    lines = (line.strip() for line in str(error).splitlines())
    message = next((line for line in lines if line), "")
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


class Executor(Protocol):
    """Carries out several runs at a time."""

    slots: int
    """How many."""

    def submit(self, run: Run, given: Mapping[str, Result]) -> None:
        """Starts a run; there are never more in progress than there are slots."""

    def wait(self, seconds: float) -> list[tuple[Run, Result]]:
        """Returns the runs that have ended; waits for one for some time."""

    def close(self) -> None:
        """Ends what is in progress, without results."""
