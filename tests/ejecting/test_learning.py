"""Standalone files that learn: the same coefficients and steps as the optimizers of the package."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import optdsl
from optdsl import Learn
from tests.ejecting.helpers import ejected, parameters, train

pytestmark = pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")

RATE = Learn("sgd", lr=1e-5, bounds=(0, 0.1))
SIGNS = Learn("adam", lr=0.01, bounds=(0.5, 0.999), scope="group", signal="sign", after=3)
COSINES = Learn("sgd", lr=1e-3, bounds=(0, 0.1), signal="cosine", scope="group")
CASES: dict[str, tuple[Any, Any, str]] = {
    "mada": ("mada", True, "overlapped"),
    "hyperadam": ("hyperadam", True, "exact"),
    "blend": (("adam", "lion"), True, "overlapped"),
    "rate": ("adam", {"lr": RATE}, "overlapped"),
    "cosines": ("adamw", {"lr": COSINES}, "exact"),
    "totals": ("adamw with clip", {"lr": RATE, "beta1": SIGNS}, "exact"),
    "kinds": ("muon(ns_steps = 2)", {"lr": RATE}, "overlapped"),
    "shared": ("prodigy", {"beta1": SIGNS}, "overlapped"),
}


def both(case: str) -> tuple[Any, Any]:
    """The package's class and that of the file."""
    name, learn, order = CASES[case]
    if isinstance(name, tuple):
        ours = optdsl.blend(*name, backend="eager", order=order)
        return ours, ejected(ours, learn=learn, order=order)
    ours = optdsl.load(name, backend="eager", learn=learn, order=order)
    return ours, ejected(name, learn=learn, order=order)


def groups(held: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": held[:2]}, {"params": held[2:]}]


def close(reference: Any, optimizer: Any, ours: Any, theirs: Any) -> None:
    """The same parameters, states and coefficients, to rounding."""
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-8, atol=1e-10)
        torch.testing.assert_close(optimizer.state[q], reference.state[p], rtol=1e-8, atol=1e-10)
    saved = reference.state_dict()["param_groups"], optimizer.state_dict()["param_groups"]
    for own, its in zip(*saved, strict=True):
        numbers = {k: float(x) for k, x in own.items() if isinstance(x, int | float)}
        assert numbers.keys() <= its.keys()
        kept = {k: float(its[k]) for k in numbers if not isinstance(its[k], str)}
        assert kept == pytest.approx({k: numbers[k] for k in kept}, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("case", CASES)
def test_learns_the_same(case: str) -> None:
    """100 steps from two groups; then the run goes on from what was saved."""
    first, second = both(case)
    ours, theirs = parameters(torch.float64), parameters(torch.float64)
    reference, optimizer = first(groups(ours)), second(groups(theirs))
    start = copy.deepcopy(optimizer.param_groups[0])
    train(reference, ours, 100)
    train(optimizer, theirs, 100)
    close(reference, optimizer, ours, theirs)
    learned = [k for k in start if f"hypergradient/{k}" in start]
    assert any(optimizer.param_groups[0][k] != start[k] for k in learned)
    copies = [torch.nn.Parameter(q.detach().clone()) for q in theirs]
    other = second(groups(copies))
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, theirs, 3, seed=2)
    train(other, copies, 3, seed=2)
    assert all(torch.equal(p, q) for p, q in zip(theirs, copies, strict=True))
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_the_package_goes_on_with_what_a_file_has_learned() -> None:
    first, second = both("hyperadam")
    held = parameters(torch.float64)
    optimizer = second(groups(held))
    train(optimizer, held, 60)
    saved = copy.deepcopy(optimizer.state_dict())
    copies = [torch.nn.Parameter(p.detach().clone()) for p in held]
    other = first(groups(copies))
    other.load_state_dict(other.state_dict() | saved)
    train(optimizer, held, 5, seed=2)
    train(other, copies, 5, seed=2)
    close(other, optimizer, copies, held)


def test_gradients_that_are_missing_or_infinite() -> None:
    """A tensor without a gradient keeps its derivative; an infinite product moves nothing."""
    first, second = both("rate")
    runs = []
    for cls in (first, second):
        held = parameters(torch.float64)
        optimizer = cls(held)
        for step in range(4):
            for place, p in enumerate(held):
                p.grad = None if step == place else 0.1 * p.detach() + step
            if step == 2:
                held[0].grad.view(-1)[0] = float("inf")
            optimizer.step()
        runs.append((optimizer, held))
    (reference, ours), (optimizer, theirs) = runs
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12, equal_nan=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(reference.param_groups[0]["lr"])


def test_coefficients_are_checked() -> None:
    cls = ejected("adam", learn={"lr": RATE})
    with pytest.raises(ValueError, match=r"lr = 0\.2 is out of bounds, .* \[0, 0\.1\]"):
        cls(parameters(), lr=0.2)
    held = parameters()
    with pytest.raises(ValueError, match="lr is learned for the whole optimizer"):
        cls([{"params": held[:1], "lr": 0.01}, {"params": held[1:], "lr": 0.02}])
    optimizer = cls(held[:2])
    train(optimizer, held[:2], 4)
    optimizer.add_param_group({"params": held[2:]})
    assert optimizer.param_groups[1]["lr"] == optimizer.param_groups[0]["lr"] != 1e-3
    optimizer.param_groups[1]["lr"] = 0.05
    with pytest.raises(ValueError, match=r"its groups have \[.*0\.05\]"):
        train(optimizer, held, 1)
    held[0]._fsdp_flattened = True
    optimizer.param_groups[1]["lr"] = optimizer.param_groups[0]["lr"]
    with pytest.raises(ValueError, match="works on whole tensors"):
        train(optimizer, held, 1)


def test_what_no_file_learns() -> None:
    with pytest.raises(optdsl.OptionError, match="learns lr for each tensor"):
        optdsl.eject("adam", learn={"lr": Learn("sgd", lr=0.1, scope="tensor", bounds=(0, 1))})
    blend = optdsl.blend("adam", "lion")
    assert "LEARNED" not in optdsl.eject(blend)
    with pytest.raises(optdsl.OptionError, match="says itself what it learns"):
        optdsl.eject(blend, learn=["w"])
