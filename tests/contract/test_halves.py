"""States that are not whole, or not what they should be: refused when loaded, with a reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn
from tests.paper import SIX


def stepped(**options: Any) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    parameter = nn.Parameter(torch.linspace(-1, 1, 6))
    optimizer = optdsl.load("mada", learn=SIX, backend="c", **options)([parameter])
    for _ in range(2):
        parameter.grad = torch.linspace(1, 2, 6)
        optimizer.step()
    return parameter, optimizer


@pytest.mark.parametrize("lost", ["pending/g", "pending/hypers"])
def test_half_of_a_pending_step_is_refused(lost: str) -> None:
    """Without the other half, the states would be those of a step before, and nobody would know."""
    _, optimizer = stepped()
    saved = optimizer.state_dict()
    del saved["state"][0][lost]
    _, other = stepped()
    with pytest.raises(ValueError, match="this state is incomplete: its last step is pending"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("value", [{}, None, 1.0, "m"])
def test_a_state_that_is_no_tensor_is_refused(value: object) -> None:
    """A flattened distributed checkpoint has such for parameters that were never trained."""
    _, optimizer = stepped()
    saved = optimizer.state_dict()
    saved["state"][0]["m"] = value
    _, other = stepped()
    with pytest.raises(ValueError, match=f"m is {type(value).__name__}, no tensor"):
        other.load_state_dict(saved)


@pytest.mark.parametrize("part", ["state", "param_groups"])
@pytest.mark.parametrize("value", [None, 3])
def test_what_is_no_state_at_all_is_refused(part: str, value: object) -> None:
    _, optimizer = stepped()
    with pytest.raises(ValueError, match="it has no `state` or no `param_groups`"):
        optimizer.load_state_dict(optimizer.state_dict() | {part: value})


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_tensors_coefficient_may_be_set_before_its_first_step(backend: str) -> None:
    cls = optdsl.load(
        "adam", backend=backend, learn={"lr": Learn("sgd", lr=0.0, bounds=(0, 1), scope="tensor")}
    )
    parameters = [nn.Parameter(torch.ones(3)) for _ in range(2)]
    optimizer = cls(parameters, lr=0.125)
    optimizer.state[parameters[0]]["coefficient/lr"] = torch.tensor(0.5)
    for p in parameters:
        p.grad = torch.ones(3)
    optimizer.step()
    for p, lr in zip(parameters, (0.5, 0.125), strict=True):
        torch.testing.assert_close(p.detach(), torch.full((3,), 1 - lr))


def test_parameters_of_several_dtypes_are_each_updated_in_their_own() -> None:
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float32, torch.float16)
    mixed = [nn.Parameter(torch.linspace(-1, 1, 6).to(d)) for d in dtypes]
    alone = [nn.Parameter(p.detach().clone()) for p in mixed]
    cls = optdsl.load("adamw", backend="c")
    for group in ([mixed], [[p] for p in alone]):
        optimizers = [cls(held, lr=0.1) for held in group]
        for optimizer in optimizers:
            for _ in range(3):
                for p in optimizer.param_groups[0]["params"]:
                    p.grad = torch.ones_like(p)
                optimizer.step()
    assert all(torch.equal(x, y) for x, y in zip(mixed, alone, strict=True))
