"""`observe`: coefficients learn from gradients that the user chooses."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import Learn

from .helpers import (
    ORDERS,
    SPECS,
    Probe,
    fingerprint,
    held,
    learning,
    loss,
    parameters,
    train,
)
from .test_scope import MIXED, SHAPES, Descent, give, in_groups, stream

pytestmark = pytest.mark.broad(8)

BACKENDS = ("eager", "c", "triton")

# Rules whose compiled kernels keep nothing more, the last gradient, and tangents.
PLANS = {"live": "adam", "replay": "mada_legacy", "stored": "normed"}
NORMED = """\
optimizer Normed
hyper lr = 0.1 in [0, inf)
hyper weight_decay = 0.1 in [0, 1]
state m = 0
m' = 0.9 * m + 0.1 * g / (1 + norm(g))
theta' = theta - lr * (m' + weight_decay * theta)
"""


def made(kind: str, backend: str, order: str, scope: str = "optimizer") -> Any:
    """A class whose kernels have a plan of that kind, and whose coefficients move visibly."""
    how = {"lr": 1e-3, "momentum": 0.5, "scope": scope}
    learn = {"lr": Learn("sgd", bounds=(0, 1), **how)}
    options: Any = {"backend": backend, "order": order}
    if kind == "stored":
        learn["weight_decay"] = Learn("sgd", bounds=(0, 1), **how)
        return optdsl.compile(NORMED, learn=learn, **options)
    if kind == "replay":
        learn["beta2"] = Learn("sgd", bounds=(0.5, 0.99), **how)
    return optdsl.load(PLANS[kind], learn=learn, **options)


def backward(optimizer: Any, step: int, *, scale: float = 1.0) -> None:
    optimizer.zero_grad()
    (loss(held(optimizer), step) * scale).backward()


@pytest.mark.parametrize("signal", ["raw", "sign", "cosine"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("scopes", MIXED, ids=lambda s: "-".join(s.values()))
def test_what_is_observed_is_learned_from_as_by_autograd(
    scopes: dict[str, str], backend: str, order: str, signal: str
) -> None:
    """Of whole gradients, once, twice or not at all, where steps go by clipped ones."""
    descent = Descent.of(scopes, backend, order, signal)
    first, second, third = stream(12), stream(12)[::-1], stream(12)
    for t in range(12):
        rounds = [first[t], second[t]][: t % 3]
        for gradients in rounds:
            give(descent.parameters, gradients)
            descent.optimizer.observe()
        clipped = [g if g is None else g.clamp(-0.1, 0.1) for g in third[t]]
        give(descent.parameters, clipped)
        descent.optimizer.step()
        descent.expected.step(clipped, rounds or None)
        descent.agrees()


@pytest.mark.parametrize(
    ("backend", "order", "dtype"),
    [
        *((b, order, torch.float64) for b in BACKENDS for order in ORDERS),
        ("c", "overlapped", torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", PLANS)
def test_the_steps_own_gradient_may_be_observed(
    kind: str, backend: str, order: str, dtype: torch.dtype
) -> None:
    """As a whole or in parts, which is the same as not to observe; every plan, every backend."""
    usual, whole, parts = (made(kind, backend, order)(parameters(dtype)) for _ in range(3))
    tolerance = 1e-10 if dtype is torch.float64 else 2e-3
    for step in range(7):
        for optimizer in (usual, whole, parts):
            backward(optimizer, step)
        if step != 4:  # which is a step of the ordinary kind
            whole.observe()
            for weight in (0.25, 1.25, -0.5):
                parts.observe(weight)
        for optimizer in (usual, whole, parts):
            optimizer.step()
        for other in (whole, parts):
            assert other.metrics() == pytest.approx(usual.metrics(), rel=tolerance, abs=1e-12)
    assert usual.metrics()["lr"] != usual.defaults["lr"]


@pytest.mark.parametrize("spec", SPECS)
def test_any_rule_may_observe(spec: str) -> None:
    cls = optdsl.load(spec, backend="c", learn=learning(spec))
    usual, observing = (cls(parameters(shapes=SHAPES)) for _ in range(2))
    for step in range(6):
        for optimizer in (usual, observing):
            backward(optimizer, step)
        observing.observe()
        usual.step()
        observing.step()
    assert observing.metrics() == pytest.approx(usual.metrics(), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", PLANS)
def test_observing_changes_nothing_before_the_step(kind: str, backend: str) -> None:
    optimizer = made(kind, backend, "exact", "group")(in_groups(parameters(shapes=SHAPES)))
    train(optimizer, range(3))
    before = fingerprint(optimizer), optimizer.metrics()
    backward(optimizer, 3)
    optimizer.observe()
    assert (fingerprint(optimizer), optimizer.metrics()) == before


def test_a_large_tensor_is_observed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three elements each, the last of fewer; strides do not matter."""
    metrics = []
    for piece in (3, 1000):
        monkeypatch.setattr("optdsl.runtime.engines.completion._PIECE", piece)
        params = parameters(shapes=[(4, 5), (7,), ()])
        params[0].data = params[0].data.t().contiguous().t()
        optimizer = made("replay", "c", "exact")(params)
        for step in range(5):
            backward(optimizer, step)
            optimizer.observe()
            optimizer.step()
        metrics.append(optimizer.metrics())
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-12)


# --- what is observed, and when -------------------------------------------------------------------


class Observed(Probe):
    """A probe whose observations are dictated, too."""

    def observe(self, gradient: float, weight: float = 1.0) -> None:
        self.parameter.grad = torch.full((1,), gradient, dtype=torch.float64)
        self.optimizer.observe(weight)


def test_observations_add_up_and_are_used_once() -> None:
    probe = Observed(Learn("sgd", lr=0.25), w=1.0)
    probe.step(0.0)
    probe.observe(2.0)
    probe.observe(-8.0, weight=0.5)
    assert probe.step(100.0) == 1.5
    assert probe.hypergradient == -2.0
    assert probe.step(4.0) == 0.5  # its own again


def test_without_a_pending_step_nothing_is_observed() -> None:
    """And the first step does not learn, nor does one whose observation met no tangent."""
    probe = Observed(Learn("sgd", lr=0.25), w=1.0)
    probe.observe(5.0)
    assert probe.step(7.0) == 1.0
    assert probe.hypergradient == 0.0
    assert probe.step(2.0) == 0.5


def test_an_observation_without_gradients_leaves_nothing_to_learn_from() -> None:
    """Once something was asked to be observed, the step's own gradient is not learned from."""
    probe = Observed(Learn("sgd", lr=0.25, momentum=0.5), w=1.0)
    probe.step(0.0)
    probe.optimizer.zero_grad()
    probe.optimizer.observe()
    assert probe.step(100.0) == 1.0
    assert probe.hypergradient == 0.0
    assert probe.entries()["learn/w/step"] == 0


def test_what_was_observed_can_be_discarded() -> None:
    """Such as before a step that a gradient scaler leaves out."""
    probe = Observed(Learn("sgd", lr=0.25), w=1.0)
    probe.step(0.0)
    probe.observe(math.inf)
    probe.optimizer.discard_observed()
    probe.observe(2.0)
    assert probe.step(9.0) == 0.5
    probe.observe(9.0)
    probe.optimizer.discard_observed()
    assert probe.step(2.0) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_recorded_and_moves_nothing(bad: float) -> None:
    probe = Observed(Learn("sgd", lr=0.25, momentum=0.5), w=1.0)
    probe.step(0.0)
    probe.observe(bad)
    probe.observe(1.0)
    assert probe.step(2.0) == 1.0
    assert not math.isfinite(probe.hypergradient)
    assert probe.step(2.0) == 0.5


def test_learning_begins_after_as_many_steps_as_ever() -> None:
    probe = Observed(Learn("sgd", lr=0.25, after=2), w=1.0)
    values = []
    for _ in range(4):
        probe.observe(1.0)
        values.append(probe.step(0.0))
    assert values == [1.0, 1.0, 0.75, 0.5]


def test_a_group_that_goes_up_observes_what_it_minimizes() -> None:
    probe = Observed(Learn("sgd", lr=0.25), w=1.0)
    probe.optimizer.param_groups[0]["maximize"] = True
    probe.step(0.0)
    probe.observe(2.0)
    assert probe.step(0.0) == 1.5
    assert probe.hypergradient == -2.0


def test_a_tensor_that_takes_no_step_adds_nothing() -> None:
    """As where steps measure for themselves; its tangent waits, and what was observed is gone."""
    learn = {"lr": Learn("sgd", lr=0.5, bounds=(0, 100))}
    params = parameters(shapes=[(1,), (1,)])
    optimizer = optdsl.load("sgd", learn=learn)(params, lr=1.0)
    one, two = (torch.full((1,), x, dtype=torch.float64) for x in (1.0, 2.0))
    give(params, [one, one])
    optimizer.step()  # the tangent of each is -1
    give(params, [one, two])
    optimizer.observe()
    give(params, [two, None])
    optimizer.step()
    assert optimizer.metrics()["hypergradient/lr"] == -1.0
    give(params, [None, one])
    optimizer.step()
    assert optimizer.metrics()["hypergradient/lr"] == -1.0


def test_nothing_is_observed_where_nothing_is_learned() -> None:
    first, second = (optdsl.load("adam", learn=False)(parameters()) for _ in range(2))
    for optimizer in (first, second):
        train(optimizer, [0])
        backward(optimizer, 1)
    first.observe()
    first.step()
    second.step()
    assert fingerprint(first) == fingerprint(second)


def test_a_scaled_loss_is_observed_at_its_own_scale() -> None:
    """As under a gradient scaler, which may unscale only once a step."""
    plain, scaled = (made("live", "eager", "exact")(parameters()) for _ in range(2))
    for step in range(4):
        backward(plain, step)
        plain.observe()
        backward(scaled, step, scale=1024.0)
        scaled.observe(1 / 1024.0)
        for optimizer in (plain, scaled):
            backward(optimizer, step + 50)
            optimizer.step()
    assert fingerprint(plain) == fingerprint(scaled)


@pytest.mark.parametrize("weight", [math.inf, math.nan])
def test_a_weight_is_finite(weight: float) -> None:
    optimizer = made("live", "eager", "exact")(parameters())
    with pytest.raises(ValueError, match="weight must be finite"):
        optimizer.observe(weight)
    with pytest.raises(TypeError, match="weight must be a number, not 'much'"):
        optimizer.observe("much")


def test_sparse_gradients_are_refused_and_nothing_was_observed() -> None:
    optimizer = made("live", "eager", "exact")(parameters(shapes=[(2,), (4, 2)]))
    train(optimizer, [0])
    backward(optimizer, 1)
    usual = copy.deepcopy(optimizer)
    held(optimizer)[1].grad = torch.ones(4, 2, dtype=torch.float64).to_sparse()
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.observe()
    for one in (optimizer, usual):
        backward(one, 1)
        one.step()
    assert fingerprint(optimizer) == fingerprint(usual)


# --- the order of things --------------------------------------------------------------------------


@pytest.mark.parametrize("order", ORDERS)
def test_a_validation_loss_is_learned_from(order: str) -> None:
    """Hypergradient descent of a learning rate by hand: the rate falls as validation wants it."""

    def run(validation: Callable[[Tensor], Tensor]) -> list[float]:
        x = torch.tensor([2.0, -1.0], dtype=torch.float64, requires_grad=True)
        learn = {"lr": Learn("sgd", lr=0.01, bounds=(0, 1))}
        optimizer = optdsl.load("sgd", learn=learn, order=order)([x], lr=0.1)
        rates = []
        for _ in range(5):
            optimizer.zero_grad()
            validation(x).backward()
            optimizer.observe()
            optimizer.zero_grad()
            (x**2).sum().backward()
            optimizer.step()
            rates.append(optimizer.metrics()["lr"])
        return rates

    def by_hand(slope: Callable[[Tensor], Tensor]) -> list[float]:
        x, rate = torch.tensor([2.0, -1.0], dtype=torch.float64), 0.1
        tangent, rates = torch.zeros_like(x), []
        for _ in range(5):
            learned = min(max(rate - 0.01 * float(slope(x) @ tangent), 0.0), 1.0)
            used = learned if order == "exact" else rate
            g = 2 * x
            x, tangent, rate = x - used * g, -g, learned
            rates.append(rate)
        return rates

    for loss_of, slope in (
        (lambda x: ((x - 3) ** 2).sum(), lambda x: 2 * (x - 3)),
        (lambda x: x.sum(), torch.ones_like),
    ):
        assert run(loss_of) == pytest.approx(by_hand(slope), rel=1e-12)


@pytest.mark.slow
def test_dynamo_does_not_look_into_an_observation() -> None:
    from torch._dynamo.utils import counters

    optimizers = [made("replay", "c", "exact")(parameters()) for _ in range(2)]

    def train_once(optimizer: Any) -> None:
        optimizer.zero_grad()
        sum((p**2).sum() for p in held(optimizer)).backward()
        optimizer.observe(2.0)
        optimizer.step()
        optimizer.completed_state(held(optimizer)[0])
        optimizer.metrics()

    torch._dynamo.reset()
    counters.clear()
    compiled = torch.compile(train_once, backend="eager")
    for _ in range(3):
        train_once(optimizers[0])
        compiled(optimizers[1])
    assert fingerprint(optimizers[0]) == fingerprint(optimizers[1])
    assert not [reason for reason in counters["graph_break"] if "interpret" in reason]
    # One more than a loop without them has, for each of `completed_state` and `metrics`.
    assert sum(counters["graph_break"].values()) <= 6 + 2
