"""A heat: contestants take turns, on parameters of the same shapes.

Every other round goes backwards: A B C, C B A, and so on. A machine that becomes slower or faster
during a round then favours each contestant as often as the other.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Sequence
from time import perf_counter, process_time
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.builders import build
from benchmarks.plan import COPY, SCALE, STREAMED
from benchmarks.sizes import SIZES, Shape
from benchmarks.worker import explain

WARM_UP = 4  # steps; the first ones allocate states and compile
GRADIENT = 1e-3  # the standard deviation of a gradient's elements
LONGEST_SAMPLE = 200  # steps

# What times are taken with; see `benchmarks.plan.CLOCKS`.
CLOCKS = {"wall": perf_counter, "processor": process_time}


class Runner:
    """A contestant at work on its own copy of the parameters.

    Two sets of random gradients take turns, which all contestants share. With a single one the
    differences of gradients would vanish, and some states with them.
    """

    def __init__(
        self,
        name: str,
        shapes: Sequence[Shape],
        gradients: list[list[Tensor]],
        backend: str,
        clock: str = "wall",
    ) -> None:
        self.now = CLOCKS[clock]
        generator = torch.Generator().manual_seed(0)
        self.params = [nn.Parameter(0.02 * torch.randn(s, generator=generator)) for s in shapes]
        self.gradients = gradients
        self.taken = 0
        self.optimizer = build(name, self.params, backend)

    def step(self) -> float:
        """Takes a step; returns how long it took, without what prepares it."""
        for p, g in zip(self.params, self.gradients[self.taken % 2], strict=True):
            p.grad = g
        self.taken += 1
        start = self.now()
        self.optimizer.step()
        return self.now() - start

    def state_bytes(self) -> float:
        """Bytes of state per parameter, counters and other single numbers left out."""
        tensors = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor) and value.numel() > 1
        ]
        total = sum(t.numel() * t.element_size() for t in tensors)
        return total / sum(p.numel() for p in self.params)


def make_gradients(shapes: Sequence[Shape]) -> list[list[Tensor]]:
    """Two sets of random gradients."""
    generator = torch.Generator().manual_seed(1)
    return [[GRADIENT * torch.randn(s, generator=generator) for s in shapes] for _ in range(2)]


def streams(clock: str) -> dict[str, Callable[[], float]]:
    """Simple operations on large tensors, as steps that are timed."""
    now = CLOCKS[clock]
    source, target = torch.ones(STREAMED), torch.zeros(STREAMED)

    def copy() -> float:
        start = now()
        target.copy_(source)
        return now() - start

    def scale() -> float:
        start = now()
        target.mul_(1.0)
        return now() - start

    return {COPY: copy, SCALE: scale}


def run(
    size: str,
    contestants: list[str],
    backend: str,
    rounds: int,
    seconds: float,
    least: int,
    sample: float,
    clock: str = "wall",
    bandwidth: bool = True,
) -> dict[str, Any]:
    """Times contestants in turn: A B C, C B A, and so on.

    Args:
        size: one of `SIZES`.
        contestants: by name.
        backend: of optdsl.
        rounds: how many turns.
        seconds: after which no further turn begins, once there were `least`.
        least: turns that there are in any case.
        sample: seconds that a turn of the fastest contestant lasts at least.
        clock: one of `benchmarks.plan.CLOCKS`.
        bandwidth: whether copying and scaling take part, where the size streams from memory.

    Returns:
        "times": seconds per step, one number a turn, by contestant, and of copying and scaling;
        "state": bytes of state per parameter by contestant; "steps": how many steps a turn has;
        "unavailable": by contestant, why it does not run.
    """
    shapes = SIZES[size].shapes
    gradients = make_gradients(shapes)
    runners: dict[str, Runner] = {}
    unavailable: dict[str, str] = {}
    fastest = math.inf
    for name in contestants:
        try:
            runner = Runner(name, shapes, gradients, backend, clock)
            fastest = min(fastest, *(runner.step() for _ in range(WARM_UP)))
        except Exception as error:
            unavailable[name] = explain(error)
        else:
            runners[name] = runner
    turns = {name: runner.step for name, runner in runners.items()}
    if bandwidth and SIZES[size].streams:
        turns |= streams(clock)
        for step in turns.values():
            step()
    steps = min(max(1, math.ceil(sample / fastest)), LONGEST_SAMPLE) if runners else 1
    state = {name: runner.state_bytes() for name, runner in runners.items()}

    gc.collect()
    gc.disable()
    times: dict[str, list[float]] = {name: [] for name in turns}
    begun = perf_counter()
    for done in range(rounds if runners else 0):
        if done >= least and perf_counter() - begun > seconds:
            break
        order = list(turns)[:: -1 if done % 2 else 1]
        for name in order:
            times[name].append(sum(turns[name]() for _ in range(steps)) / steps)
    return {"times": times, "state": state, "steps": steps, "unavailable": unavailable}
