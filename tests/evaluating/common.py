"""What the tests of evaluation share: rules that evaluate elsewhere, and how they are trained."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

BACKENDS = ("eager", "auto")
# A rule with a point of its own, a modifier that adds one, and both.
RULES = (
    "schedule_free_adamw",
    "adamw with ema_weights(beta = 0.8)",
    "schedule_free_adamw with ema_weights(beta = 0.8)",
)
SHAPES = ((7, 5), (11,), ())


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    drawn = [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]
    return [nn.Parameter(x.to(dtype)) for x in drawn]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1000 + step)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


def train(
    optimizer: torch.optim.Optimizer,
    held: Sequence[Tensor],
    steps: Iterable[int],
    after: Callable[[int], Any] = lambda step: None,
) -> None:
    for step in steps:
        for p, g in zip(held, gradients(step), strict=True):
            p.grad = g.to(p.device, p.dtype)
        optimizer.step()
        after(step)


def copies(held: Iterable[Tensor]) -> list[Tensor]:
    return [p.detach().clone() for p in held]


def same_bits(one: Iterable[Tensor], other: Iterable[Tensor]) -> bool:
    return all(
        torch.equal(x.view(torch.uint8) if x.ndim else x, y.view(torch.uint8) if y.ndim else y)
        for x, y in zip(one, other, strict=True)
    )
