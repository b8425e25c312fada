"""Progress of the runs: a bar on a terminal, and plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from optdsl.studies.frame.values import Result, Run
from optdsl.words import counted


class Reporter:
    """Tells how many runs have ended, and how long the others will take."""

    def __init__(self, console: Console | None, slots: int) -> None:
        """Prints to a console, if there is one."""
        self._console, self._slots = console, slots
        self._bar: Progress | None = None
        self._started = time.perf_counter()
        self._done, self._work, self._spent = 0, 0.0, 0.0
        self._queued, self._left = 0, 0.0
        if console is not None and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.completed:.0f}/{task.total:.0f} runs"),
                BarColumn(bar_width=None),
                TextColumn("{task.fields[left]}", markup=False),
                TextColumn("{task.fields[last]}", markup=False),
                console=console,
                expand=True,
            )
            self._task = self._bar.add_task("runs", total=None, left="", last="")

    def __enter__(self) -> Self:
        """Starts to draw."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Stops drawing, and leaves the bar as it is."""
        if self._bar is not None:
            self._bar.stop()

    def plan(self, runs: list[Run], known: int) -> None:
        """Takes note of runs that are to be carried out; `known` others were done before."""
        self._queued += len(runs)
        self._left += sum(run.weight for run in runs)
        if runs or known:
            stored = f", {known} found in the store" if known else ""
            self._say(f"{counted(len(runs), 'run')} to do{stored}")
        self._draw("")

    def end(self, run: Run, result: Result) -> None:
        """Reports the end of a run."""
        self._done, self._left = self._done + 1, self._left - run.weight
        self._work, self._spent = self._work + run.weight, self._spent + result.seconds
        told = f"{run.label}  {result.seconds:.1f} s"
        if not result.finished:
            told = f"{run.label}  failed: {result.message}"
        if self._bar is None or not result.finished:
            self._say(f"{self._done}/{self._queued}  {told}  {self.left()}")
        self._draw(told)

    def left(self) -> str:
        """Returns the time left in words, estimated from the pace so far."""
        if not self._work or self._done == self._queued:
            return ""
        elapsed = time.perf_counter() - self._started
        pace = min(elapsed, self._spent / self._slots) / self._work
        seconds = round(pace * max(0.0, self._left))
        minutes, seconds = divmod(seconds, 60)
        return f"about {minutes} min {seconds} s left" if minutes else f"about {seconds} s left"

    def _draw(self, last: str) -> None:
        if self._bar is not None:
            kept = last if len(last) < 48 else f"{last[:45]}..."
            self._bar.update(
                self._task, completed=self._done, total=self._queued, left=self.left(), last=kept
            )

    def _say(self, text: str) -> None:
        if self._console is not None:
            self._console.print(text.rstrip(), markup=False, highlight=False, soft_wrap=True)
