"""Checkpoints and copies between `observe` and `step`."""

import copy
import pickle
from typing import Any

import pytest
import torch

import optdsl
from optdsl import Learn

from .helpers import fingerprint, parameters, resumed, saved, train
from .test_observe import PLANS, backward, made
from .test_scope import SHAPES, in_groups


@pytest.mark.parametrize("scope", ["optimizer", "group", "tensor"])
@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("kind", PLANS)
def test_a_run_resumed_between_observe_and_step_is_the_same_to_the_bit(
    kind: str, backend: str, scope: str
) -> None:
    cls = made(kind, backend, "exact", scope)
    unbroken = cls(in_groups(parameters(shapes=SHAPES)))
    train(unbroken, range(4))
    backward(unbroken, 20)
    unbroken.observe()
    others = [
        resumed(cls, unbroken),
        copy.deepcopy(unbroken),
        pickle.loads(pickle.dumps(unbroken)),
    ]
    used = copy.deepcopy(unbroken)
    used.observe()  # a load replaces what was observed
    used.load_state_dict(saved(unbroken.state_dict()))
    train(unbroken, range(4, 7))
    for other in (*others, used):
        train(other, range(4, 7))
        assert fingerprint(other) == fingerprint(unbroken)


def test_a_loaded_state_without_observations_has_none() -> None:
    optimizer = made("live", "c", "exact")(parameters())
    train(optimizer, range(3))
    usual = copy.deepcopy(optimizer)
    content = saved(optimizer.state_dict())
    assert "observed" not in content
    backward(optimizer, 9)
    optimizer.observe()
    optimizer.load_state_dict(content)
    for one in (optimizer, usual):
        train(one, [3])
    assert fingerprint(optimizer) == fingerprint(usual)


@pytest.mark.parametrize(
    "entry", ["none", {0: None}, {0: {"lr": "high"}}, {0: {1: 2.0}}, [[0, {"lr": 1.0}]]]
)
def test_a_state_with_strange_observations_is_refused(entry: Any) -> None:
    optimizer = made("live", "c", "exact")(parameters())
    train(optimizer, range(3))
    before = fingerprint(optimizer)
    with pytest.raises(ValueError, match="`observed` is no dict of numbers"):
        optimizer.load_state_dict({**optimizer.state_dict(), "observed": entry})
    assert fingerprint(optimizer) == before


def test_what_was_observed_of_what_is_no_longer_learned_is_forgotten() -> None:
    """And what is learned only now was not observed."""
    old = made("replay", "c", "exact")(parameters())
    train(old, range(3))
    backward(old, 3)
    old.observe()
    learn = {
        "beta2": Learn("sgd", lr=1e-3, momentum=0.5, bounds=(0.5, 0.99)),
        "rho": Learn("sgd", lr=0.5, bounds=(0, 1)),
    }
    new = resumed(optdsl.load("mada_legacy", learn=learn), old)
    before = new.metrics()
    train(old, [3])
    train(new, [3])
    assert new.metrics()["beta2"] == old.metrics()["beta2"] != before["beta2"]
    assert new.metrics()["rho"] == before["rho"]
    assert new.metrics()["hypergradient/rho"] == 0.0


def test_files_of_torch_distributed_are_refused_while_something_was_observed() -> None:
    """They keep states and groups only."""
    from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

    model = torch.nn.Linear(2, 1).double()
    optimizer = made("live", "eager", "exact")(model.parameters())
    train(optimizer, range(3))
    assert get_optimizer_state_dict(model, optimizer)
    optimizer.observe()
    with pytest.raises(RuntimeError, match=r"save after step\(\)"):
        get_optimizer_state_dict(model, optimizer)
    optimizer.discard_observed()
    assert get_optimizer_state_dict(model, optimizer)
