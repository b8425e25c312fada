"""Running a program that may never end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


class StillRunning(Exception):
    """A program did not finish in time."""


def finished(
    command: list[str], environment: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without standard input; its output is text.

    The program has a process group of its own, with all that it starts. Whatever ends the wait,
    an interrupt included, ends the group: a compiler's driver leaves its parts behind otherwise,
    which keep its output open.

    Raises:
        OSError: it cannot be run.
        StillRunning: it has not finished after so many seconds, and was ended.
    """
    process = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    )
    try:
        out, err = process.communicate(timeout=seconds)
    except BaseException as trouble:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        if isinstance(trouble, subprocess.TimeoutExpired):
            raise StillRunning from trouble
        raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
