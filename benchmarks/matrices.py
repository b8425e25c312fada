"""Rules of matrices, and clipping, beside torch, turn by turn: ``python -m benchmarks.matrices``.

A layer is a matrix of 768 by 768 and one of 768 by 3072, in float32; clipping is measured with ten
tensors of a million elements and with 150 tensors of a thousand. The figures are ratios of the
times of two steps in a turn, of the clock (with its quartiles) and of the processor. The latter
hardly depends on what else the machine does, but counts all threads, also while they wait for each
other.

Layers are stepped one after another, so that the time of a rival that is very slow can be taken
from fewer of them (``--rival-layers``): times are divided by the layers that they were for.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from typing import Any

import torch

import optdsl
from benchmarks.ratios import paired

Step = Callable[[], Any]
Make = Callable[[list[torch.nn.Parameter]], Step]


@dataclass(frozen=True)
class Pair:
    """Two optimizers that take turns.

    Attributes:
        rule: ours.
        rival: what it is compared with, for readers.
        make: makes the rival's step.
        shapes: those of the parameters, once for each layer if they are of layers.
        aim: the ratio that is aimed at.
        layered: whether `shapes` is a layer.
    """

    rule: str
    rival: str
    make: Make
    shapes: Sequence[tuple[int, ...]]
    aim: float
    layered: bool = True


def clipped(parameters: list[torch.nn.Parameter]) -> Step:
    """AdamW of torch after clipping by the norm of all gradients."""
    optimizer = torch.optim.AdamW(parameters, fused=True)

    def step() -> None:
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def adafactor(foreach: bool) -> Make:
    """Adafactor of torch; without `foreach`, as it is by default on the CPU."""
    return lambda parameters: torch.optim.Adafactor(parameters, foreach=foreach).step


LAYER = [(768, 768), (768, 3072)]
PAIRS = (
    Pair("muon", "torch.optim.Muon", lambda p: torch.optim.Muon(p).step, LAYER, 0.6),
    Pair("adafactor", "torch.optim.Adafactor, foreach=False", adafactor(False), LAYER, 0.5),
    Pair("adafactor", "torch.optim.Adafactor, foreach=True", adafactor(True), LAYER, 0.5),
    *(
        Pair("adamw with clip", f"clip_grad_norm_ and AdamW, {what}", clipped, shapes, 0.8, False)
        for what, shapes in (("10x1M", [(1_000_000,)] * 10), ("150x1000", [(1_000,)] * 150))
    ),
)


def parameters(shapes: Sequence[tuple[int, ...]]) -> list[torch.nn.Parameter]:
    """Tensors with gradients, the same at each call."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for shape in shapes:
        parameter = torch.nn.Parameter(torch.randn(shape, generator=generator) * 0.02)
        parameter.grad = torch.randn(shape, generator=generator)
        found.append(parameter)
    return found


def timed(step: Step, layers: int) -> tuple[float, float]:
    """Seconds of a step for each of its layers, by the clock and by the processor."""
    clock, processor = perf_counter(), process_time()
    step()
    return (perf_counter() - clock) / layers, (process_time() - processor) / layers


def main() -> None:
    """Run the turns and print the medians."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--layers", type=int, default=12)
    options.add_argument(
        "--rival-layers",
        type=int,
        help="layers of the rival, if it is too slow for as many; ratios are then by layer",
    )
    options.add_argument("--warm-up", type=int, default=2, help="turns that are not counted")
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--threads", type=int, default=torch.get_num_threads())
    options.add_argument("--only", default="", help="a part of the names to run")
    asked = options.parse_args()
    torch.set_num_threads(asked.threads)
    for pair in PAIRS:
        if asked.only not in f"{pair.rule} / {pair.rival}":
            continue
        layers = (asked.layers, asked.rival_layers or asked.layers) if pair.layered else (1, 1)
        shapes, fewer = ([*pair.shapes] * count for count in layers)
        ours = optdsl.load(pair.rule)(parameters(shapes)).step
        theirs = pair.make(parameters(fewer))
        for _ in range(asked.warm_up):
            ours()
            theirs()
        turns = [(timed(ours, layers[0]), timed(theirs, layers[1])) for _ in range(asked.turns)]
        clock, processor = (
            paired([own[kind] for own, _ in turns], [other[kind] for _, other in turns])
            for kind in (0, 1)
        )
        seconds, processors = (
            [statistics.median(t[who][kind] for t in turns) for who in (0, 1)] for kind in (0, 1)
        )
        size = f"{asked.layers} layers, " if pair.layered else ""
        each = " a layer" if pair.layered else ""
        if layers[0] != layers[1]:
            size += f"{layers[1]} of the rival, "
        print(
            f"{pair.rule} / {pair.rival}: {clock.median:.2f} ({clock.low:.2f}-{clock.high:.2f}) by "
            f"the clock, {processor.median:.2f} by the processor, aim {pair.aim} ("
            f"{seconds[0] * 1e3:.2f} ms, {seconds[1] * 1e3:.2f} ms{each}, of the processor "
            f"{processors[0] * 1e3:.2f} ms, {processors[1] * 1e3:.2f} ms; {size}{asked.turns} "
            f"turns, {asked.threads} threads)",
            flush=True,
        )


if __name__ == "__main__":
    main()
