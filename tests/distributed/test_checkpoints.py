"""torch.distributed.checkpoint under FSDP2: every mode, the fake step, other numbers of ranks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import fully_shard

import optdsl

from .ranks import BACKENDS, HYPERS, batch, learner, loss_of, network, on_ranks, train, values

pytestmark = pytest.mark.slow

MODES: dict[str, StateDictOptions] = {
    "nested": StateDictOptions(),
    "flat": StateDictOptions(flatten_optimizer_state_dict=True),
    "full": StateDictOptions(full_state_dict=True),
    "full from rank 0": StateDictOptions(
        full_state_dict=True, cpu_offload=True, broadcast_from_rank0=True
    ),
}


def made(cls: Any) -> tuple[nn.Module, Any]:
    model = network()
    fully_shard(model[0])
    fully_shard(model)
    return model, cls(model.parameters(), **HYPERS)


def shared_folder() -> Path:
    """A folder that all ranks know."""
    names = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
    dist.broadcast_object_list(names)
    return Path(names[0])


def local_bits(optimizer: Any) -> list[Any]:
    """Parameters, states and groups on this rank, comparable to the bit."""
    found: list[Any] = []
    for group in optimizer.param_groups:
        found.append({k: v for k, v in group.items() if k != "params"})
        for parameter in group["params"]:
            entries = {"theta": parameter, **optimizer.state.get(parameter, {})}
            found.append(
                {
                    k: getattr(v.detach(), "_local_tensor", v.detach()).double().tolist()
                    for k, v in sorted(entries.items())
                }
            )
    return found


def round_trips() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        cls = learner(backend)
        for mode, options in MODES.items():
            model, optimizer = made(cls)
            train(model, optimizer, range(3))
            state = get_optimizer_state_dict(model, optimizer, options=options)
            again, other = made(cls)
            set_model_state_dict(again, get_model_state_dict(model))
            set_optimizer_state_dict(again, other, state, options=options)
            same = local_bits(optimizer) == local_bits(other)
            found[f"{backend} {mode}"] = (
                same,
                train(model, optimizer, range(3, 6)) == train(again, other, range(3, 6)),
                other.metrics()["beta1"],
            )
    for mode in ("nested", "flat"):
        found[f"files {mode}"] = files(MODES[mode])
    found["fake step"] = {b: fake_step(learner(b)) for b in BACKENDS}
    found["fake step"]["tensor"] = fake_step(learner("eager", scope="tensor"))
    found["fake step"]["nothing learned"] = fake_step(optdsl.load("adan", learn=False), rho=None)
    found["warm-up"] = warm_up()
    found["counts"] = different_counts()
    found["bfloat16"] = [half(options) for options in MODES.values()]
    return found


def files(options: StateDictOptions) -> tuple[bool, bool]:
    """Through `dcp.save` and `dcp.load`."""
    cls, folder = learner(), shared_folder()
    model, optimizer = made(cls)
    train(model, optimizer, range(3))
    state = {
        "model": get_model_state_dict(model),
        "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
    }
    dcp.save(state, checkpoint_id=folder)
    again, other = made(cls)
    state = {
        "model": get_model_state_dict(again),
        "optimizer": get_optimizer_state_dict(again, other, options=options),
    }
    dcp.load(state, checkpoint_id=folder)
    set_model_state_dict(again, state["model"])
    set_optimizer_state_dict(again, other, state["optimizer"], options=options)
    same = local_bits(optimizer) == local_bits(other)
    return same, train(model, optimizer, range(3, 6)) == train(again, other, range(3, 6))


def fake_step(cls: Any, **hypers: Any) -> dict[str, bool]:
    """What asking a new optimizer for its state changes."""
    results: dict[str, bool] = {}
    hypers = {**HYPERS, **hypers}
    if hypers["rho"] is None:
        del hypers["rho"]
    runs = []
    for asked in (False, True):
        model = network()
        fully_shard(model)
        model[2].bias.requires_grad_(False)
        optimizer = cls(model.parameters(), **hypers)
        before = values(model), [{**g, "params": None} for g in optimizer.param_groups]
        if asked:
            state = get_optimizer_state_dict(model, optimizer)
            after = values(model), [{**g, "params": None} for g in optimizer.param_groups]
            results["parameters stay"] = all(map(torch.equal, before[0], after[0]))
            results["groups stay"] = before[1] == after[1]
            steps = [s["step"] for s in state["state"].values()]
            results["counters stay"] = all(float(step) == 0 for step in steps)
            results["all trained have a state"] = len(steps) == 3
        train(model, optimizer, range(4))
        runs.append(local_bits(optimizer))
    results["training goes as if not asked"] = runs[0] == runs[1]
    return results


def warm_up() -> list[Any]:
    """A learning rate of 0 at the first step, with gradients that this rank may not see."""
    model, optimizer = made(learner())
    optimizer.param_groups[0]["lr"] = 0.0
    loss_of(model, 0).backward()
    # Zeros everywhere but in one element, of the first rank's.
    for number, parameter in enumerate(model.parameters()):
        local = parameter.grad.to_local()
        local.zero_()
        if number == 3 and dist.get_rank() == 0:
            local.fill_(1.0)
    optimizer.step()
    counted = {float(s["step"]) for s in optimizer.state.values()}
    optimizer.param_groups[0]["lr"] = 0.02
    curve = train(model, optimizer, range(2))
    return [counted, curve[-1][1]]


def different_counts() -> list[bool]:
    """Loaded in place into an optimizer whose tensors have taken equally many steps."""
    found = []
    for loaded_into in (0, 2):
        model, optimizer = made(learner())
        for step in range(4):
            optimizer.zero_grad()
            loss_of(model, step).backward()
            if step % 2:
                model[0].weight.grad = None
            optimizer.step()
        folder = shared_folder()
        dcp.save({"optimizer": get_optimizer_state_dict(model, optimizer)}, checkpoint_id=folder)
        again, other = made(learner())
        train(again, other, range(loaded_into))
        state = {"optimizer": get_optimizer_state_dict(again, other)}
        dcp.load(state, checkpoint_id=folder)
        set_optimizer_state_dict(again, other, state["optimizer"])
        set_model_state_dict(again, get_model_state_dict(model))
        assert len({float(s["step"]) for s in optimizer.state.values()}) == 2
        found.append(local_bits(optimizer) == local_bits(other))
    return found


def half(options: StateDictOptions) -> tuple[bool, bool]:
    """bfloat16 parameters with float32 states."""
    made_of = []
    for _ in range(2):
        model = network().bfloat16()
        fully_shard(model)
        made_of.append((model, learner()(model.parameters(), **HYPERS)))
    (model, optimizer), (again, other) = made_of
    for step in range(3):
        optimizer.zero_grad()
        model(batch(step)[0].bfloat16()).square().mean().backward()
        optimizer.step()
    set_model_state_dict(again, get_model_state_dict(model))
    state = get_optimizer_state_dict(model, optimizer, options=options)
    set_optimizer_state_dict(again, other, state, options=options)
    kinds = {s[k].dtype for s in other.state.values() for k in ("m", "v", "V")}
    return local_bits(optimizer) == local_bits(other), kinds == {torch.float32}


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, round_trips)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.exhaustive
def test_optimizer_state_dict_round_trips_under_fsdp2(
    backend: str, mode: str, two_ranks: list[dict[str, Any]]
) -> None:
    for rank in two_ranks:
        same, goes_on, beta1 = rank[f"{backend} {mode}"]
        assert (same, goes_on) == (True, True)
        assert beta1 != 0.9


@pytest.mark.parametrize("mode", ["nested", "flat"])
def test_dcp_save_and_load_round_trip(mode: str, two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        assert rank[f"files {mode}"] == (True, True)


@pytest.mark.parametrize("kind", [*BACKENDS, "tensor", "nothing learned"])
def test_the_fake_step_changes_nothing(kind: str, two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        results = rank["fake step"][kind]
        assert all(results.values()), results
        assert len(results) == 5


def test_counts_that_differ_are_loaded_in_place(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        assert rank["counts"] == [True, True]


def test_float32_moments_of_bfloat16_shards_are_kept_to_the_bit(
    two_ranks: list[dict[str, Any]],
) -> None:
    for rank in two_ranks:
        assert rank["bfloat16"] == [(True, True)] * len(MODES)


def test_a_warm_up_from_zero_is_no_fake_step(two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["warm-up"] for rank in two_ranks)
    assert first == second
    assert first[0] == {1.0}


def test_the_fake_step_in_one_process() -> None:
    """No ranks: the same, with plain tensors, and a closure."""
    adan = optdsl.load("adan", learn=False)
    cases = [(learner("eager"), 0.02), (learner("c"), 0.02), (adan, 0.02), (adan, True)]
    for cls, lr in cases:
        runs = []
        for faked in (False, True):
            model = network()
            rate = torch.tensor(0.02, dtype=torch.float64) if lr is True else lr
            optimizer = cls(model.parameters(), lr=rate)
            if faked:
                get_optimizer_state_dict(model, optimizer)
                assert {float(s["step"]) for s in optimizer.state.values()} == {0.0}
                assert len(optimizer.state) == 4
            train(model, optimizer, range(3))
            runs.append(local_bits(optimizer))
        assert runs[0] == runs[1]


def test_a_learning_rate_of_zero_alone_is_a_step() -> None:
    model = network()
    optimizer = learner()(model.parameters(), lr=0.0)
    train(model, optimizer, range(1))
    assert {float(s["step"]) for s in optimizer.state.values()} == {1.0}


def test_a_state_that_is_placed_otherwise_is_refused() -> None:
    messages = on_ranks(1, plain_state_for_shards)
    assert "is not placed as the parameter is" in messages[0]


def plain_state_for_shards() -> str:
    model, optimizer = made(learner())
    train(model, optimizer, range(1))
    parameter = model[0].weight
    optimizer.state[parameter]["m"] = optimizer.state[parameter]["m"].full_tensor()
    try:
        train(model, optimizer, range(1))
    except RuntimeError as error:
        return str(error)
    return ""
