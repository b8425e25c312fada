"""Training one optimizer."""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from optdsl.training.candidates import read_metrics
from optdsl.training.config import TrainingConfig
from optdsl.training.model import window_loss
from optdsl.training.results import Record
from optdsl.training.text import random_windows


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


def train(
    config: TrainingConfig, model: nn.Module, optimizer: Optimizer, text: Tensor, windows: Tensor
) -> Iterator[Record]:
    """Trains a model in place, and yields a record after every step.

    Ends early after a record with a loss that is not finite.

    Args:
        config: Sizes, number of steps, and the seed of the batches.
        model: The model to train.
        optimizer: An optimizer of the model's parameters.
        text: Indices to train on, shape (characters,).
        windows: Validation windows, int64, shape (windows, time + 1).
    """
    schedule = LambdaLR(optimizer, learning_rate_factor(config.steps))
    generator = torch.Generator().manual_seed(config.seed)
    seconds = 0.0
    for step in range(1, config.steps + 1):
        started = time.perf_counter()
        batch = random_windows(text, config.block, config.batch, generator)
        learning_rate = float(optimizer.param_groups[0]["lr"])
        loss = window_loss(model, batch)
        train_loss = loss.item()
        if math.isfinite(train_loss):
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
        duration = time.perf_counter() - started
        seconds += duration

        evaluated: float | None = None
        due = step % config.evaluation_interval == 0 or step == config.steps
        if due and math.isfinite(train_loss):
            _switch(optimizer, "eval")
            evaluated = validation_loss(model, windows, config.batch)
            _switch(optimizer, "train")
        record = Record(
            step=step,
            train_loss=train_loss,
            validation_loss=evaluated,
            learning_rate=learning_rate,
            tokens_per_second=config.batch * config.block / duration,
            seconds=seconds,
            metrics=read_metrics(optimizer),
        )
        yield record
        if not record.finite:
            return
