"""Running a program that may never end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess


def finished(
    command: list[str], environment: dict[str, str], seconds: float
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without standard input; its output is text.

    The program and all processes that it starts have a process group of their own, which is killed
    when the wait ends early, also by an interrupt. Otherwise the parts that a compiler's driver
    starts would survive it and keep its output open.

    Raises:
        OSError: it cannot be run.
        TimeoutExpired: it did not finish within so many seconds, and was killed.
    """
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        process_group=0,
    ) as process:
        try:
            out, err = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()
            raise
    return subprocess.CompletedProcess(command, process.returncode, out, err)
