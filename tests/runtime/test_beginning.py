"""First steps: what counts as one, and what a state whose count is 0 begins with."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict

import optdsl

from .helpers import held, train

BACKENDS = ("eager", "c")


def one(backend: str, **hypers: Any) -> list[torch.optim.Optimizer]:
    """Adam of ours and of torch, each over a parameter of one element."""
    cls = optdsl.load("adam", backend=backend)
    made = []
    for kind in (cls, torch.optim.Adam):
        made.append(kind([nn.Parameter(torch.zeros(1, dtype=torch.float64))], **hypers))
    return made


def step(optimizer: torch.optim.Optimizer, gradient: float) -> float:
    (parameter,) = held(optimizer)
    parameter.grad = torch.full_like(parameter, gradient)
    optimizer.step()
    return parameter.item()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loaded_count_of_zero_keeps_its_moments(backend: str) -> None:
    """A checkpoint whose counts were set back goes on with its moments, as with torch."""
    found = []
    for optimizer, name in zip(one(backend), ("m", "exp_avg"), strict=True):
        for _ in range(10):
            step(optimizer, 1.0)
        content = optimizer.state_dict()
        content["state"][0]["step"].zero_()
        optimizer.load_state_dict(content)
        step(optimizer, 0.0)
        state = optimizer.state[held(optimizer)[0]]
        found.append((float(state[name]), float(state["step"])))
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx((0.9 * (1 - 0.9**10), 1))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("zeros", [1, 3])
def test_first_steps_without_rate_and_gradient_count(backend: str, zeros: int) -> None:
    """As with torch: a warm-up from 0 whose first batch reaches no parameter."""
    ends = []
    for optimizer in one(backend, lr=0.0):
        for _ in range(zeros):
            step(optimizer, 0.0)
        optimizer.param_groups[0]["lr"] = 0.01
        ends.append(step(optimizer, 1.0))
    assert ends[0] == pytest.approx(ends[1], rel=1e-12)
    if zeros == 1:
        assert ends[0] == pytest.approx(-0.00744, abs=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["adam", "adan", "sgd"])
def test_asking_for_the_state_of_a_checkpoint_is_no_step(backend: str, name: str) -> None:
    """Not for a parameter that gets its first gradient later, either."""
    cls = optdsl.load(name, backend=backend)
    ends = []
    for asked in (False, True):
        torch.manual_seed(0)
        model = nn.Linear(2, 2).double()
        optimizer = cls(model.parameters(), lr=0.01)
        if asked:
            states = get_optimizer_state_dict(model, optimizer)["state"]
            assert {float(state["step"]) for state in states.values()} == {0}
        for number in range(4):
            optimizer.zero_grad()
            model(torch.full((3, 2), number + 1.0, dtype=torch.float64)).square().sum().backward()
            if number < 2:
                model.bias.grad = None
            optimizer.step()
        assert [float(optimizer.state[p]["step"]) for p in held(optimizer)] == [4, 2]
        ends.append([p.detach() for p in model.parameters()])
    assert all(map(torch.equal, *ends))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpoint_of_an_optimizer_that_took_no_step_starts_from_scratch(backend: str) -> None:
    """Its states are zeros, which is not how every rule begins."""
    cls = optdsl.compile(
        "optimizer Own\nhyper lr = 0.1 in [0, inf)\nstate s = 1\ns' = s + g\n"
        "theta' = theta - lr * s'\n",
        backend=backend,
    )
    model = nn.Linear(2, 2).double()
    asked = cls(model.parameters())
    get_optimizer_state_dict(model, asked)
    again = nn.Linear(2, 2).double()
    again.load_state_dict(model.state_dict())
    loaded, fresh = cls(again.parameters()), cls(model.parameters())
    loaded.load_state_dict(asked.state_dict())
    train(loaded, range(3))
    train(fresh, range(3))
    assert all(map(torch.equal, held(loaded), held(fresh)))


def init_optim_state(optimizer: torch.optim.Optimizer) -> None:
    """The step that torchtitan takes under this name, to have states for a checkpoint."""
    (parameter,), (group,) = held(optimizer), optimizer.param_groups
    rate, group["lr"] = group["lr"], 0.0
    step(optimizer, 0.0)
    group["lr"], parameter.grad = rate, None


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_step_that_a_trainer_takes_for_a_checkpoint_does_not_count(backend: str) -> None:
    asked, _ = one(backend)
    init_optim_state(asked)
    state = asked.state[held(asked)[0]]
    assert float(state["step"]) == 0
    assert step(asked, 1.0) == pytest.approx(step(one(backend)[0], 1.0), rel=0)
    assert float(asked.state[held(asked)[0]]["step"]) == 1
