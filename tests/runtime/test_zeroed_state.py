"""A parameter whose state somebody sets to zero starts over, whatever its kernels had pending."""

import copy
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.paper import SIX

from .helpers import ORDERS

pytestmark = pytest.mark.broad(8)

# "replay" and "live" plans, with one tangent and with several.
RULES: dict[str, tuple[str, Any]] = {
    "mada": ("mada", SIX),
    "adamw": ("adamw", {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1))}),
    "sgd": ("sgd", {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1))}),
    "momentum": (
        "adam",
        {
            "lr": Learn("sgd", lr=1e-5, bounds=(0, 1)),
            "beta1": Learn("sgd", lr=1e-3, bounds=(0.5, 0.95)),
        },
    ),
}


def trained(
    kind: str, backend: str, order: str, zeroed: tuple[str, ...] | None, absent: range
) -> tuple[list[float], Any]:
    """Fifteen steps of three parameters in two groups; one is set back after the eleventh."""
    name, learn = RULES[kind]
    first, second, third = (nn.Parameter(torch.zeros(2, dtype=torch.float64)) for _ in range(3))
    made = optdsl.load(name, backend=backend, order=order, learn=learn)
    optimizer = made([{"params": [first, second]}, {"params": [third]}], lr=0.01)
    for number in range(15):
        first.grad = None if number in absent else torch.full_like(first, 0.3)
        second.grad = torch.full_like(second, number % 3)
        third.grad = torch.full_like(third, number % 2)
        optimizer.step()
        if number == 10:
            state = optimizer.state[first]
            for key in state if zeroed is None else zeroed:
                state[key].zero_()
    return [p[0].item() for p in (first, second, third)], optimizer


@pytest.mark.parametrize(
    ("backend", "order", "kind", "absent"),
    [
        *product(["c"], ORDERS, RULES, [range(0), range(11, 13)]),
        ("triton", "overlapped", "mada", range(0)),
        ("triton", "exact", "momentum", range(0)),
    ],
)
def test_it_goes_on_as_eager_code_does(kind: str, backend: str, order: str, absent: range) -> None:
    """Eager code keeps tangents, and the dot product with one of zeros is zero."""
    expected, reference = trained(kind, "eager", order, None, absent)
    found, optimizer = trained(kind, backend, order, None, absent)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert optimizer.metrics() == pytest.approx(reference.metrics(), rel=1e-7, abs=1e-12)


@pytest.mark.parametrize("backend", ["c"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_count_alone_that_is_set_to_zero_leaves_no_step_pending(backend: str, order: str) -> None:
    for key in ("step", "pending/hypers"):
        found, optimizer = trained("mada", backend, order, (key,), range(0))
        assert torch.tensor([*found, *optimizer.metrics().values()]).isfinite().all()


@pytest.mark.parametrize("backend", ["c"])
def test_what_reads_a_state_that_was_set_to_zero_finds_no_step_pending(backend: str) -> None:
    _, optimizer = trained("mada", backend, "overlapped", None, range(0))
    parameter = optimizer.param_groups[0]["params"][0]
    for value in optimizer.state[parameter].values():
        value.zero_()
    completed = optimizer.completed_state(parameter)
    assert all(not x.any() for x in completed.values() if isinstance(x, Tensor))
    second = copy.deepcopy(optimizer)
    second.observe()
    second.step()
    assert all(map(torch.isfinite, map(torch.tensor, second.metrics().values())))
    eager = optdsl.load("mada", learn=SIX, backend="eager")(
        [{"params": copy.deepcopy(group["params"])} for group in optimizer.param_groups]
    )
    eager.load_state_dict(optimizer.state_dict())
    for p in (p for group in eager.param_groups for p in group["params"]):
        p.grad = torch.ones_like(p)
    eager.step()
    assert all(p.isfinite().all() for group in eager.param_groups for p in group["params"])
