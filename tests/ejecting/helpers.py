"""Standalone files, run as their users run them, and the steps that tests take with them."""

from __future__ import annotations

import builtins
from typing import Any

import torch

import optdsl

ALLOWED = {"torch", "math", "collections", "contextlib", "hashlib", "typing"}
SHAPES = ((6, 4), (5,), (3, 2, 2), ())


def allowed(name: str, *more: Any) -> Any:
    """Imports nothing but torch and what these files need of the standard library."""
    assert name.partition(".")[0] in ALLOWED, name
    return __import__(name, *more)


def executed(text: str) -> dict[str, Any]:
    """What a file defines, run where only torch and the standard library can be imported."""
    namespace = {"__builtins__": vars(builtins) | {"__import__": allowed}, "__name__": "ejected"}
    exec(compile(text, "ejected.py", "exec"), namespace)
    return namespace


def ejected(name: Any, **options: Any) -> Any:
    """The class of an ejected file."""
    namespace = executed(optdsl.eject(name, **options))
    return namespace[namespace["NAME"]]


def parameters(
    dtype: torch.dtype = torch.float32, shapes: tuple[tuple[int, ...], ...] = SHAPES
) -> list[torch.nn.Parameter]:
    """Some parameters, the same every time."""
    generator = torch.Generator().manual_seed(0)
    made = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return [torch.nn.Parameter(x) for x in made]


def train(optimizer: Any, held: list[torch.nn.Parameter], steps: int, seed: int = 1) -> None:
    """Steps down a noisy slope."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in held:
            noise = torch.randn(p.shape, generator=generator).to(p.dtype)
            p.grad = 0.3 * p.detach() + 0.1 * noise
        optimizer.step()
