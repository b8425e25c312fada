"""What is trained: a model, data, and two losses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Problem:
    """A task with one seed, ready to be trained.

    Attributes:
        model: With its initial weights, which the seed decides.
        train_loss: Returns the loss of a batch that it draws from a generator, a scalar.
        validation_loss: Returns the loss on data that training does not see.
        examples: Examples in a batch; of a text, characters.
        ceiling: A loss that a model without knowledge has, for the range of figures; None where
            there is none to speak of.
    """

    model: nn.Module
    train_loss: Callable[[torch.Generator], Tensor]
    validation_loss: Callable[[], float]
    examples: int
    ceiling: float | None = None


Problems = Callable[[int], Problem]
"""Returns the problem of a seed, anew at each call."""


@dataclass(frozen=True)
class Sources:
    """Files with data of the user's.

    Attributes:
        text: A UTF-8 text for the tasks that learn a text; None for the standard library.
        images: A directory with images for the tasks that learn images; None for digits.
    """

    text: Path | None = None
    images: Path | None = None
