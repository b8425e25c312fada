"""What a comparison produces."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import fmean

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
    """

    step: int
    train_loss: float
    validation_loss: float | None
    learning_rate: float
    tokens_per_second: float
    seconds: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether every loss of this step is finite."""
        return math.isfinite(self.train_loss) and math.isfinite(self.validation_loss or 0.0)


@dataclass(frozen=True)
class Run:
    """The training of one optimizer; properties are None where there is nothing to report."""

    optimizer: str
    status: Status
    records: tuple[Record, ...] = ()

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
class Comparison:
    """Results of training the same model with several optimizers.

    Attributes:
        config: The request.
        runs: One run per optimizer, in the order of the request.
        characters: Length of the text.
        vocabulary: Number of symbols.
        parameters: Number of the model's parameters.
        unigram_entropy: Entropy of the symbol frequencies, nats per character: the loss of the
            best prediction that ignores the context.
        csv: Path of the log, one row per optimizer and step.
        figure: Path of the picture.
        summary: Path of the summary in JSON.
    """

    config: TrainingConfig
    runs: tuple[Run, ...]
    characters: int
    vocabulary: int
    parameters: int
    unigram_entropy: float
    csv: Path
    figure: Path
    summary: Path

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped the comparison before its end."""
        return any(run.status in (Status.INTERRUPTED, Status.NOT_STARTED) for run in self.runs)

    @property
    def best(self) -> Run | None:
        """The finished run with the lowest final validation loss."""
        finished = [run for run in self.runs if run.status is Status.FINISHED]
        return min(finished, key=lambda run: run.final_validation_loss or math.inf, default=None)


def is_coefficient(metric: str) -> bool:
    """Whether a metric is a learned coefficient rather than a diagnostic such as its gradient."""
    return not metric.startswith("hypergradient/")
