"""Inputs of a step: Sophia-G against its algorithm by hand, and mistakes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl

SHAPES = [(4, 6), (5,), ()]
BACKENDS = ["eager", "auto"]


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.nn.Parameter(torch.randn(s, dtype=dtype, generator=generator)) for s in SHAPES]


def randn(step: int, like: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(like.shape, dtype=like.dtype, generator=generator)


def train(optimizer: Any, held: list[Tensor], steps: range) -> None:
    for step in steps:
        for p in held:
            p.grad = randn(step, p)
        estimates = {p: randn(1000 + step, p).square() for p in held}
        optimizer.step(inputs={"hessian": estimates} if step % 3 == 0 else None)


@pytest.mark.parametrize("backend", BACKENDS)
def test_sophia_is_its_algorithm(backend: str) -> None:
    """Liu et al., 2023, algorithm 3; the diagonal is estimated in every third step."""
    held, expected = parameters(), [p.detach().clone() for p in parameters()]
    optimizer = optdsl.load("sophia_g", backend=backend)(held, lr=0.01)
    train(optimizer, held, range(50))
    m, h = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for step in range(50):
        for number, p in enumerate(expected):
            m[number] = 0.965 * m[number] + 0.035 * randn(step, p)
            if step % 3 == 0:
                h[number] = 0.99 * h[number] + 0.01 * randn(1000 + step, p).square()
            direction = m[number] / torch.clamp(0.05 * h[number], min=1e-15)
            p -= 0.01 * (direction.clamp(-1, 1) + 0.1 * p)
    for x, y in zip(held, expected, strict=True):
        torch.testing.assert_close(x.detach(), y, rtol=0, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_goes_on_to_the_bit(backend: str) -> None:
    cls = optdsl.load("sophia_g with clip", backend=backend)
    whole, held = parameters(torch.float32), parameters(torch.float32)
    train(cls(whole), whole, range(12))
    first = cls(held)
    train(first, held, range(5))
    second = cls(held)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    train(second, held, range(5, 12))
    assert all(map(torch.equal, held, whole))


def test_mistakes_are_told_and_change_nothing() -> None:
    held = parameters()
    optimizer = optdsl.load("sophia_g")(held)
    for p in held:
        p.grad = torch.ones_like(p)
    right = {p: torch.ones_like(p) for p in held}
    before = [p.detach().clone() for p in held]
    wrong: list[tuple[Any, str]] = [
        ({"hesian": right}, "has no input 'hesian'; its inputs are hessian"),
        ({"hessian": held[0]}, "it has a tensor for each parameter"),
        ({"hessian": {held[0]: right[held[0]]}}, r"no tensor for a parameter of shape \(5,\)"),
        ({"hessian": right | {held[1]: torch.ones(6)}}, r"shape \(6,\) for a parameter of shape"),
        ({"hessian": {p: x.int() for p, x in right.items()}}, "torch.int32"),
    ]
    for inputs, message in wrong:
        with pytest.raises(ValueError, match=message):
            optimizer.step(inputs=inputs)
    assert all(map(torch.equal, held, before))
    assert not any(optimizer.state.values())
    with pytest.raises(ValueError, match="it has none"):
        optdsl.load("adam")(held).step(inputs={"hessian": right})
    required = optdsl.compile("optimizer R\n\ninput h\n\ntheta' = theta - g / h\n")(held)
    with pytest.raises(ValueError, match="needs its input at every step"):
        required.step()
    required.step(inputs={"h": right})


def test_what_is_learned_follows_the_hyper_gradient() -> None:
    """The derivative of the loss after the next step, by differences."""
    start = parameters()

    def after(gamma: float) -> tuple[list[Tensor], Any]:
        held = [torch.nn.Parameter(p.detach().clone()) for p in start]
        learn = {"gamma": optdsl.Learn("sgd", lr=0.0, bounds=(0.5, 200.0))}
        optimizer = optdsl.load("sophia_g", learn=learn)(held, lr=0.1, gamma=gamma, weight_decay=0)
        train(optimizer, held, range(2))
        return held, optimizer

    held, optimizer = after(100.0)
    for p in held:
        p.grad = torch.ones_like(p)
    optimizer.step()
    losses = [float(sum(p.detach().sum() for p in after(x)[0])) for x in (100.001, 99.999)]
    # The states before a step are constants to its hyper-gradient; here gamma acts on theta alone.
    first = [float(sum(p.detach().sum() for p in one(start, x))) for x in (100.001, 99.999)]
    found = optimizer.metrics()["hypergradient/gamma"]
    expected = (losses[0] - losses[1] - first[0] + first[1]) / 0.002
    assert found == pytest.approx(expected, rel=1e-5)


def one(start: list[Tensor], gamma: float) -> list[Tensor]:
    """The parameters after the first step."""
    held = [torch.nn.Parameter(p.detach().clone()) for p in start]
    train(optdsl.load("sophia_g")(held, lr=0.1, gamma=gamma, weight_decay=0), held, range(1))
    return held


POLYAK = """
optimizer Polyak
  "Introduction to Optimization (Polyak, 1987), section 5.3"

hyper least = 0    in (-inf, inf)
hyper lr    = 0.01 in [0, inf)

input loss : shared

step_size = where(given(loss), (loss - least) / sum(g^2 over all), lr)
theta'    = theta - step_size * g
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_input_may_be_one_number(backend: str) -> None:
    """Polyak's step sizes, of a loss that is given in two steps of three."""
    held, theirs = parameters(), parameters()
    optimizer: Any = optdsl.compile(POLYAK, backend=backend)(held)
    for step in range(6):
        for p, q in zip(held, theirs, strict=True):
            p.grad = randn(step, p)
            q.grad = p.grad.clone()
        loss = 1.5 + step
        squares = sum(float(q.grad.square().sum()) for q in theirs if q.grad is not None)
        size = 0.01 if step % 3 == 1 else loss / squares
        number = torch.tensor(loss) if step % 2 else loss
        optimizer.step(inputs=None if step % 3 == 1 else {"loss": number})
        for p, q in zip(held, theirs, strict=True):
            assert q.grad is not None
            q.data -= size * q.grad
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)
    assert optimizer.param_groups[0]["shared/loss"] == 6.5
    for wrong in (torch.ones(2), "1", True, {held[0]: 1.0}):
        with pytest.raises(ValueError, match="it is one number for all parameters"):
            optimizer.step(inputs={"loss": wrong})
    required = POLYAK.replace("where(given(loss), (loss - least) / sum(g^2 over all), lr)", "loss")
    with pytest.raises(ValueError, match=r"needs its input at every step.*'loss'"):
        optdsl.compile(required, backend=backend)(held).step()
