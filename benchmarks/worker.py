"""Tasks in processes of their own: fresh memory, bounded time, and a crash ends nothing else."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MARK = "RESULT "  # before the result on the last line of a worker's output

# A task is a function of keyword arguments, imported where it runs.
TASKS = {
    "environment": "benchmarks.machine:environment",
    "heat": "benchmarks.heat:run",
    "rules": "benchmarks.floors:rules",
    "floor": "benchmarks.floors:run",
    "lightbench": "benchmarks.lightbench:run",
    "memory": "benchmarks.memory:run",
    "startup": "benchmarks.startup:run",
}


class Unavailable(Exception):
    """Something cannot be measured here; the text says why."""


def call(
    task: str, timeout: float, environment: Mapping[str, str] | None = None, /, **arguments: Any
) -> dict[str, Any]:
    """Runs a task in a new process and returns its result.

    Args:
        task: one of `TASKS`.
        timeout: seconds after which the process is given up.
        environment: variables to set for it.
        **arguments: what the function takes, as JSON knows it.

    Raises:
        Unavailable: the process failed or took too long.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", task, json.dumps(arguments)],
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it starts in turn can be ended with it
    )
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        _end(process)
        raise Unavailable(f"not ready after {timeout:.0f} s") from None
    except BaseException:
        _end(process)
        raise
    for line in reversed(output.splitlines()):
        if line.startswith(MARK):
            return dict(json.loads(line.removeprefix(MARK)))
    raise Unavailable(_reason(process.returncode, errors))


def _end(process: subprocess.Popen[str]) -> None:
    """Ends a process and all that it has started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def _reason(code: int, errors: str) -> str:
    """Why a process ended without a result, in a line."""
    if code == -signal.SIGKILL:
        return "the system ended the process; most likely there was not enough memory"
    if code < 0:
        return f"the process ended with {signal.Signals(-code).name}"
    lines = [line for line in errors.splitlines() if line.strip()]
    return lines[-1].strip() if lines else f"the process ended with status {code}"


def explain(error: BaseException) -> str:
    """An error as the first line of its message, with its kind where that says more."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    return f"{kind}: {lines[0]}" if lines else kind


def main(task: str, arguments: str) -> None:
    """Runs a task in this process and prints its result, with the warnings that it gave."""
    module, function = TASKS[task].split(":")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        result = getattr(importlib.import_module(module), function)(**json.loads(arguments))
    ours = (w for w in caught if issubclass(w.category, UserWarning | RuntimeWarning))
    result["warnings"] = list(dict.fromkeys(str(w.message).splitlines()[0] for w in ours))
    print(f"\n{MARK}{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
