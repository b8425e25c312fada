"""`maximize`, as torch's optimizers have it, and what coefficients learn meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy
import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn
from tests.contract.common import (
    BACKENDS,
    ORDERS,
    every,
    learner,
)
from tests.runtime.helpers import bits, fingerprint, held, loss, parameters

pytestmark = pytest.mark.broad(10)


def ascend(
    optimizer: torch.optim.Optimizer, steps: range, signs: Callable[[nn.Parameter], float]
) -> None:
    """Train on gradients with signs."""
    for step in steps:
        optimizer.zero_grad()
        loss(held(optimizer), step).backward()
        for parameter in held(optimizer):
            assert parameter.grad is not None
            parameter.grad *= signs(parameter)  # type: ignore[arg-type]
        optimizer.step()


@pytest.mark.parametrize("order", ORDERS)
@every
def test_maximize_does_what_the_negative_gradient_does(spec: str, backend: str, order: str) -> None:
    """To the bit, coefficients and hyper-gradients included; the gradients stay as they are."""
    cls = learner(spec, backend, order)
    up, down = cls(parameters(), maximize=True), cls(parameters())
    ascend(up, range(4), lambda p: 1.0)
    gradients = [bits(p.grad) for p in held(up) if p.grad is not None]
    up.step()
    assert [bits(p.grad) for p in held(up) if p.grad is not None] == gradients
    ascend(down, range(4), lambda p: -1.0)
    down.step()
    assert any(up.metrics().values())
    for part in ("parameters", "state"):
        assert fingerprint(up)[part] == fingerprint(down)[part]
    assert up.metrics() == down.metrics()


@every
def test_groups_may_go_up_and_down(spec: str, backend: str) -> None:
    """As those of an adversary do; and the direction may be turned in mid-training."""
    cls = learner(spec, backend)
    mine, expected = parameters(), parameters()
    mixed = cls([{"params": mine[:1], "maximize": True}, {"params": mine[1:]}])
    signed = cls([{"params": expected[:1]}, {"params": expected[1:]}])
    assert [g["maximize"] for g in mixed.param_groups] == [True, False]
    ascend(mixed, range(3), lambda p: 1.0)
    ascend(signed, range(3), lambda p: -1.0 if p is expected[0] else 1.0)
    for group in mixed.param_groups:
        group["maximize"] = not group["maximize"]
    ascend(mixed, range(3, 6), lambda p: 1.0)
    ascend(signed, range(3, 6), lambda p: 1.0 if p is expected[0] else -1.0)
    assert fingerprint(mixed)["parameters"] == fingerprint(signed)["parameters"]
    assert mixed.metrics() == signed.metrics()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_with_maximize_coefficients_learn_what_raises_the_loss(backend: str, order: str) -> None:
    """On a hill of height -(theta - 3)^2 a rate that is too small grows, and as it would down."""
    learn = {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))}
    cls = optdsl.load("sgd", backend=backend, order=order, learn=learn)
    rates = []
    for maximize in (False, True):
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = cls([parameter], lr=0.01, maximize=maximize)
        for _ in range(20):
            optimizer.zero_grad()
            valley = (parameter - 3).square().sum()
            (-valley if maximize else valley).backward()
            before = None if parameter.grad is None else parameter.grad.clone()
            optimizer.step()
            assert before is not None
        rates.append(optimizer.param_groups[0]["lr"])
        # The derivative of what is minimized: it falls where the rate grows.
        assert optimizer.metrics()["hypergradient/lr"] < 0
        assert parameter.item() > 0.5
    assert rates[0] == rates[1] > 0.011


@pytest.mark.parametrize("value", [1, numpy.True_])
def test_maximize_may_be_any_kind_of_truth(value: Any) -> None:
    cls = optdsl.load("adam")
    optimizers = [cls(parameters(), maximize=value)]
    optimizers.append(cls([{"params": parameters(), "maximize": value}]))
    for optimizer in optimizers:
        assert optimizer.param_groups[0]["maximize"] is True


@pytest.mark.parametrize("value", [2, 0.5, "yes", None])
def test_maximize_is_true_or_false(value: Any) -> None:
    cls = optdsl.load("adam")
    with pytest.raises(TypeError, match="Adam: maximize must be True or False, not "):
        cls(parameters(), maximize=value)
    with pytest.raises(TypeError, match="Adam: maximize must be True or False, not "):
        cls([{"params": parameters(), "maximize": value}])


def test_maximize_is_saved_and_a_misspelt_one_is_told() -> None:
    cls = optdsl.load("adam")
    loaded = cls(parameters())
    loaded.load_state_dict(cls(parameters(), maximize=True).state_dict())
    assert loaded.param_groups[0]["maximize"] is True
    with pytest.warns(UserWarning, match="did you mean `maximize`"):
        cls([{"params": parameters(), "maximise": True}])
