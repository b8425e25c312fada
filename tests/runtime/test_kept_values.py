"""Steps of plans that keep values of a pending step, on real optimizers."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch

import optdsl

from .helpers import fingerprint, held, loss, parameters, train

# Arithmetic is slow, so that the plan with the least of it is chosen.
BALANCE = "1e-6,1"
# A replay; one with a value kept; values kept in place of the gradient, with states that are live.
REPLAY, LAGGING, LIVE = 20, 24, 36
LEARNED = ("lr", "beta1", "beta2", "beta3", "eps", "weight_decay")


@pytest.fixture(autouse=True)
def _slow_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTDSL_BALANCE", BALANCE)


def made(bound: int | None, order: str = "overlapped", backend: str = "auto") -> Any:
    """A class whose plan is that of a bound, and that learns visibly."""
    how = {name: optdsl.Learn("sgd", lr=1e-6, bounds=(0, 0.999)) for name in LEARNED}
    return optdsl.load("adan", backend=backend, order=order, state_bytes=bound, learn=how)


def chosen(plan: Any) -> Any:
    return made(None, backend="eager") if plan == "eager" else made(plan)


def kept(optimizer: Any) -> set[str]:
    """The states of a tensor beside those of the rule."""
    state = optimizer.state[held(optimizer)[0]]
    return {key for key in state if key.startswith("pending/value/")}


pytestmark = pytest.mark.broad(2)


@pytest.mark.parametrize(
    ("dtype", "order"),
    [(torch.float64, "overlapped"), (torch.float64, "exact"), (torch.bfloat16, "overlapped")],
    ids=str,
)
@pytest.mark.exhaustive
def test_every_plan_learns_the_same(order: str, dtype: torch.dtype) -> None:
    """As eager code, which stores its tangents, does; whatever is kept."""
    eager = made(None, order, "eager")(parameters(dtype))
    train(eager, range(6))
    assert eager.metrics()["lr"] != eager.defaults["lr"]
    found = []
    for bound in (LAGGING, LIVE):
        optimizer = made(bound, order)(parameters(dtype))
        train(optimizer, range(6))
        tolerance = 1e-9 if dtype is torch.float64 else 2e-2
        assert optimizer.metrics() == pytest.approx(eager.metrics(), rel=tolerance, abs=1e-9)
        for ours, theirs in zip(held(optimizer), held(eager), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
        # Beside what is kept for each element, the number of steps and the pending coefficients.
        assert len(optimizer.state[held(optimizer)[0]]) - 2 <= bound / 4
        found.append(kept(optimizer))
    assert found[0]
    assert found[1] - found[0]


@pytest.mark.parametrize("bound", [LAGGING, LIVE])
def test_a_training_goes_on_bitwise(bound: int) -> None:
    """From a file, from a pickle and from a copy, with a step pending."""
    optimizer = made(bound)(parameters())
    train(optimizer, range(3))
    assert kept(optimizer)
    others = [copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))]
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = made(bound)([torch.nn.Parameter(p.detach().clone()) for p in held(optimizer)])
    again.load_state_dict(torch.load(file, weights_only=True))
    for one in (optimizer, again, *others):
        train(one, range(3, 6))
        assert fingerprint(one) == fingerprint(optimizer)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (LAGGING, REPLAY),
        (REPLAY, LIVE),
        (LAGGING, LIVE),
        (LIVE, LAGGING),
        (LIVE, REPLAY),
        (LAGGING, "eager"),
        (LIVE, "eager"),
        ("eager", LIVE),
    ],
)
def test_another_plan_completes_what_is_pending(before: Any, after: Any) -> None:
    """With the hyper-gradient of the pending step, as if nothing had changed."""
    usual = chosen(before)(parameters())
    train(usual, range(3))
    model = [torch.nn.Parameter(p.detach().clone()) for p in held(usual)]
    other = chosen(after)(model)
    other.load_state_dict(usual.state_dict())
    assert kept(other) == kept(usual)
    for one in (usual, other):
        train(one, range(3, 6))
    assert kept(other) != kept(usual)
    assert other.metrics() == pytest.approx(usual.metrics(), rel=1e-9)
    for ours, theirs in zip(held(other), held(usual), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bound", [LAGGING, LIVE])
def test_a_rule_that_learns_less_completes_the_states(bound: int) -> None:
    usual = made(bound)(parameters())
    train(usual, range(3))
    expected = [usual.completed_state(p) for p in held(usual)]
    model = [torch.nn.Parameter(p.detach().clone()) for p in held(usual)]
    other = optdsl.load("adan", learn=False)(model)
    other.load_state_dict(usual.state_dict())
    for parameter, state in zip(model, expected, strict=True):
        found = other.completed_state(parameter)
        for name in (s.name for s in other.compiled.program.states):
            torch.testing.assert_close(found[name], state[name], rtol=1e-10, atol=1e-14)


def test_what_is_missing_of_a_pending_step_is_an_error() -> None:
    usual = made(LIVE)(parameters())
    train(usual, range(3))
    saved = usual.state_dict()
    for state in saved["state"].values():
        for name in kept(usual):
            del state[name]
    with pytest.raises(ValueError, match="this state is incomplete: its last step is pending"):
        made(LIVE)(parameters()).load_state_dict(saved)


def test_gradients_that_are_observed_are_learned_from() -> None:
    usual, observing = (made(LIVE)(parameters()) for _ in range(2))
    for step in range(4):
        for optimizer in (usual, observing):
            optimizer.zero_grad()
            loss(held(optimizer), step).backward()
        observing.observe()
        for optimizer in (usual, observing):
            optimizer.step()
        assert observing.metrics() == pytest.approx(usual.metrics(), rel=1e-10)


def test_a_sample_with_kept_values_learns_as_with_stored_tangents() -> None:
    how = {name: optdsl.Learn("sgd", lr=1e-6, bounds=(0, 0.999), sample=8) for name in LEARNED}
    found = []
    # 16 bytes for the states of the rule, and half a byte for each value of sampled elements.
    for backend, bound in (("eager", None), ("auto", 18.5)):
        load = optdsl.load("adan", backend=backend, state_bytes=bound, learn=how)
        optimizer = load(parameters(shapes=[(4096, 20)]))
        train(optimizer, range(4))
        found.append(optimizer)
        assert optimizer.metrics() == pytest.approx(found[0].metrics(), rel=1e-9)
    assert kept(found[1])
