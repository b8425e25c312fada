"""Rules of matrices on ranks that have shards, against one process."""

from __future__ import annotations

from collections.abc import Callable
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
from torch.distributed.tensor import DTensor

import optdsl

from .ranks import BACKENDS, close, loss_of, network, on_ranks, train, values

pytestmark = pytest.mark.slow


def square() -> nn.Sequential:
    """Gradients of full rank, whose eigenvectors no rounding decides; three shards are uneven."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5)).double()


Made = Callable[[], nn.Sequential]
RULES: dict[str, tuple[Made, dict[str, float]]] = {
    "muon": (network, {"lr": 0.02}),
    "adafactor with ema_weights": (network, {"lr": 0.02}),
    "soap": (square, {"lr": 0.02, "interval": 2}),
    # Only the side of five is rotated.
    "soap with warmup": (network, {"lr": 0.02, "interval": 2, "max_dim": 6}),
    "lamb": (network, {"lr": 0.02}),
    # States along an axis of their own, of matrices that are read transposed; sums of a tensor.
    "galore_adamw": (network, {"lr": 0.02, "rank": 2, "gap": 3}),
    "came": (network, {"lr": 0.02}),
    "muon with clip(limit = 0.05), ema_weights": (network, {"lr": 0.02}),
}
KILLED: dict[str, tuple[Made, dict[str, float]]] = {
    "muon": (network, {"lr": 0.02}),
    "adafactor": (network, {"lr": 0.02}),
    "soap": (square, {"lr": 0.02, "interval": 2}),
    "prodigy": (network, {"d0": 1e-3}),
    "schedule_free_adamw": (network, {"lr": 0.02}),
}
# Sums over all tensors of what depends on whole ones, and an evaluation point that does.
SUMMED = """\
optimizer Summed
hyper lr = 0.1 in [0, inf)
for matrices
state r : rows = 1
r' = ema(r, mean(g^2 over cols), 0.5)
u = g @ transpose(g) @ g + r' * g
theta' = theta - lr * u / (1 + norm(u over all))
eval = theta * r
otherwise
theta' = theta - lr * g
eval = theta
"""
# First states that look at whole tensors, before an input is set.
GIVEN = """\
optimizer Given
hyper lr = 0.1 in [0, inf)
input h
for matrices
state r : rows = mean(g^2 over cols)
r' = ema(r, mean(h^2 over cols), 0.5)
theta' = theta - lr * g / (1 + r')
otherwise
theta' = theta - lr * g / (1 + h^2)
"""
STEPS = 4


class Counted:
    """The names of the collectives that are called directly, within."""

    NAMES = ("all_to_all_single", "all_gather", "all_gather_object", "broadcast", "all_reduce")

    def __enter__(self) -> list[str]:
        self._calls: list[str] = []
        self._before = {name: getattr(dist, name) for name in self.NAMES}
        for name, function in self._before.items():
            setattr(dist, name, self._counting(name, function))
        return self._calls

    def __exit__(self, *_: Any) -> None:
        for name, function in self._before.items():
            setattr(dist, name, function)

    def _counting(self, name: str, function: Any) -> Any:
        def counted(*arguments: Any, **options: Any) -> Any:
            self._calls.append(name)
            return function(*arguments, **options)

        return counted


def sharded(make: Made) -> nn.Sequential:
    """FSDP2; of a layer with one row, some ranks have no part."""
    model = make()
    fully_shard(model[0])
    fully_shard(model)
    return model


def trained(share: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for rule, (make, settings) in RULES.items():
        for backend in BACKENDS if rule == "lamb" else ("auto",):
            cls = optdsl.load(rule, backend=backend)
            model = sharded(make) if share else make()
            optimizer = cls(model.parameters(), **settings)
            train(model, optimizer, range(STEPS), share)
            if share:
                # A checkpoint, taken and loaded as torch.distributed.checkpoint does.
                saved = get_optimizer_state_dict(model, optimizer)
                optimizer = cls(model.parameters(), **settings)
                set_optimizer_state_dict(model, optimizer, saved)
            train(model, optimizer, range(STEPS, 2 * STEPS), share)
            found[f"{rule} {backend}"] = [values(model), at_evaluation(model, optimizer)]
    model = sharded(network) if share else network()
    optimizer = optdsl.compile(SUMMED)(model.parameters())
    train(model, optimizer, range(STEPS), share)
    found["summed"] = [values(model), at_evaluation(model, optimizer)]
    model = sharded(network) if share else network()
    optimizer = optdsl.compile(GIVEN)(model.parameters())
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step, share).backward()
        optimizer.step(inputs={"h": {p: 2 * p.grad for p in model.parameters()}})
    found["given"] = values(model)
    return found | learned(share)


def at_evaluation(model: nn.Module, optimizer: Any) -> list[torch.Tensor]:
    """The parameters in eval mode."""
    optimizer.eval()
    points = values(model)
    optimizer.train()
    return points


def learned(share: bool) -> dict[str, Any]:
    """Coefficients in both orders, observed and measured; the kernels of Lamb are compiled."""
    found = {}
    for rule, hyper, order in (("muon", "momentum", "overlapped"), ("lamb", "lr", "exact")):
        learn = {hyper: optdsl.Learn("sgd", lr=1e-3, bounds=(0, 0.99))}
        model = sharded(network) if share else network()
        optimizer = optdsl.load(rule, learn=learn, order=order)(model.parameters(), lr=0.02)
        curve = []
        for step in range(STEPS):
            optimizer.zero_grad()
            loss_of(model, step, share).backward()
            if step == 2:
                optimizer.observe()
            optimizer.step()
            curve.append(torch.tensor(optimizer.metrics()[hyper]))
        found[f"learned {rule}"] = [values(model), curve]
    return found


def structure() -> dict[str, Any]:
    """How many collectives steps have, and where states are."""
    found: dict[str, Any] = {}
    for layers in (2, 5):
        torch.manual_seed(0)
        model = nn.Sequential(*(nn.Linear(5, 5) for _ in range(layers))).double()
        for layer in model:
            fully_shard(layer)
        fully_shard(model)
        optimizer = optdsl.load("soap")(model.parameters())
        with Counted() as first:
            train(model, optimizer, [0])
        with Counted() as later:
            train(model, optimizer, range(1, 1 + STEPS))
        found[f"{layers} layers"] = (sorted(first), sorted(later))
    state = optimizer.state[model[0].weight]
    found["shares"] = {k: x.to_local().numel() for k, x in state.items() if isinstance(x, DTensor)}
    return found


def on_two_ranks() -> dict[str, Any]:
    return {"trained": trained(True), "structure": structure()}


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, on_two_ranks)


def test_ranks_together_are_one_process(two_ranks: list[dict[str, Any]]) -> None:
    expected = trained(share=False)
    for name in ("learned muon", "learned lamb"):
        assert len({float(x) for x in expected[name][1]}) > 2
    for rank in two_ranks:
        assert rank["trained"].keys() == expected.keys()
        for name, found in rank["trained"].items():
            close(found, expected[name])


def test_collectives_do_not_grow_with_tensors(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        for layers in (2, 5):
            first, later = rank["structure"][f"{layers} layers"]
            assert first == ["all_gather_object", "all_to_all_single", "all_to_all_single"]
            assert later == 2 * STEPS * ["all_to_all_single"]


def test_states_stay_in_shards(two_ranks: list[dict[str, Any]]) -> None:
    of_ranks = [rank["structure"]["shares"] for rank in two_ranks]
    assert of_ranks[0].keys() == {"m", "v", "L", "R", "QL", "QR"}
    assert set(of_ranks[0].values()) == {15}
    assert set(of_ranks[1].values()) == {10}


def packed(model: nn.Module, optimizer: Any) -> dict[str, Any]:
    return {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer),
    }


def begun() -> dict[str, tuple[nn.Sequential, Any]]:
    """The models and the optimizers of all trainings that are killed."""
    found = {}
    for rule, (make, settings) in KILLED.items():
        model = sharded(make)
        found[rule] = model, optdsl.load(rule)(model.parameters(), **settings)
    return found


def until_killed(folder: str) -> None:
    """Train, save, and go on with what is lost."""
    trainings = begun()
    for model, optimizer in trainings.values():
        train(model, optimizer, range(STEPS))
    dcp.save({rule: packed(*one) for rule, one in trainings.items()}, checkpoint_id=folder)
    train(*trainings["soap"], [STEPS])


def resumed(folder: str) -> dict[str, Any]:
    trainings = begun()
    state = {rule: packed(*one) for rule, one in trainings.items()}
    dcp.load(state, checkpoint_id=folder)
    found = {}
    for rule, (model, optimizer) in trainings.items():
        set_model_state_dict(model, state[rule]["model"])
        set_optimizer_state_dict(model, optimizer, state[rule]["optimizer"])
        train(model, optimizer, range(STEPS, 2 * STEPS))
        found[rule] = [values(model), at_evaluation(model, optimizer)]
    return found


@pytest.mark.exhaustive
def test_a_killed_training_goes_on_on_three_ranks(tmp_path: Path) -> None:
    on_ranks(2, until_killed, str(tmp_path))
    ranks = on_ranks(3, resumed, str(tmp_path))
    for rule, (make, settings) in KILLED.items():
        model = make()
        optimizer = optdsl.load(rule)(model.parameters(), **settings)
        train(model, optimizer, range(2 * STEPS), share=False)
        expected = [values(model), at_evaluation(model, optimizer)]
        for rank in ranks:
            close(rank[rule], expected)
