"""What the tests of the runtime share: a problem to train on, and the bits of an optimizer."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.oracles.rules import ELEMENTWISE

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

SPECS = ELEMENTWISE
ORDERS = ("overlapped", "exact")
# What users get, compiled wherever it can be, and the code that it falls back to.
BACKENDS = ("auto", "eager")
DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

# theta' = theta + w: the hyper-gradient of w is the sum of the gradient, so a test dictates it.
PROBE = """\
optimizer Probe
hyper w = 0.5 in [-100, 100]
theta' = theta + w
"""

Shape = tuple[int, ...]
SHAPES: tuple[Shape, ...] = ((3, 2), (4,), ())


def parameters(
    dtype: torch.dtype = torch.float64, shapes: Iterable[Shape] = SHAPES, seed: int = 0
) -> list[nn.Parameter]:
    """Parameters with random values away from zero."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [torch.rand(s, generator=generator, dtype=torch.float64) + 0.5 for s in shapes]
    return [nn.Parameter(x.to(dtype)) for x in drawn]


def loss(params: Iterable[Tensor], step: int) -> Tensor:
    """A loss that differs from step to step, in double precision."""
    generator = torch.Generator().manual_seed(1000 + step)
    total = torch.zeros((), dtype=torch.float64)
    for parameter in params:
        target = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        total = total + ((parameter.double() - target) ** 2).sum()
    return total


def held(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """All parameters of an optimizer, in order."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def train(
    optimizer: torch.optim.Optimizer,
    steps: Iterable[int],
    after_step: Callable[[], Any] | None = None,
) -> None:
    """Train on `loss`, with the numbers of the steps as given."""
    for step in steps:
        optimizer.zero_grad()
        loss(held(optimizer), step).backward()
        optimizer.step()
        if after_step is not None:
            after_step()


def bits(tensor: Tensor) -> tuple[str, Shape, list[str]]:
    """Everything about the numbers of a tensor: equal results mean equal bits."""
    values = tensor.detach().to(torch.float64).reshape(-1).tolist()
    return str(tensor.dtype), tuple(tensor.shape), [v.hex() for v in values]


def fingerprint(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Parameters, states and groups of an optimizer, comparable to the bit."""
    packed = optimizer.state_dict()
    return {
        "parameters": [bits(p) for p in held(optimizer)],
        "state": {
            f"{index}/{key}": bits(value)
            for index, state in sorted(packed["state"].items())
            for key, value in sorted(state.items())
        },
        "groups": [
            # torch itself adds `differentiable` to the defaults of whatever it unpickles.
            {k: repr(v) for k, v in sorted(group.items()) if k != "differentiable"}
            for group in packed["param_groups"]
        ],
    }


def saved(content: Any) -> Any:
    """Through a file, read with torch's safe defaults."""
    file = io.BytesIO()
    torch.save(content, file)
    file.seek(0)
    return torch.load(file)


def resumed(cls: type[CompiledOptimizer], optimizer: CompiledOptimizer) -> CompiledOptimizer:
    """A new optimizer over new parameters, loaded from what the other one saves."""
    checkpoint = saved({"model": held(optimizer), "optimizer": optimizer.state_dict()})
    params = [nn.Parameter(p.detach().clone()) for p in checkpoint["model"]]
    groups, rest = [], iter(params)
    for group in optimizer.param_groups:
        groups.append({"params": list(itertools.islice(rest, len(group["params"])))})
    new = cls(groups)
    new.load_state_dict(checkpoint["optimizer"])
    return new


def learning(spec: str) -> dict[str, Learn]:
    """Something to learn in every specification, by rules that remember something."""
    chosen = {
        "lr": Learn("sgd", lr=1e-5, momentum=0.9, clip=5, bounds=(0, 1), after=3),
        "weight_decay": Learn("adam", lr=1e-3, bounds=(0, 0.5)),
    }
    if spec == "mada_legacy":
        chosen["rho"] = Learn("sgd", lr=0.1, momentum=0.9, clip=10, bounds=(0, 1), after=2)
        chosen["gamma"] = Learn("adan", lr=0.01, bounds=(0, 1))
    return chosen


def learner(spec: str, order: str = "exact", backend: str = "auto") -> type[CompiledOptimizer]:
    """A class of the specification that learns."""
    return optdsl.load(spec, order=order, learn=learning(spec), backend=backend)


def plain(spec: str, backend: str = "auto") -> type[CompiledOptimizer]:
    """A class of the specification that learns nothing."""
    return optdsl.load(spec, learn=False, backend=backend)


class Probe:
    """One parameter of one element whose hyper-gradients a test dictates."""

    def __init__(self, learn: Learn, order: str = "exact", **hypers: float) -> None:
        self.parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        cls = optdsl.compile(PROBE, order=order, learn={"w": learn})
        self.optimizer = cls([self.parameter], **hypers)

    @property
    def w(self) -> float:
        value = self.optimizer.param_groups[0]["w"]
        assert isinstance(value, float)
        return value

    @property
    def hypergradient(self) -> float:
        return self.optimizer.metrics()["hypergradient/w"]

    def entries(self) -> dict[str, float]:
        """What the coefficient's rule remembers."""
        group = self.optimizer.param_groups[0]
        return {k: v for k, v in group.items() if k.startswith("learn/")}

    def step(self, gradient: float) -> float:
        """One step with that gradient, so that hyper-gradient; the coefficient after it."""
        self.parameter.grad = torch.full((1,), gradient, dtype=torch.float64)
        self.optimizer.step()
        return self.w

    def feed(self, hypergradients: Sequence[float]) -> list[float]:
        """A first step, which has no hyper-gradient yet, then these; the coefficient after each."""
        self.step(0.0)
        return [self.step(h) for h in hypergradients]
