"""Eval mode on shards of DTensors, and on the copies of DistributedDataParallel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import optdsl
from optdsl import Learn

from .ranks import BACKENDS, close, network, on_ranks, state_of, train, values

pytestmark = pytest.mark.slow

RULE = "schedule_free_adamw with ema_weights(beta = 0.7)"
LEARN = {"lr": Learn("sgd", lr=1e-5, bounds=(0, 1))}
STEPS = 4


def visited(model: nn.Module, optimizer: Any, share: bool = True) -> dict[str, Any]:
    """Parameters in and after eval mode, in the middle of a training."""
    train(model, optimizer, range(STEPS), share)
    before = (values(model), state_of(optimizer))
    optimizer.eval()
    found: dict[str, Any] = {"points": values(model)}
    found["stateful"] = refuses(model, optimizer)
    optimizer.train()
    after = (values(model), state_of(optimizer))
    found["back"] = all(map(torch.equal, before[0], after[0])) and all(
        x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x)
        for x, y in zip(before[1], after[1], strict=True)
    )
    train(model, optimizer, range(STEPS, 2 * STEPS), share)
    found["values"] = values(model)
    return found


def refuses(model: nn.Module, optimizer: Any) -> str:
    try:
        get_optimizer_state_dict(model, optimizer)
    except RuntimeError as error:
        return str(error)
    return ""


def sharded(learn: bool) -> dict[str, Any]:
    found = {}
    for backend in BACKENDS:
        model = network()
        fully_shard(model[0])
        fully_shard(model)
        cls = optdsl.load(RULE, backend=backend, learn=LEARN if learn else False)
        found[backend] = visited(model, cls(model.parameters(), lr=0.02))
    return found


def copied() -> dict[str, Any]:
    model = network()
    parallel: Any = DistributedDataParallel(model)
    found = visited(parallel, optdsl.load(RULE)(parallel.parameters(), lr=0.02))
    return {"auto": found}


def check(ranks: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for found in (of for rank in ranks for of in rank.values()):
        assert found["back"]
        assert "call train() first" in found["stateful"]
        close(found["points"], expected["points"])
        close(found["values"], expected["values"])


@pytest.mark.parametrize("learn", [False, True], ids=["plain", "learning"])
@pytest.mark.exhaustive
def test_shards_are_evaluated_as_the_whole(learn: bool) -> None:
    model = network()
    cls = optdsl.load(RULE, backend="eager", learn=LEARN if learn else False)
    expected = visited(model, cls(model.parameters(), lr=0.02), share=False)
    check(on_ranks(2, sharded, learn), expected)


def test_copies_are_evaluated_alike() -> None:
    model = network()
    optimizer = optdsl.load(RULE, backend="eager")(model.parameters(), lr=0.02)
    check(on_ranks(2, copied), visited(model, optimizer, share=False))
