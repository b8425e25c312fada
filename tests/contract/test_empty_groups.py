"""Groups without parameters, as decay groups may be: trained, saved and loaded as others are."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

import optdsl
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

FLAT = StateDictOptions(flatten_optimizer_state_dict=True)


def trained(backend: str, steps: int = 2) -> tuple[nn.Module, CompiledOptimizer]:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    groups = [{"params": model.parameters()}, {"params": [], "weight_decay": 0.1}]
    optimizer = optdsl.load("mada", backend=backend)(groups)
    for _ in range(steps):
        model(torch.ones(3)).sum().backward()
        optimizer.step()
    return model, optimizer


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_flattened_checkpoint_says_that_it_cannot_hold_them(backend: str, steps: int) -> None:
    model, optimizer = trained(backend)
    saved = get_optimizer_state_dict(model, optimizer, options=FLAT)
    model, optimizer = trained(backend, steps)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=r"group 1 has no parameters.*flatten_optim"):
        set_optimizer_state_dict(model, optimizer, saved, options=FLAT)
    if steps:
        after = optimizer.state_dict()
        assert after["param_groups"] == before["param_groups"]
        for number, state in before["state"].items():
            for key, value in state.items():
                assert torch.equal(after["state"][number][key], value)


def test_other_checkpoints_hold_them() -> None:
    model, optimizer = trained("auto")
    optimizer.param_groups[1]["weight_decay"] = 0.3
    saved = get_optimizer_state_dict(model, optimizer)
    model, fresh = trained("auto", steps=0)
    set_optimizer_state_dict(model, fresh, saved)
    assert fresh.param_groups[1]["weight_decay"] == 0.3
    assert fresh.state_dict()["param_groups"] == optimizer.state_dict()["param_groups"]


def test_a_flattened_checkpoint_holds_a_group_that_is_not_empty_any_more() -> None:
    runs = []
    for _ in range(2):
        model, optimizer = trained("auto", steps=0)
        extra = nn.Parameter(torch.ones(2))
        model.register_parameter("extra", extra)
        optimizer.param_groups[1]["params"].append(extra)
        runs.append((model, optimizer))
    (model, optimizer), (other, fresh) = runs
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    saved = get_optimizer_state_dict(model, optimizer, options=FLAT)
    set_optimizer_state_dict(other, fresh, saved, options=FLAT)
    assert torch.equal(fresh.state[other.extra]["m"], optimizer.state[model.extra]["m"])


def test_copies_have_them_too() -> None:
    _, optimizer = trained("auto")
    for copied in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        assert list(copied.param_groups[1]["params"]) == []
        assert copied.param_groups[1]["weight_decay"] == 0.1
        copied.step()
