"""Gradients that are not finite, sparse or complex: never silently wrong."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.oracles.rules import SEPARATE

from .helpers import (
    ORDERS,
    SPECS,
    Probe,
    bits,
    fingerprint,
    held,
    learner,
    loss,
    parameters,
    plain,
    resumed,
    train,
)

pytestmark = pytest.mark.broad(10)

BAD = (math.nan, math.inf, -math.inf)
# The same rule by the same equations in torch.
IN_TORCH: dict[str, Any] = {
    "adam": lambda params: torch.optim.Adam(params, lr=1e-3),
    "adamw": lambda params: torch.optim.AdamW(params, lr=1e-3, weight_decay=1e-2),
    "amsgrad": lambda params: torch.optim.Adam(params, lr=1e-3, amsgrad=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=1e-3),
}


def train_with(
    optimizer: torch.optim.Optimizer, bad: float, at: int, steps: range, where: int = 0
) -> None:
    """Train, with one element of one gradient replaced in step `at`."""
    for step in steps:
        optimizer.zero_grad()
        loss(held(optimizer), step).backward()
        if step == at:
            gradient = held(optimizer)[where].grad
            assert gradient is not None
            gradient.view(-1)[0] = bad
        optimizer.step()


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("spec", IN_TORCH)
def test_parameters_become_what_torch_makes_of_them(spec: str, at: int, bad: float) -> None:
    mine, reference = parameters(), parameters()
    train_with(plain(spec)(mine), bad, at, range(5))
    train_with(IN_TORCH[spec](reference), bad, at, range(5))
    torch.testing.assert_close(mine, reference, rtol=1e-10, atol=1e-12, equal_nan=True)
    assert not mine[0].isfinite().all()


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [
        ("eager", torch.float64),
        ("eager", torch.bfloat16),
        ("auto", torch.float32),
        ("auto", torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.parametrize("at", [0, 2])
@pytest.mark.parametrize("spec", SEPARATE)
def test_nan_is_not_swallowed(spec: str, at: int, backend: str, dtype: torch.dtype) -> None:
    """The element is NaN from then on; the others are what they would have been."""
    sick, sane = parameters(dtype), parameters(dtype)
    train_with(plain(spec, backend)(sick), math.nan, at, range(5))
    train(plain(spec, backend)(sane), range(5))
    assert sick[0].view(-1)[0].isnan()
    with torch.no_grad():
        sick[0].view(-1)[0] = sane[0].view(-1)[0]
    if backend == "eager":
        assert [bits(p) for p in sick] == [bits(p) for p in sane]
    else:
        # Kernels for finite numbers collect factors, and so round otherwise.
        torch.testing.assert_close(sick, sane, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("spec", [s for s in SPECS if s != "lion"])
def test_an_infinite_gradient_shows(spec: str) -> None:
    params = parameters()
    train_with(plain(spec)(params), math.inf, 2, range(3))
    assert not params[0].view(-1)[0].isfinite()


def test_lion_takes_the_sign_of_an_infinite_gradient() -> None:
    """By its definition."""
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.tensor([math.inf, -math.inf])
    optdsl.load("lion")([parameter], lr=0.25).step()
    assert parameter.tolist() == [0.75, 1.25]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("spec", SPECS)
def test_coefficients_do_not_move_with_a_bad_hypergradient(
    spec: str, bad: float, order: str
) -> None:
    optimizer = learner(spec, order)(parameters())
    train(optimizer, range(6))
    kept = learned_entries(optimizer)
    assert any(kept.values())
    train_with(optimizer, bad, 6, range(6, 7), where=1)
    assert learned_entries(optimizer) == kept
    measured = [v for k, v in optimizer.metrics().items() if k.startswith("hypergradient/")]
    assert not any(map(math.isfinite, measured))
    train(optimizer, range(7, 10))
    assert all(map(math.isfinite, learned_entries(optimizer).values()))


def learned_entries(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The coefficients of the first group and all that their rules remember."""
    group = optimizer.param_groups[0]
    names = [k.removeprefix("hypergradient/") for k in group if k.startswith("hypergradient/")]
    return {k: v for k, v in group.items() if k in names or k.startswith("learn/")}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", SPECS)
def test_every_rule_of_a_coefficient_survives(rule: str, order: str) -> None:
    """What it remembers is as if the bad steps had not been."""
    sick, sane = (Probe(Learn(rule, lr=0.01, bounds=(-10, 10)), order) for _ in range(2))
    expected = sane.feed([1.0, -2.0, 0.5, 3.0])
    assert sick.feed([1.0, -2.0]) == expected[:2]
    for bad in BAD:
        assert sick.step(bad) == expected[1]
        assert sick.hypergradient == bad or math.isnan(sick.hypergradient)
        assert sick.entries() != sane.entries()
    assert [sick.step(0.5), sick.step(3.0)] == expected[2:]
    assert sick.entries() == sane.entries()


@pytest.mark.parametrize("rule", SPECS)
def test_what_a_rule_remembers_stays_finite(rule: str) -> None:
    """The square of such a number is infinite, and a moment that is infinite never recovers."""
    probe = Probe(Learn(rule, lr=0.01, bounds=(-10, 10)))
    probe.feed([1.0, 1e200])
    assert all(map(math.isfinite, [probe.w, *probe.entries().values()])), probe.entries()


def test_a_dot_product_that_overflows_moves_nothing() -> None:
    text = "optimizer Own\nhyper w = 0.5 in [0, 1]\ntheta' = theta + w * g\n"
    cls = optdsl.compile(text, learn={"w": Learn("sgd", lr=0.1, clip=1)})
    parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = cls([parameter])
    for _ in range(2):
        parameter.grad = torch.full((1,), 1e200, dtype=torch.float64)
        optimizer.step()
    assert optimizer.metrics() == {"w": 0.5, "hypergradient/w": math.inf}


@pytest.mark.parametrize("order", ORDERS)
def test_learning_goes_on_once_everything_is_finite_again(order: str) -> None:
    """The tangent that a bad step leaves spoils one more hyper-gradient, and no third one."""
    cls = optdsl.load("sgd", order=order, learn={"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))})
    params = parameters()
    optimizer = cls(params, lr=0.01)
    train(optimizer, range(3))
    good = [p.detach().clone() for p in params]
    rates = [optimizer.param_groups[0]["lr"]]

    def repair() -> None:
        with torch.no_grad():
            for p, value in zip(params, good, strict=True):
                p.copy_(value)
        rates.append(optimizer.param_groups[0]["lr"])

    train_with(optimizer, math.nan, 3, range(3, 4))
    repair()
    train(optimizer, range(4, 7), repair)
    assert rates[:3] == [rates[0]] * 3
    assert len(set(rates[2:])) == 3
    assert math.isfinite(optimizer.metrics()["hypergradient/lr"])


@pytest.mark.parametrize("spec", SPECS)
def test_loading_the_last_good_state_undoes_a_bad_step(spec: str) -> None:
    optimizer = learner(spec)(parameters())
    train(optimizer, range(4))
    good = resumed(learner(spec), optimizer)
    train_with(optimizer, math.nan, 4, range(4, 6))
    train(good, range(4, 8))
    fresh = learner(spec)(parameters())
    train(fresh, range(8))
    assert fingerprint(good) == fingerprint(fresh)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_sparse_gradient_is_refused_and_nothing_changes(spec: str, order: str) -> None:
    dense, table = nn.Linear(2, 2), nn.Embedding(5, 2, sparse=True)
    optimizer = learner(spec, order)([*dense.parameters(), *table.parameters()])

    def compute(sparse: bool) -> None:
        optimizer.zero_grad()
        weight = table(torch.tensor([1, 3])) if sparse else table.weight
        dense(weight).pow(2).sum().backward()

    for _ in range(3):
        compute(sparse=False)
        optimizer.step()
    compute(sparse=True)
    before = fingerprint(optimizer)
    with pytest.raises(RuntimeError, match="does not take sparse gradients"):
        optimizer.step()
    assert fingerprint(optimizer) == before
    compute(sparse=False)
    optimizer.step()


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        (torch.ones(2, dtype=torch.complex64), r"complex.*view_as_real"),
        (torch.ones(2, dtype=torch.complex128), r"complex.*view_as_real"),
        (torch.ones(2, dtype=torch.int64), "not torch.int64"),
        (torch.ones(2, dtype=torch.bool), "not torch.bool"),
        (torch.ones(2, dtype=torch.float8_e4m3fn), "not torch.float8_e4m3fn"),
    ],
)
@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("spec", ["adam", "mada"])
def test_parameters_of_other_dtypes_may_be_frozen_and_take_no_step(
    spec: str, backend: str, tensor: Tensor, words: str
) -> None:
    cls = optdsl.load(spec, backend=backend)
    params, expected = parameters(), parameters()
    frozen = nn.Parameter(tensor.clone(), requires_grad=False)
    optimizer, reference = cls([params[0], frozen, *params[1:]]), cls(expected)
    for step in range(3):
        for each, own in ((optimizer, params), (reference, expected)):
            each.zero_grad()
            loss(own, step).backward()
            each.step()
    assert [bits(p) for p in params] == [bits(p) for p in expected]
    assert frozen not in optimizer.state
    loaded = cls([params[0], frozen, *params[1:]])
    loaded.load_state_dict(optimizer.state_dict())
    before = [p.detach().clone() for p in params], optimizer.metrics()
    frozen.grad = torch.ones_like(frozen)
    with pytest.raises(ValueError, match=f"{cls.__name__}.*{words}"):
        loaded.step()
    assert torch.equal(frozen.view(torch.uint8), tensor.view(torch.uint8))
    assert loaded.metrics() == before[1]
    assert all(map(torch.equal, params, before[0]))


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_gradient_that_wraps_tensors_teaches_as_a_plain_one(backend: str, order: str) -> None:
    from torch.testing._internal.two_tensor import TwoTensor

    made = optdsl.load("mada", backend=backend, order=order)
    wrapped, whole = (nn.Parameter(torch.ones(3)) for _ in range(2))
    optimizers = [made([wrapped], lr=0.01), made([whole], lr=0.01)]
    for number in range(4):
        whole.grad = torch.arange(3.0) - number / 4
        wrapped.grad = TwoTensor(whole.grad.clone(), whole.grad.clone())
        for optimizer in optimizers:
            if number == 2:
                optimizer.observe()
            optimizer.step()
    assert fingerprint(optimizers[0]) == fingerprint(optimizers[1])
    assert all(type(x) is Tensor for x in optimizers[0].state[wrapped].values())
