"""What is observed on many ranks: each element once, and the same coefficients everywhere."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_

from .ranks import BACKENDS, HYPERS, close, learner, loss_of, network, on_ranks, values, whole

pytestmark = pytest.mark.slow

STEPS = 5


def train(model: nn.Module, optimizer: Any, share: bool = True) -> tuple[Any, dict[str, float]]:
    """Learn from one batch, before clipping; step by another one, clipped."""
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, 50 + step, share).backward()
        optimizer.observe()
        optimizer.zero_grad()
        loss_of(model, step, share).backward()
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    return values(model), optimizer.metrics()


def pipeline() -> tuple[Any, dict[str, float]]:
    """Each rank has an optimizer of one layer; gradients are those of the whole model."""
    model = network()
    layer = model[0] if dist.get_rank() == 0 else model[2]
    optimizer = learner()(layer.parameters(), process_group=dist.group.WORLD, **HYPERS)
    for step in range(STEPS):
        model.zero_grad()
        loss_of(model, 50 + step, share=False).backward()
        optimizer.observe()
        model.zero_grad()
        loss_of(model, step, share=False).backward()
        clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
        for number, parameter in enumerate(model.parameters()):
            dist.broadcast(parameter.data, src=number // 2)
    return values(model), optimizer.metrics()


def runs() -> dict[str, Any]:
    found: dict[str, Any] = {"pipeline": pipeline()}
    for backend in BACKENDS:
        model = network()
        fully_shard(model[0])
        model = fully_shard(model)
        optimizer = learner(backend)(model.parameters(), **HYPERS)
        found[f"sharded {backend}"] = train(model, optimizer)
        found[f"states {backend}"] = [
            {key: whole(x).clone() for key, x in optimizer.completed_state(p).items()}
            for p in model.parameters()
        ]
        copies = DistributedDataParallel(network())
        found[f"ddp {backend}"] = train(copies, learner(backend)(copies.parameters(), **HYPERS))
    return found


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, runs)


@pytest.mark.parametrize("kind", ["pipeline", *(f"{k} {b}" for k in ("sharded", "ddp")
                                               for b in BACKENDS)])  # fmt: skip
def test_ranks_observe_as_one(kind: str, two_ranks: list[dict[str, Any]]) -> None:
    model = network()
    expected = train(model, learner()(model.parameters(), **HYPERS), share=False)
    assert expected[1]["rho"] != HYPERS["rho"]
    for rank in two_ranks:
        for got, wanted in zip(rank[kind], expected, strict=True):
            close(got, wanted)
        assert rank[kind][1] == two_ranks[0][kind][1]


def test_completed_states_of_shards_are_whole(two_ranks: list[dict[str, Any]]) -> None:
    """What compiled kernels show is what eager code keeps."""
    shapes = [p.shape for p in network().parameters()]
    for rank in two_ranks:
        assert [state["m"].shape for state in rank["states c"]] == shapes
        for one, other in zip(rank["states c"], rank["states eager"], strict=True):
            close(one, {key: other[key] for key in one})
