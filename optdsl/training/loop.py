"""Training one optimizer."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from optdsl.training.candidates import read_metrics
from optdsl.training.config import TrainingConfig
from optdsl.training.model import window_loss
from optdsl.training.problem import Problem
from optdsl.training.results import Record


def learning_rate_factor(steps: int) -> Callable[[int], float]:
    """Returns the schedule: a linear warm-up over 5 % of the steps, then a cosine to 10 %.

    The function returned maps a step, from 0, to a factor of the learning rate.
    """
    warmup = _warmup(steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        done = min(1.0, (step - warmup + 1) / max(1, steps - warmup))
        return 0.1 + 0.45 * (1 + math.cos(math.pi * done))

    return factor


def schedule_in_words(steps: int) -> str:
    """Describes `learning_rate_factor` for readers of tables and figures."""
    warmup = _warmup(steps)
    if warmup == 1:
        return "a cosine down to a tenth, without warm-up"
    return f"a linear warm-up over the first {warmup} steps, then a cosine down to a tenth"


def _warmup(steps: int) -> int:
    return max(1, steps // 20)


@torch.no_grad()
def validation_loss(model: nn.Module, windows: Tensor, batch: int) -> float:
    """Returns the mean loss over all windows, nats per character.

    Args:
        model: As for `window_loss`.
        windows: Indices, int64, shape (windows, time + 1).
        batch: Windows to evaluate at once.
    """
    total = 0.0
    for start in range(0, len(windows), batch):
        part = windows[start : start + batch]
        total += window_loss(model, part).item() * len(part)
    return total / len(windows)


def _switch(optimizer: Optimizer, mode: str) -> None:
    """Evaluate where the rule does, and train on; optimizers of torch have no modes."""
    switch = getattr(optimizer, mode, None)
    if switch is not None:
        switch()


@dataclass(frozen=True)
class Course:
    """How long to train, and how.

    Attributes:
        steps: Training steps.
        evaluation_interval: Steps between evaluations.
        seed: Seed of the batches.
        constant: Whether the learning rate stays the same after its warm-up.
        clip: The norm to which gradients are cut; None for no limit.
    """

    steps: int
    evaluation_interval: int
    seed: int
    constant: bool = False
    clip: float | None = None

    @classmethod
    def of(cls, config: TrainingConfig) -> Self:
        """Returns the course of the first seed of a comparison."""
        return cls(config.steps, config.evaluation_interval, config.seed)

    @property
    def factor(self) -> Callable[[int], float]:
        """The schedule of the learning rate."""
        if not self.constant:
            return learning_rate_factor(self.steps)
        return lambda step: min(1.0, (step + 1) / _warmup(self.steps))


def train(problem: Problem, optimizer: Optimizer, course: Course) -> Iterator[Record]:
    """Trains a model in place, and yields a record after every step.

    Ends early after a record with a loss that is not finite.

    Args:
        problem: The model and its losses.
        optimizer: An optimizer of the model's parameters.
        course: The number of steps and the seed of the batches.
    """
    schedule = LambdaLR(optimizer, course.factor)
    generator = torch.Generator().manual_seed(course.seed)
    seconds = processor_seconds = 0.0
    for step in range(1, course.steps + 1):
        started, processor = time.perf_counter(), time.process_time()
        learning_rate = float(optimizer.param_groups[0]["lr"])
        loss = problem.train_loss(generator)
        train_loss = loss.item()
        if math.isfinite(train_loss):
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            if course.clip is not None:
                torch.nn.utils.clip_grad_norm_(problem.model.parameters(), course.clip)
            optimizer.step()
            schedule.step()
        duration = time.perf_counter() - started
        seconds += duration
        processor_seconds += time.process_time() - processor

        evaluated: float | None = None
        due = step % course.evaluation_interval == 0 or step == course.steps
        if due and math.isfinite(train_loss):
            _switch(optimizer, "eval")
            evaluated = problem.validation_loss()
            _switch(optimizer, "train")
        record = Record(
            step=step,
            train_loss=train_loss,
            validation_loss=evaluated,
            learning_rate=learning_rate,
            tokens_per_second=problem.examples / duration,
            seconds=seconds,
            metrics=read_metrics(optimizer),
            processor_seconds=processor_seconds,
        )
        yield record
        if not record.finite:
            return
