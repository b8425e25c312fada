"""Runs in processes of this machine, each with one thread."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING

from optdsl.studies.frame.execution import execute, lost
from optdsl.studies.frame.values import Result, Run

if TYPE_CHECKING:
    from collections.abc import Iterator

# A run has one thread, so that as many runs as there are processors do not wait for each other.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Local:
    """Processes that each carry out one run after the other.

    A process that dies (of a signal, or for want of memory) fails its run, and is replaced.
    """

    def __init__(self, processes: int | None = None) -> None:
        """Starts no process yet; by default there will be as many as there are processors."""
        self.slots = processes or _processors()
        self._idle: list[_Worker] = []
        self._busy: dict[Connection, tuple[_Worker, Run]] = {}

    def submit(self, run: Run, given: Mapping[str, Result]) -> None:
        """See `Executor`."""
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy[worker.connection] = worker, run
        with suppress(BrokenPipeError):  # its end is seen by `wait`
            worker.connection.send((run, dict(given)))

    def wait(self, seconds: float) -> list[tuple[Run, Result]]:
        """See `Executor`."""
        ended = []
        for connection in wait(list(self._busy), seconds):
            assert isinstance(connection, Connection)
            worker, run = self._busy.pop(connection)
            try:
                result: Result = connection.recv()
                self._idle.append(worker)
            except (EOFError, OSError):
                result = lost(run, worker.ending())
            ended.append((run, result))
        return ended

    def close(self) -> None:
        """See `Executor`."""
        workers = [*self._idle, *(worker for worker, _ in self._busy.values())]
        self._idle, self._busy = [], {}
        for worker in workers:
            worker.stop()


class _Worker:
    """A process, and the connection to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        with _single_threads():
            self._process: SpawnProcess = context.Process(target=_work, args=(theirs,), daemon=True)
            self._process.start()
        theirs.close()

    def ending(self) -> str:
        """Says how the process ended."""
        self._process.join(10)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"the process of the run was ended by {name}, perhaps for want of memory"
        return f"the process of the run ended early, with the exit status {code}"

    def stop(self) -> None:
        """Ends the process at once."""
        self.connection.close()
        self._process.terminate()
        self._process.join(10)


def _work(connection: Connection) -> None:
    """Carries out the runs that come, until the other end is closed."""
    # An interrupt in the terminal reaches every process; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, OSError):
        while True:
            run, given = connection.recv()
            connection.send(execute(run, given))


def _end_with_parent() -> None:
    """Ends this process as soon as its parent has ended, even by SIGKILL.

    Nobody could receive the result of the run in progress.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _single_threads() -> Iterator[None]:
    """Sets the variables of the environment that a new process reads."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _processors() -> int:
    """The number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
