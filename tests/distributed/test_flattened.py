"""FullyShardedDataParallel (FSDP1): shares of flattened parameters, which are plain tensors."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP, _optim_utils  # noqa: N817

import optdsl

from .ranks import (
    BACKENDS,
    HYPERS,
    ORDERS,
    alone,
    close,
    learner,
    network,
    on_ranks,
    train,
)

pytestmark = pytest.mark.slow

STEPS, SAVED = 6, 3
KINDS = (True, False)
REDUCING = """\
optimizer Reducing
hyper lr = 0.1 in [0, inf)
theta' = theta - lr * g / (1 + mean(g * g))
"""


def sharded(original: bool) -> FSDP:
    # It looks for an accelerator first, and says that it is deprecated.
    return FSDP(network(), use_orig_params=original, device_id=torch.device("cpu"))


def whole(model: FSDP) -> list[torch.Tensor]:
    with FSDP.summon_full_params(model):
        return [p.detach().reshape(-1).clone() for p in model.parameters()]


def copying(unflatten: Any) -> Any:
    """The function of torch's that cuts gathered states into those of parameters, with copies.

    It gathers one state after the other into the same memory, and leaves it to the way to the host
    to copy them: on the CPU all states that it returns are the last one, for torch's optimizers,
    too.
    """

    def copied(info: Any, states: Any, name: str, *more: Any) -> None:
        unflatten(info, states, name, *more)
        for state in states.values():
            if name in state:
                state[name] = state[name].clone()

    return copied


def refusal(step: Any) -> str:
    try:
        step()
    except RuntimeError as error:
        return str(error)
    return ""


def refused(original: bool) -> dict[str, Any]:
    """What is said where coefficients would differ, and whether anything has changed."""
    model = sharded(original)
    optimizer = learner()(model.parameters(), **HYPERS)
    before = whole(model), optimizer.metrics()
    found = {"learned": refusal(lambda: train(model, optimizer, range(1)))}
    found["changed"] = str(bool(optimizer.state) or optimizer.metrics() != before[1])
    beside = nn.Parameter(torch.ones(2, dtype=torch.float64))
    mixed = [*model.parameters(), beside]
    optimizer = learner()(mixed, process_group=model.process_group, **HYPERS)
    found["beside"] = refusal(lambda: train(model, optimizer, range(1)))
    reducing = optdsl.compile(REDUCING)(model.parameters())
    found["reducing"] = refusal(lambda: train(model, reducing, range(1)))
    by_tensor = learner("eager", scope="tensor")(model.parameters(), **HYPERS)
    found["tensor"] = refusal(lambda: train(model, by_tensor, range(1)))
    return found


def trained(original: bool, backend: str, order: str) -> Any:
    """A training that is saved after some steps, and the same one resumed from the file."""
    model = sharded(original)
    group = model.process_group
    optimizer = learner(backend, order)(model.parameters(), process_group=group, **HYPERS)
    train(model, optimizer, range(SAVED))
    state = copy.deepcopy(FSDP.optim_state_dict(model, optimizer))
    # Views of memory that FSDP uses again.
    parameters = copy.deepcopy(model.state_dict())
    train(model, optimizer, range(SAVED, STEPS))
    other = sharded(original)
    other.load_state_dict(parameters)
    resumed = learner(backend, order)(other.parameters(), process_group=group, lr=0.5)
    resumed.load_state_dict(FSDP.optim_state_dict_to_load(other, resumed, state))
    train(other, resumed, range(SAVED, STEPS))
    return [(whole(m), o.metrics()) for m, o in ((model, optimizer), (other, resumed))]


def plain(original: bool) -> Any:
    """Nothing is learned: no process group is needed."""
    found = []
    for cls in (optdsl.load("adamw", learn=False, backend="c"), torch.optim.AdamW):
        model = sharded(original)
        train(model, cls(model.parameters(), lr=0.02), range(STEPS))
        found.append(whole(model))
    return found


def everything() -> dict[str, Any]:
    warnings.simplefilter("ignore")
    _optim_utils._unflatten_orig_param_states = copying(_optim_utils._unflatten_orig_param_states)
    found: dict[str, Any] = {}
    for original in KINDS:
        found[f"refused {original}"] = refused(original)
        found[f"plain {original}"] = plain(original)
        for backend in BACKENDS:
            for order in ORDERS:
                found[f"{original} {backend} {order}"] = trained(original, backend, order)
    return found


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, everything)


@pytest.mark.parametrize("original", KINDS)
def test_learning_from_a_share_is_refused_with_the_remedy(
    original: bool, two_ranks: list[dict[str, Any]]
) -> None:
    for rank in two_ranks:
        said = rank[f"refused {original}"]
        assert "every rank would learn something else" in said["learned"]
        assert "process_group=model.process_group" in said["learned"]
        assert said["changed"] == "False"
        assert "others that every rank has" in said["beside"]
        assert "looks at tensors as a whole" in said["reducing"]
        assert "learn for the optimizer or for groups" in said["tensor"]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("original", KINDS)
def test_with_the_process_group_it_learns_and_resumes_as_one_process(
    original: bool, backend: str, order: str, two_ranks: list[dict[str, Any]]
) -> None:
    parameters, metrics = alone(learner(backend, order), range(STEPS), **HYPERS)
    expected = torch.cat([p.reshape(-1) for p in parameters])
    for rank in two_ranks:
        for values, learned in rank[f"{original} {backend} {order}"]:
            close(learned, metrics)
            close(torch.cat(values), expected)
    first, second = (rank[f"{original} {backend} {order}"] for rank in two_ranks)
    assert [learned for _, learned in first] == [learned for _, learned in second]


@pytest.mark.parametrize("original", KINDS)
def test_a_rule_that_learns_nothing_needs_no_process_group(
    original: bool, two_ranks: list[dict[str, Any]]
) -> None:
    for rank in two_ranks:
        ours, theirs = rank[f"plain {original}"]
        close(ours, theirs)
