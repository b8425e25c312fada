"""Rules of matrices beside those of torch.optim, turn by turn: ``python -m benchmarks.matrices``.

A layer is a matrix of 768 by 768 and one of 768 by 3072, in float32. The figures are ratios of the
times of two steps in a turn, of the clock and of the processor; the latter hardly depends on what
else the machine does, but counts all threads.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from time import perf_counter, process_time
from typing import Any

import torch

import optdsl

SHAPES = [(768, 768), (768, 3072)]
RIVALS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "torch.optim.Muon": ("muon", torch.optim.Muon),
    "torch.optim.Adafactor, foreach=False": (
        "adafactor",
        lambda p: torch.optim.Adafactor(p, foreach=False),
    ),
    "torch.optim.Adafactor, foreach=True": (
        "adafactor",
        lambda p: torch.optim.Adafactor(p, foreach=True),
    ),
}


def parameters(layers: int) -> list[torch.nn.Parameter]:
    """Matrices with gradients, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in SHAPES * layers:
        parameter = torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02)
        parameter.grad = torch.randn(shape, generator=generator)
        found.append(parameter)
    return found


def timed(step: Callable[[], Any]) -> tuple[float, float]:
    """The time of a step, of the clock and of the processor."""
    clock, processor = perf_counter(), process_time()
    step()
    return perf_counter() - clock, process_time() - processor


def main() -> None:
    """Run the turns and print the medians."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--only", default="", help="a part of the names to run")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    for name, (rule, rival) in RIVALS.items():
        if asked.only not in name:
            continue
        ours = optdsl.load(rule)(parameters(asked.layers))
        theirs = rival(parameters(asked.layers))
        ours.step()
        theirs.step()
        turns = [(timed(ours.step), timed(theirs.step)) for _ in range(asked.turns)]
        clock, processor = (
            statistics.median(own[kind] / other[kind] for own, other in turns) for kind in (0, 1)
        )
        seconds = [statistics.median(t[who][0] for t in turns) for who in (0, 1)]
        print(
            f"{rule} / {name}: {clock:.2f} by the clock, {processor:.2f} by the processor "
            f"({seconds[0]:.3f} s, {seconds[1]:.3f} s; {asked.layers} layers, {asked.turns} turns, "
            f"{asked.threads} threads)",
            flush=True,
        )


if __name__ == "__main__":
    main()
