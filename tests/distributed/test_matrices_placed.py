"""Rules of matrices under tensor parallelism, on meshes of two dimensions, and on copies."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.nn.parallel import DistributedDataParallel

import optdsl
from optdsl.runtime.distributed.boxes import box, is_boxed

from .ranks import close, network, on_ranks, train, values, whole

pytestmark = pytest.mark.slow

RULES: dict[str, dict[str, float]] = {"muon": {"lr": 0.02}, "adafactor": {"lr": 0.02}}
SHAPES = ((5, 3), (1, 7), (4,), (3, 2, 5))
STEPS = 4


def start(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(
        shape, generator=torch.Generator().manual_seed(len(shape) + shape[-1])
    ).double()


def slope(theta: torch.Tensor) -> torch.Tensor:
    """A gradient of full rank that depends on the parameter."""
    generator = torch.Generator().manual_seed(theta.numel())
    return theta.sin() + torch.randn(theta.shape, generator=generator).to(theta.dtype)


def stepped(rule: str, parameters: Sequence[nn.Parameter], mesh: Any = None) -> list[torch.Tensor]:
    """Parameters after some steps; gradients are placed as they are, or still to be summed."""
    optimizer = optdsl.load(rule)(parameters, **RULES[rule])
    for step in range(STEPS):
        for p in parameters:
            p.grad = slope(whole(p))
            if isinstance(p, DTensor):
                p.grad = distribute_tensor(p.grad, mesh, p.placements)
                if step == 1:
                    part = whole(p.grad) / mesh.size()
                    p.grad = DTensor.from_local(part, mesh, [Partial()] * mesh.ndim)
        optimizer.step()
    return [whole(p) for p in parameters]


def plain(rule: str, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    return stepped(rule, [nn.Parameter(start(shape).to(dtype)) for shape in SHAPES])


def on_mesh(
    rule: str, mesh: Any, placements: Any, dtype: torch.dtype = torch.float64
) -> list[torch.Tensor]:
    starts = [start(shape).to(dtype) for shape in SHAPES]
    placed = []
    for x in starts:
        own = [p if p.is_replicate() or p.dim < x.ndim else Shard(0) for p in placements]
        placed.append(nn.Parameter(distribute_tensor(x, mesh, own)))
    return stepped(rule, placed, mesh)


def zero(rule: str, copies: bool) -> list[torch.Tensor]:
    """DistributedDataParallel, with or without ZeRO."""
    model: Any = DistributedDataParallel(network())
    cls = optdsl.load(rule)
    made = cls if copies else lambda held, **options: ZeroRedundancyOptimizer(held, cls, **options)
    train(model, made(model.parameters(), **RULES[rule]), range(STEPS))
    return values(model)


def full(rule: str) -> list[torch.Tensor]:
    """FSDP2 that goes on from a checkpoint in which tensors are whole."""
    model = fully_shard(network())
    cls, options = optdsl.load(rule), StateDictOptions(full_state_dict=True)
    optimizer = cls(model.parameters(), **RULES[rule])
    train(model, optimizer, range(STEPS // 2))
    saved = get_optimizer_state_dict(model, optimizer, options=options)
    optimizer.zero_grad()
    optimizer = cls(model.parameters(), **RULES[rule])
    options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    set_optimizer_state_dict(model, optimizer, saved, options=options)
    train(model, optimizer, range(STEPS // 2, STEPS))
    return values(model)


def two() -> dict[str, Any]:
    mesh = init_device_mesh("cpu", (2,))
    found: dict[str, Any] = {}
    for rule, placement in itertools.product(RULES, (Shard(0), Shard(1), Replicate())):
        found[f"{rule} {placement}"] = on_mesh(rule, mesh, [placement])
    for rule in RULES:
        # States are float32, and lie in the same exchange.
        found[f"{rule} half"] = on_mesh(rule, mesh, [Shard(0)], torch.bfloat16)
        found[f"{rule} DDP"] = zero(rule, copies=True)
        found[f"{rule} ZeRO"] = zero(rule, copies=False)
        found[f"{rule} full"] = full(rule)
    return found


def expected(rule: str, case: str) -> list[torch.Tensor]:
    if case == "half":
        return plain(rule, torch.bfloat16)
    if case not in {"DDP", "ZeRO", "full"}:
        return plain(rule)
    model = network()
    train(model, optdsl.load(rule)(model.parameters(), **RULES[rule]), range(STEPS), share=False)
    return values(model)


@pytest.mark.exhaustive
def test_two_ranks_are_one_process() -> None:
    ranks = on_ranks(2, two)
    for name in ranks[0]:
        wanted = expected(*name.split(" ", 1))
        for rank in ranks:
            close(rank[name], wanted)


class Layers(nn.Module):
    """Two layers to be parallelized."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(5, 8).double(), nn.Linear(8, 1).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.second(self.first(x).tanh())
        return found


def four() -> dict[str, Any]:
    names = ("data", "tensor")
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=names)
    found: dict[str, Any] = {"boxes": True}
    layouts = ([Replicate(), Shard(0)], [Shard(0), Shard(1)], [Shard(1), Shard(1)])
    for rule, layout in itertools.product(RULES, layouts):
        found[f"{rule} {layout}"] = on_mesh(rule, mesh, layout)
    for layout, length in itertools.product(layouts, (1, 4, 5, 7)):
        x: Any = distribute_tensor(torch.arange(3.0 * length).view(3, length), mesh, layout)
        own = whole(x)[box(x, mesh.get_coordinate())]
        found["boxes"] &= torch.equal(own, x.to_local())
    for rule in RULES:
        plan: dict[str, Any] = {"first": ColwiseParallel(), "second": RowwiseParallel()}
        model = parallelize_module(Layers(), mesh["tensor"], copy.deepcopy(plan))
        model = fully_shard(model, mesh=mesh["data"])
        found["strided"] = not all(map(is_boxed, model.parameters()))
        optimizer = optdsl.load(rule)(model.parameters(), **RULES[rule])
        train(model, optimizer, range(STEPS), share=False)
        found[f"{rule} both"] = values(model)
    return found


@pytest.mark.exhaustive
def test_four_ranks_are_one_process() -> None:
    ranks = on_ranks(4, four)
    for rank in ranks:
        assert rank.pop("boxes")
        assert rank.pop("strided")
    for name in ranks[0]:
        rule, case = name.split(" ", 1)
        wanted = plain(rule)
        if case == "both":
            model = Layers()
            optimizer = optdsl.load(rule)(model.parameters(), **RULES[rule])
            train(model, optimizer, range(STEPS), share=False)
            wanted = values(model)
        for rank in ranks:
            close(rank[name], wanted)
