"""Progress of the runs, as bars on a terminal and as plain lines elsewhere."""

from contextlib import AbstractContextManager, nullcontext
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from optdsl.training.config import TrainingConfig
from optdsl.training.results import Record, Run, Status


def print_plainly(console: Console, text: str) -> None:
    """Prints a text as it is, without markup, colours or line breaks of Rich's own."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


class Reporter:
    """Receives what happens during a comparison; this one does nothing with it."""

    def advance(self, optimizer: str, seed: int, record: Record) -> None:
        """Reports a training step."""

    def finish(self, run: Run) -> None:
        """Reports the end of a run."""


class Lines(Reporter):
    """Prints a line after every tenth of a run, and one at the end of a run that failed."""

    def __init__(self, console: Console, config: TrainingConfig) -> None:
        """Creates a reporter that prints to `console`."""
        self._console, self._config = console, config
        self._runs = config.seeds * len(config.labels)
        self._finished = 0
        self._taken, self._spent = 0, 0.0  # steps and seconds of all runs that have ended
        self._last: Record | None = None
        self._validation: float | None = None

    def advance(self, optimizer: str, seed: int, record: Record) -> None:
        """Prints a line after every tenth of the run."""
        if record.step == 1:
            self._validation = None
        if record.validation_loss is not None:
            self._validation = record.validation_loss
        self._last = record
        config, steps = self._config, self._config.steps
        if record.step % max(1, steps // 10) and record.step != steps:
            return
        left = record.seconds / record.step * (steps - record.step)
        parts = [
            self._name(optimizer, seed),
            f"run {self._finished + 1} of {self._runs}" if self._runs > 1 else "",
            f"step {record.step:>{len(str(steps))}}/{steps}",
            f"loss {record.train_loss:.3f}",
            "" if self._validation is None else f"validation {self._validation:.3f}",
            f"{config.batch * config.block * record.step / record.seconds:.0f} tokens/s",
            f"{left:.0f} s left" + self._whole(record, left),
        ]
        print_plainly(self._console, "  ".join(part for part in parts if part))

    def finish(self, run: Run) -> None:
        """Prints how the run ended, unless it finished."""
        self._finished += 1
        if self._last is not None:
            self._taken += self._last.step
            self._spent += self._last.seconds
            self._last = None
        if run.status is not Status.FINISHED:
            name = self._name(run.optimizer, run.seed)
            print_plainly(self._console, f"{name}  {run.outcome}")

    def _whole(self, record: Record, left: float) -> str:
        """Returns the time left for all runs, estimated from the average pace so far."""
        if self._runs == 1:
            return ""
        pace = (self._spent + record.seconds) / (self._taken + record.step)
        later = (self._runs - self._finished - 1) * self._config.steps
        return f", about {left + pace * later:.0f} s for all runs"

    def _name(self, optimizer: str, seed: int) -> str:
        width = max(map(len, self._config.labels))
        return f"{optimizer:<{width}}" + (f"  seed {seed}" if self._config.seeds > 1 else "")


class Bars(Reporter):
    """Shows a progress bar for all runs of each optimizer, and one for all optimizers."""

    def __init__(self, console: Console, config: TrainingConfig) -> None:
        """Creates a reporter that draws on `console` while it is entered as a context."""
        self._tokens = config.batch * config.block
        self._seeds = config.all_seeds
        self._steps = config.steps
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.completed:.0f}/{task.total:.0f}", justify="right"),
            TextColumn("{task.fields[loss]}", markup=False),
            TextColumn("{task.fields[rate]}", markup=False, justify="right"),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            console=console,
            expand=True,
        )
        steps = config.steps * config.seeds
        self._tasks = {label: self._bar(label, steps) for label in config.labels}
        self._ended = 0
        runs = config.seeds * len(config.labels)
        self._all = self._bar("all runs", config.steps * runs) if runs > 1 else None

    def _bar(self, label: str, steps: int) -> TaskID:
        return self._progress.add_task(label, start=False, total=steps, loss="", rate="")

    def __enter__(self) -> Self:
        """Starts drawing."""
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stops drawing and leaves the bars as they are."""
        self._progress.stop()

    def advance(self, optimizer: str, seed: int, record: Record) -> None:
        """Moves the optimizer's bar."""
        task = self._tasks[optimizer]
        if record.step == 1:
            self._progress.start_task(task)
            if self._all is not None and self._ended == 0:
                self._progress.start_task(self._all)
        if self._all is not None:
            self._progress.update(self._all, completed=self._ended * self._steps + record.step)
        rate = self._tokens * record.step / record.seconds
        self._progress.update(
            task,
            completed=self._steps * (seed - self._seeds.start) + record.step,
            loss=f"loss {record.train_loss:.3f}",
            rate=f"{rate / 1000:.1f}k tokens/s",
        )

    def finish(self, run: Run) -> None:
        """Counts a run, and marks one that did not finish."""
        self._ended += 1
        if self._all is not None:
            self._progress.update(self._all, completed=self._ended * self._steps)
            if run.status is Status.INTERRUPTED:
                self._progress.stop_task(self._all)
        if run.status is not Status.FINISHED:
            task = self._tasks[run.optimizer]
            self._progress.update(task, loss=run.status.value)
            if run.seed == self._seeds[-1] or run.status is Status.INTERRUPTED:
                self._progress.stop_task(task)


def reporter(console: Console | None, config: TrainingConfig) -> AbstractContextManager[Reporter]:
    """Returns the reporter for a console; None reports nothing."""
    if console is None:
        return nullcontext(Reporter())
    if console.is_terminal:
        return Bars(console, config)
    return nullcontext(Lines(console, config))
