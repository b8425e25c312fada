"""The time and the memory of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.optim import Optimizer

from optdsl.studies.frame.values import Outcome, Result, Run
from optdsl.studies.runs.autograd_mada import AutogradMADA
from optdsl.studies.runs.optimizers import Contestant

AUTOGRAD = "MADA by autograd"
WARM = 5  # steps that are not timed


class Cost(Run):
    """Times steps of several optimizers in turn, so that a slow phase of the machine meets all.

    Numbers of the outcome: `ms/LABEL`, the median; `state/LABEL`, bytes of state per parameter;
    `graph/LABEL`, bytes per parameter that a graph holds between steps.

    Attributes:
        contestants: The optimizers, beside `AUTOGRAD`.
        parameters: How many numbers the model has, in tensors of equal sizes.
        tensors: How many tensors.
        repeats: Timed steps of each optimizer.
    """

    kind: Literal["cost"] = "cost"
    contestants: tuple[Contestant, ...]
    parameters: PositiveInt
    tensors: PositiveInt
    repeats: PositiveInt

    modules: ClassVar[tuple[str, ...]] = ("optdsl.studies.runs.autograd_mada",)

    @property
    def label(self) -> str:
        """See `Run`."""
        return f"cost of a step  {self.parameters:,} parameters"

    @property
    def weight(self) -> float:
        """See `Run`."""
        return self.parameters * self.repeats / 2e7

    @property
    def alone(self) -> bool:
        """See `Run`."""
        return True

    def ingredients(self) -> tuple[str, ...]:
        """See `Run`."""
        return tuple(text for c in self.contestants for text in c.ingredients())

    def execute(self, given: Mapping[str, Result]) -> Outcome:
        """See `Run`."""
        generator = torch.Generator().manual_seed(0)
        size = max(1, self.parameters // self.tensors)
        makers: dict[str, Callable[[list[Tensor]], Optimizer]] = {
            contestant.label: contestant.optimizer for contestant in self.contestants
        }
        makers[AUTOGRAD] = lambda parameters: AutogradMADA(parameters, after=0)  # type: ignore[arg-type]
        gradients = [torch.randn(size, generator=generator) for _ in range(self.tensors)]
        ready = {}
        for label, make in makers.items():
            parameters: list[Tensor] = [
                torch.nn.Parameter(torch.randn(size, generator=generator)) for _ in gradients
            ]
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
            ready[label] = make(parameters)
        times: dict[str, list[float]] = {label: [] for label in ready}
        for _ in range(WARM + self.repeats):
            for label, optimizer in ready.items():
                started = time.perf_counter()
                optimizer.step()
                times[label].append(time.perf_counter() - started)
        count = size * self.tensors
        numbers = {}
        for label, optimizer in ready.items():
            numbers[f"ms/{label}"] = 1000 * median(times[label][WARM:])
            numbers[f"state/{label}"] = _state_bytes(optimizer) / count
            numbers[f"graph/{label}"] = _graph_bytes(optimizer) / count
        return Outcome(numbers, {f"ms/{x}": tuple(ts[WARM:]) for x, ts in times.items()})


def _state_bytes(optimizer: Optimizer) -> int:
    tensors = (t for state in optimizer.state.values() for t in state.values())
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))


def _graph_bytes(optimizer: Optimizer) -> int:
    """Returns the bytes of the tensors that a step saves for a backward pass, each once."""
    known = {p.data_ptr() for group in optimizer.param_groups for p in group["params"]}
    found: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in known:
            found[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        optimizer.step()
    return sum(found.values())
