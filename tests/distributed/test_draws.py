"""Shards draw what the whole tensor draws, and store what it stores."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import distribute_tensor

import optdsl

from .ranks import on_ranks

pytestmark = pytest.mark.slow

NOISY = """\
optimizer Noisy
  "Draws for elements, and a number for each tensor."

hyper lr = 0.1 in [0, inf)

random P          = normal
random Q : scalar = rademacher

state m = 0

store m     as bfloat16 stochastic
store theta as {}

m'     = ema(m, g + P * Q, 0.9)
theta' = theta - lr * m'
"""
SKETCHED = """\
optimizer Sketched
  "Draws for matrices, which every rank gathers."

hyper lr = 0.1 in [0, inf)

for flattened matrices

random P : rows * rows = normal at floor((t - 1) / 2)
random r : rows        = uniform

theta' = theta - lr * (P @ g + r)

otherwise SGD
"""
# Uneven on two ranks and on three.
SHAPES = ((5, 4), (7,), (2, 3, 2))


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        made = (torch.randn(s, generator=generator).bfloat16() for s in SHAPES)
        self.parts = nn.ParameterList(nn.Parameter(x) for x in made)


def whole(x: Any) -> Tensor:
    return (x.full_tensor() if hasattr(x, "full_tensor") else x).detach().clone()


RULES = ("stochastic", "compensated", "sketched", "muon with kahan")


def rule(name: str) -> Any:
    if name == "sketched":
        return optdsl.compile(SKETCHED)
    return optdsl.load(name) if "muon" in name else optdsl.compile(NOISY.format(name))


def trained(shards: bool) -> list[list[Tensor]]:
    """By rule, the parameters after some steps, and what their states hold."""
    found = []
    for name in RULES:
        model = Parts()
        if shards:
            fully_shard(model)
        cls = rule(name)
        seed = {"seed": 5} if cls.compiled.draws else {}
        optimizer = cls(model.parameters(), **seed)
        for step in range(4):
            for number, p in enumerate(model.parameters()):
                generator = torch.Generator().manual_seed(100 * step + number)
                grad: Any = torch.randn(tuple(p.shape), generator=generator).to(p.dtype)
                place: Any = p
                placed = (place.device_mesh, place.placements) if shards else ()
                p.grad = distribute_tensor(grad, *placed) if shards else grad
            optimizer.step()
        own = [whole(p) for p in model.parameters()]
        for p in model.parameters():
            own += [whole(x) for key, x in sorted(optimizer.state[p].items()) if key != "step"]
        found.append(own)
    return found


def refused() -> list[str]:
    """What is said where a wrapper hides which tensor it is, or which element."""
    said = []
    for wrapper in ("zero", "fsdp"):
        model: nn.Module = nn.Linear(4, 3)
        if wrapper == "fsdp":
            model = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
        cls = optdsl.compile(NOISY.format("stochastic"))
        if wrapper == "zero":
            optimizer: Any = ZeroRedundancyOptimizer(model.parameters(), optimizer_class=cls)
        else:
            optimizer = cls(model.parameters())
        model(torch.ones(2, 4)).sum().backward()
        try:
            optimizer.step()
        except RuntimeError as error:
            said.append(str(error))
    return said


def both() -> tuple[list[list[Tensor]], list[str]]:
    return trained(shards=True), refused()


def test_shards_draw_and_store_as_one_process_does() -> None:
    expected = trained(shards=False)
    for found, said in on_ranks(2, both):
        for name, own, other in zip(RULES, found, expected, strict=True):
            assert all(map(torch.equal, own, other)), name
        assert "ZeroRedundancyOptimizer numbers the share of each rank" in said[0]
        assert "gives each rank a part of several" in said[1]
