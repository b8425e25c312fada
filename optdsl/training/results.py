"""The results of a comparison."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import fmean, stdev
from typing import Self

from optdsl.training.config import TrainingConfig

TAIL = 20  # steps at the end of a run whose mean is the final training loss


class Status(StrEnum):
    """How an optimizer's run ended."""

    FINISHED = "finished"
    DIVERGED = "diverged"
    INTERRUPTED = "interrupted"
    NOT_STARTED = "not started"


@dataclass(frozen=True)
class Record:
    """One training step.

    Attributes:
        step: Number of the step, from 1.
        train_loss: Loss of the step's batch before the update, nats per character.
        validation_loss: Loss on the validation windows after the update, nats per character, or
            None where it was not evaluated.
        learning_rate: Learning rate of the update.
        tokens_per_second: Characters of the batch over the duration of the step.
        seconds: Time spent in training steps so far; evaluation is not counted.
        metrics: The optimizer's learned coefficients and hyper-gradients after the update.
        processor_seconds: Processor time of this process in training steps so far, which other
            programs on the machine hardly change.
    """

    step: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    tokens_per_second: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    processor_seconds: float = 0.0

    @property
    def finite(self) -> bool:
        """Whether every loss of this step is finite."""
        return math.isfinite(self.train_loss) and math.isfinite(self.validation_loss or 0.0)


@dataclass(frozen=True)
class Run:
    """The training of one optimizer with one seed; losses are None where they are not known."""

    optimizer: str
    status: Status
    records: tuple[Record, ...] = ()
    seed: int = 0

    @property
    def outcome(self) -> str:
        """The status in words, with the last step of a run that ended early."""
        if self.status in (Status.FINISHED, Status.NOT_STARTED):
            return self.status.value
        return f"{self.status.value} at step {len(self.records)}"

    @property
    def seconds(self) -> float:
        """Time spent in training steps."""
        return self.records[-1].seconds if self.records else 0.0

    @property
    def final_train_loss(self) -> float | None:
        """Mean training loss of the last `TAIL` steps, nats per character."""
        if not self.records or self.status is Status.DIVERGED:
            return None
        return fmean(record.train_loss for record in self.records[-TAIL:])

    @property
    def final_validation_loss(self) -> float | None:
        """Validation loss of the last evaluation, nats per character."""
        if self.status is Status.DIVERGED:
            return None
        losses = (record.validation_loss for record in reversed(self.records))
        return next((loss for loss in losses if loss is not None), None)

    @property
    def coefficients(self) -> dict[str, float]:
        """Last values of the learned coefficients by name."""
        if not self.records:
            return {}
        metrics = self.records[-1].metrics
        return {name: value for name, value in metrics.items() if is_coefficient(name)}


@dataclass(frozen=True)
class Space:
    """The bounds of a learned coefficient, and the weight vector that it belongs to, if any."""

    low: float
    high: float
    simplex: str | None = None


@dataclass(frozen=True)
class Setup:
    """The settings of an optimizer.

    Attributes:
        learning_rate: The peak learning rate, which the schedule multiplies by a factor up to 1.
        origin: The origin of that: "file" (the optimizer's own default), "set", or "tuned".
        spaces: The bounds of learned coefficients, as far as they are known, by name.
    """

    learning_rate: float = math.nan
    origin: str = "file"
    spaces: Mapping[str, Space] = field(default_factory=dict)

    def space(self, metric: str) -> Space | None:
        """Returns the space of a metric; ``rho/0`` is the coefficient rho of a group."""
        return self.spaces.get(metric.partition("/")[0])


@dataclass(frozen=True)
class Spread:
    """A mean, and the standard deviation where there is more than one value."""

    mean: float
    deviation: float | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self | None:
        """Returns the spread of some values: NaN if one is not finite, None without values."""
        if not values:
            return None
        if not all(map(math.isfinite, values)):
            return cls(math.nan)
        return cls(fmean(values), stdev(values) if len(values) > 1 else None)


@dataclass(frozen=True)
class Entry:
    """All runs of one optimizer, one per seed.

    Means are over the finished runs, or over all runs if none has finished.  If one of the runs
    diverged there is no mean, since it would leave out the seeds with the worst results.
    """

    optimizer: str
    runs: tuple[Run, ...]
    setup: Setup = field(default_factory=Setup)

    @property
    def finished(self) -> bool:
        """Whether every run finished."""
        return all(run.status is Status.FINISHED for run in self.runs)

    @property
    def shown(self) -> tuple[Run, ...]:
        """The finished runs; if there are none, those that have taken a step."""
        finished = tuple(run for run in self.runs if run.status is Status.FINISHED)
        return finished or tuple(run for run in self.runs if run.records)

    @property
    def outcome(self) -> str:
        """How the runs ended, in words."""
        outcomes = [run.outcome for run in self.runs]
        if len(set(outcomes)) == 1:
            return outcomes[0]
        early = [run for run in self.runs if run.status is not Status.FINISHED]
        return "; ".join(f"seed {run.seed} {run.outcome}" for run in early)

    @property
    def seconds(self) -> float:
        """Time spent in the training steps of all runs."""
        return sum(run.seconds for run in self.runs)

    @property
    def train_loss(self) -> Spread | None:
        """Final training loss over the runs, nats per character."""
        return self._over([run.final_train_loss for run in self.shown])

    @property
    def validation_loss(self) -> Spread | None:
        """Final validation loss over the runs, nats per character."""
        return self._over([run.final_validation_loss for run in self.shown])

    @property
    def coefficients(self) -> dict[str, Spread]:
        """Last values of the learned coefficients over the runs, by name."""
        names = dict.fromkeys(name for run in self.shown for name in run.coefficients)
        values = {n: [run.coefficients.get(n, math.nan) for run in self.shown] for n in names}
        return {name: Spread.of(known) or Spread(math.nan) for name, known in values.items()}

    def _over(self, losses: Sequence[float | None]) -> Spread | None:
        if any(run.status is Status.DIVERGED for run in self.runs):
            return None
        return Spread.of([loss for loss in losses if loss is not None])


@dataclass(frozen=True)
class Comparison:
    """Results of training the same model with several optimizers.

    Attributes:
        config: The request.
        entries: The results of each optimizer, in the order of the request.
        characters: Length of the text; None where the task is not one of the config's text.
        vocabulary: Number of symbols; None likewise.
        parameters: Number of the model's parameters.
        unigram_entropy: Entropy of the symbol frequencies, nats per character: the loss of the
            best prediction that ignores the context.  None likewise.
        csv: Path of the log.
        figures: Paths of the figure, one per format.
        summary: Path of the summary in JSON.
        searches: The trials of the search for learning rates, by optimizer.
        unit: The unit of all losses.
        ceiling: The loss of a model without knowledge; None where there is none to speak of.
    """

    config: TrainingConfig
    entries: tuple[Entry, ...]
    characters: int | None
    vocabulary: int | None
    parameters: int
    unigram_entropy: float | None
    csv: Path
    figures: tuple[Path, ...]
    summary: Path
    searches: Mapping[str, tuple[Trial, ...]] = field(default_factory=dict)
    unit: str = "nats per character"
    ceiling: float | None = None

    @property
    def runs(self) -> tuple[Run, ...]:
        """Every run, by optimizer and then by seed."""
        return tuple(run for entry in self.entries for run in entry.runs)

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped the comparison before its end."""
        return any(run.status in (Status.INTERRUPTED, Status.NOT_STARTED) for run in self.runs)

    @property
    def best(self) -> Entry | None:
        """The optimizer with the lowest mean validation loss among those that finished."""
        losses = [(e.validation_loss, e) for e in self.entries if e.finished]
        known = [(loss.mean, entry) for loss, entry in losses if loss is not None]
        return min(known, key=lambda pair: pair[0])[1] if known else None


@dataclass(frozen=True)
class Trial:
    """A learning rate that was tried, and the validation loss that it led to.

    The loss is None where training diverged or the optimizer does not take the rate.
    """

    learning_rate: float
    validation_loss: float | None


def is_coefficient(metric: str) -> bool:
    """Whether a metric is a learned coefficient, and not its hyper-gradient."""
    return not metric.startswith("hypergradient/")
