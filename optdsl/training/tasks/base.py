"""What a task is, and what tasks share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from optdsl.training.problem import Problem, Sources


class Task(ABC):
    """Something to learn, of a size for one processor.

    Attributes:
        name: Its name on the command line.
        summary: What it is, in a line.
        unit: The unit of its losses.
        steps: The steps of a run.
        quick_steps: The steps of a run that takes less than a second.
        learning_rate: A good learning rate for AdamW, around which others are searched.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    unit: ClassVar[str]
    steps: ClassVar[int]
    quick_steps: ClassVar[int]
    learning_rate: ClassVar[float]

    @abstractmethod
    def problem(self, seed: int, sources: Sources) -> Problem:
        """Returns the task with the data and the initial weights of a seed.

        Raises:
            TrainingError: Its data cannot be read.
        """


def initialized(model: nn.Module, seed: int, gain: float = 1.0) -> nn.Module:
    """Draws a model's initial weights from a generator of their own.

    Matrices and kernels get a normal distribution of variance gain² / inputs; biases are zero, and
    scales of norms stay as they are.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                inputs = parameter[0].numel()
                parameter.normal_(0, gain / inputs**0.5, generator=generator)
            elif "bias" in name:
                parameter.zero_()
    return model


def drawn(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Draws `count` indices below `size`, with replacement."""
    return torch.randint(size, (count,), generator=generator)


@torch.no_grad()
def quietly(loss: Callable[[], Tensor]) -> float:
    """Returns a loss as a number, without a graph."""
    return float(loss())
