"""What other processes do; they find it by the name of this module."""

from typing import Any

import torch

from tests.runtime.helpers import train


def go_on(number: int, optimizers: list[Any], directory: str) -> None:
    """Three steps more; what came of them is saved."""
    for optimizer in optimizers:
        train(optimizer, range(3, 6))
    torch.save([o.state_dict() for o in optimizers], f"{directory}/{number}.pt")
