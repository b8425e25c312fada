"""Jobs that some threads share for as long as a step takes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch

T = TypeVar("T")

# Threads share a step up to so many: each call of torch is made by Python, which runs one thread at
# a time, and calls of a piece take some four times as long as what Python does for them. Where
# torch uses more threads, they share every operation instead.
MOST = 4
# A thread is not worth its start for fewer jobs than this.
LEAST = 4


def shared(jobs: deque[T], run: Callable[[Iterator[T]], None]) -> None:
    """Does some jobs in as many threads as torch uses; all of them have ended on return.

    Torch divides no operation among threads meanwhile. There is one thread only where somebody
    observes what this one calls, for other threads are not observed.

    Args:
        jobs: in the order in which they are begun; empty afterwards.
        run: does the jobs that it is given, in the thread where it is called.

    Raises:
        BaseException: what `run` has raised in any thread; jobs that were not begun are left out.
    """
    number = torch.get_num_threads()
    wanted = 1 if _observed() else min(number, len(jobs) // LEAST)
    helpers = [_Helper(jobs, run) for _ in range(wanted - 1)]
    started: list[_Helper] = []
    try:
        torch.set_num_threads(1)
        for helper in helpers:
            try:
                helper.start()
            except RuntimeError:
                break  # The system has no more threads, or the interpreter is about to end.
            started.append(helper)
        run(taken(jobs))
    finally:
        # After an error nobody begins another job.
        jobs.clear()
        for helper in started:
            helper.join()
        torch.set_num_threads(number)
    for helper in started:
        if helper.error is not None:
            raise helper.error


def taken(jobs: deque[T]) -> Iterator[T]:
    """Jobs, each of which is removed when somebody asks for it."""
    while True:
        try:
            job = jobs.popleft()
        except IndexError:
            return
        yield job


class _Helper(threading.Thread):
    """A thread that takes jobs from a queue.

    Attributes:
        error: what was raised, once the thread has ended.
    """

    def __init__(self, jobs: deque[Any], run: Callable[[Iterator[Any]], None]) -> None:
        super().__init__(name="optdsl-pieces")
        self._jobs, self._run = jobs, run
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            # How many threads an operation may have is a property of the thread that calls it.
            torch.set_num_threads(1)
            self._run(taken(self._jobs))
        except BaseException as error:  # It is raised in the thread that waits for this one.
            self._jobs.clear()
            self.error = error


def _observed() -> bool:
    """Whether calls of this thread are recorded, or go to somebody else first."""
    return bool(
        torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._autograd._profiler_enabled()
    )
