"""Words that several parts of the program use."""

from __future__ import annotations

from typing import Literal, get_args

# What has a learned value of its own, and what the rule that learns it follows.
Scope = Literal["optimizer", "group", "tensor"]
Signal = Literal["raw", "sign", "cosine", "normalized"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
SIGNALS: tuple[Signal, ...] = get_args(Signal)
# Hyper-gradients are estimated from one in at most so many elements of large tensors.
LARGEST_SAMPLE = 65536


def counted(number: int, noun: str) -> str:
    """A number with its noun, as in "1 step" and "2 steps"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
