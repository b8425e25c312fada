"""Training a task with an optimizer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch.optim import Optimizer

from optdsl.studies.frame.keys import digest
from optdsl.studies.frame.values import Outcome, Result, Run
from optdsl.studies.runs.controls import PREFIX, Control, Script, prescribe, script_of
from optdsl.studies.runs.optimizers import Contestant
from optdsl.training.candidates import read_metrics
from optdsl.training.loop import Course, train
from optdsl.training.results import TAIL, Record, is_coefficient
from optdsl.training.tasks import Sources, find_task

CLIP = 1.0  # the norm to which every run cuts its gradients
EVALUATIONS = 20  # of a run


class Training(Run):
    """Trains a task; the numbers of the outcome are its last losses and its processor time.

    Attributes:
        task: The task.
        contestant: The optimizer.
        seed: Seed of weights and batches.
        steps: Training steps.
        constant: Whether the learning rate stays the same after its warm-up.
        control: What moves the coefficients in place of learning, if anything.
        text: A text for tasks of texts.
        images: A directory for tasks of images.
    """

    kind: Literal["training"] = "training"
    task: str
    contestant: Contestant
    seed: int
    steps: PositiveInt
    constant: bool = False
    control: Control | None = None
    text: Path | None = None
    images: Path | None = None

    modules: ClassVar[tuple[str, ...]] = (
        "optdsl.training.tasks",
        "optdsl.training.candidates",
        "optdsl.training.loop",
        "optdsl.training.model",
        "optdsl.training.text",
        "optdsl.studies.runs.controls",
        "optdsl.studies.runs.optimizers",
    )

    @property
    def label(self) -> str:
        """See `Run`."""
        control = "" if self.control is None else f" ({self.control.kind})"
        rate = self.contestant.hypers.get("lr")
        shown = "" if rate is None else f" lr {rate:.3g}"
        return f"{self.task}  {self.contestant.label}{control}{shown}  seed {self.seed}"

    @property
    def needs(self) -> tuple[str, ...]:
        """See `Run`."""
        return () if self.control is None else (self.control.of,)

    @property
    def weight(self) -> float:
        """See `Run`; the full size of each task takes seconds, of which there is no table."""
        return self.steps / find_task(self.task).steps

    def ingredients(self) -> tuple[str, ...]:
        """See `Run`."""
        files = [] if self.text is None else [_contents(self.text)]
        if self.images is not None:
            files += [_contents(path) for path in sorted(self.images.iterdir()) if path.is_file()]
        return *self.contestant.ingredients(), *files

    def execute(self, given: Mapping[str, Result]) -> Outcome:
        """See `Run`."""
        torch.manual_seed(self.seed)
        problem = find_task(self.task).problem(self.seed, Sources(self.text, self.images))
        contestant = self.contestant if self.control is None else self.contestant.frozen()
        optimizer = contestant.optimizer(list(problem.model.parameters()))
        getattr(optimizer, "train", lambda: None)()  # Schedule-Free wants to be told
        script = self._script(given)
        if script is not None:
            prescribe(optimizer, script(1))
        trace = _Trace(optimizer)
        interval = max(1, self.steps // EVALUATIONS)
        constant = self.constant or contestant.constant
        course = Course(self.steps, interval, self.seed, constant, CLIP)
        for record in train(problem, optimizer, course):
            trace.add(record)
            if script is not None and record.step < self.steps:
                prescribe(optimizer, script(record.step + 1))
        return trace.outcome()

    def _script(self, given: Mapping[str, Result]) -> Script | None:
        if self.control is None:
            return None
        program = self.contestant.elaboration().program
        return script_of(self.control, given[self.control.of], program, self.steps, self.seed)


class _Trace:
    """What is kept of a run."""

    def __init__(self, optimizer: Optimizer) -> None:
        self._records: list[Record] = []
        self._points: dict[str, list[float]] = {
            name: [] for name in ("step", "validation", "train", "seconds")
        }
        self._pending: list[float] = []
        self._first = read_metrics(optimizer)
        self._coefficients: dict[str, list[float]] = {}

    def add(self, record: Record) -> None:
        """Takes note of a step."""
        self._records.append(record)
        self._pending.append(record.train_loss)
        for name, value in record.metrics.items():
            if is_coefficient(name):
                start = [self._first.get(name, value)]
                self._coefficients.setdefault(name, start).append(value)
        if record.validation_loss is not None:
            point = (
                record.step,
                record.validation_loss,
                fmean(self._pending),
                record.processor_seconds,
            )
            for series, value in zip(self._points.values(), point, strict=True):
                series.append(value)
            self._pending = []

    def outcome(self) -> Outcome:
        """Returns the numbers and series of the run."""
        last = self._records[-1]
        finite = last.finite
        validation = self._points["validation"]
        tail = [record.train_loss for record in self._records[-TAIL:]]
        numbers = {
            "validation": validation[-1] if finite and validation else math.nan,
            "train": fmean(tail) if finite else math.nan,
            "seconds": last.processor_seconds,
            "steps": float(last.step),
            "diverged": float(not finite),
        }
        series = {name: tuple(values) for name, values in self._points.items()}
        series |= {PREFIX + name: tuple(xs) for name, xs in self._coefficients.items()}
        return Outcome(numbers, series)


@lru_cache(maxsize=64)
def _contents(path: Path) -> str:
    """Returns the hash of a file's contents."""
    return digest(path.read_bytes())
