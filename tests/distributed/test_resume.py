"""A training that is killed goes on from its last checkpoint, on other numbers of ranks."""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

from .ranks import HYPERS, close, learner, network, on_ranks, started, train, values

pytestmark = pytest.mark.slow

STEPS, EVERY = 14, 3


def made() -> tuple[nn.Module, Any]:
    model = network()
    fully_shard(model[0])
    fully_shard(model)
    return model, learner()(model.parameters(), **HYPERS)


def packed(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }


def until_killed(folder: str) -> None:
    """Train, save after every few steps, and never return."""
    model, optimizer = made()
    for step in range(STEPS):
        train(model, optimizer, [step])
        if (step + 1) % EVERY == 0:
            dcp.save(packed(model, optimizer), checkpoint_id=Path(folder, f"{step + 1:02}"))
        Path(folder, f"done {dist.get_rank()}").write_text(str(step + 1))
    while True:
        time.sleep(1)


def resumed(folder: str) -> dict[str, Any]:
    """Train to the end from the last checkpoint that is whole."""
    last = max(p.parent for p in Path(folder).glob("*/.metadata"))
    model, optimizer = made()
    state = packed(model, optimizer)
    dcp.load(state, checkpoint_id=last)
    set_model_state_dict(model, state["model"])
    set_optimizer_state_dict(model, optimizer, state["optimizer"])
    first = int(last.name)
    curve = train(model, optimizer, range(first, STEPS))
    losses = torch.tensor([loss for loss, _ in curve], dtype=torch.float64)
    dist.all_reduce(losses)
    return {
        "first": first,
        "losses": (losses / dist.get_world_size()).tolist(),
        "metrics": [metrics for _, metrics in curve],
        "values": values(model),
    }


@pytest.fixture(scope="module")
def killed() -> Any:
    """The folder of a training on two ranks that were killed at some step."""
    step = random.randrange(EVERY + 1, STEPS)
    with tempfile.TemporaryDirectory() as folder:
        context = started(2, folder, until_killed, (folder,), join=False)
        progress, deadline = Path(folder, "done 1"), time.monotonic() + 120
        while not progress.exists() or int(progress.read_text() or 0) < step:
            assert time.monotonic() < deadline
            assert all(process.is_alive() for process in context.processes)
            time.sleep(0.002)
        for process in context.processes:
            process.kill()
        for process in context.processes:
            process.join()
        Path(folder, "store").unlink()
        yield folder


@pytest.fixture(scope="module")
def unbroken() -> tuple[list[Any], list[torch.Tensor]]:
    model = network()
    optimizer = learner()(model.parameters(), **HYPERS)
    return train(model, optimizer, range(STEPS), share=False), values(model)


@pytest.mark.parametrize("world", [pytest.param(1, marks=pytest.mark.exhaustive), 3])
def test_a_killed_training_goes_on_on_another_number_of_ranks(
    world: int, killed: str, unbroken: tuple[list[Any], list[torch.Tensor]]
) -> None:
    curve, parameters = unbroken
    found = on_ranks(world, resumed, killed)
    for rank in found:
        first = rank["first"]
        assert first >= EVERY
        close(rank["losses"], [loss for loss, _ in curve[first:]])
        for got, (_, wanted) in zip(rank["metrics"], curve[first:], strict=True):
            close(got, wanted)
        close(rank["values"], parameters)
        assert rank["metrics"] == found[0]["metrics"]
