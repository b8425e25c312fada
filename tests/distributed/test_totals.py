"""Sums over all tensors on two ranks: each rank has shards, or all has copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import optdsl

from .ranks import BACKENDS, close, network, on_ranks, train, values

pytestmark = pytest.mark.slow

RULES = {
    "prodigy": {"d0": 1e-3},
    "adamw with clip(limit = 0.05)": {"lr": 0.02},
    str(Path(__file__).parent / "largest.opt"): {"lr": 0.02},
}
STEPS = 6


def trained(share: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rule, settings in RULES.items():
        for backend in BACKENDS:
            model: Any = network()
            if share == "shards":
                fully_shard(model[0])
                fully_shard(model)
            if share == "copies":
                model = DistributedDataParallel(model)
            optimizer = optdsl.load(rule, backend=backend)(model.parameters(), **settings)
            train(model, optimizer, range(STEPS), share != "none")
            shared = optimizer.param_groups[0].get("shared/d", 0.0)
            found[f"{rule} {backend}"] = (values(model), shared)
    return found


@pytest.mark.parametrize("share", ["shards", "copies"])
def test_ranks_together_are_one_process(share: str) -> None:
    expected = trained("none")
    for found in on_ranks(2, trained, share):
        for name, (parameters, shared) in found.items():
            close(parameters, expected[name][0])
            assert shared == pytest.approx(expected[name][1], rel=1e-5)
