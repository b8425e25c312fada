"""Rules of matrices on two ranks of FSDP2, uneven shards included, against one process."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import optdsl

from .ranks import BACKENDS, close, network, on_ranks, train, values

pytestmark = pytest.mark.slow

RULES: dict[str, dict[str, float]] = {
    "muon": {"lr": 0.02},
    "adafactor": {"lr": 0.02},
    "lamb": {"lr": 0.02},
    "muon with clip(limit = 0.05), ema_weights": {"lr": 0.02},
}
STEPS = 4


def sharded_model() -> nn.Sequential:
    model = network()
    fully_shard(model[0])
    fully_shard(model)
    return model


def trained(share: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rule, settings in RULES.items():
        for backend in BACKENDS:
            cls = optdsl.load(rule, backend=backend)
            model = sharded_model() if share else network()
            optimizer = cls(model.parameters(), **settings)
            train(model, optimizer, range(STEPS), share)
            if share:
                # A checkpoint, taken and loaded as torch.distributed.checkpoint does.
                saved = get_optimizer_state_dict(model, optimizer)
                optimizer = cls(model.parameters(), **settings)
                set_optimizer_state_dict(model, optimizer, saved)
            train(model, optimizer, range(STEPS, 2 * STEPS), share)
            found[f"{rule} {backend}"] = values(model)
    return found


def test_ranks_together_are_one_process() -> None:
    expected = trained(share=False)
    for found in on_ranks(2, trained, True):
        assert found.keys() == expected.keys()
        for name, parameters in found.items():
            close(parameters, expected[name])


def learned(share: bool) -> dict[str, Any]:
    learn = {"momentum": optdsl.Learn("sgd", lr=1e-3, bounds=(0.5, 0.99))}
    model = sharded_model() if share else network()
    optimizer = optdsl.load("muon", learn=learn)(model.parameters(), lr=0.02)
    curve = train(model, optimizer, range(STEPS), share)
    return {"values": values(model), "curve": torch.tensor([c["momentum"] for _, c in curve])}


def test_what_is_learned_is_that_of_one_process() -> None:
    expected = learned(share=False)
    assert expected["curve"].unique().numel() > 2
    for found in on_ranks(2, learned, True):
        torch.testing.assert_close(found["curve"], expected["curve"], rtol=1e-9, atol=0)
        close(found["values"], expected["values"])
