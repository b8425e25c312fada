"""The time from the name of a rule to its first step."""

from __future__ import annotations

from time import perf_counter
from typing import Any


def run(contestant: str, backend: str) -> dict[str, Any]:
    """Times the start in this process, which is new.

    PyTorch loads a large part of itself when the first optimizer of a process is made, whoever's
    it is; an optimizer of its own goes first, so that this is timed apart.

    Returns:
        In seconds: "torch", "optdsl", importing them; "torch optimizer", making the first of
        PyTorch's optimizers and a step; "start", from `optdsl.load` to the end of the first step.
    """
    begun = perf_counter()
    import torch

    torch_imported = perf_counter()
    import optdsl

    _ = optdsl.load  # imports the compiler
    optdsl_imported = perf_counter()

    from benchmarks.builders import build

    model = torch.nn.Linear(8, 8)
    model(torch.randn(4, 8)).sum().backward()
    first = perf_counter()
    torch.optim.SGD(model.parameters(), lr=0.0).step()
    started = perf_counter()
    build(contestant, list(model.parameters()), backend).step()
    ended = perf_counter()
    return {
        "torch": torch_imported - begun,
        "optdsl": optdsl_imported - torch_imported,
        "torch optimizer": started - first,
        "start": ended - started,
    }
