"""The modifiers of whole steps, `graft`, `direction` and `displacement`, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn

BACKENDS = ["eager", "auto"]
STEPS, SHAPES = 20, ((7, 5), (11,), ())

MIXED = """\
blend Mixed
use AdamW as Adam, (Lion with Graft as length) as Lion
share lr, weight_decay
Adam.beta1 = beta1
Lion.length_beta1 = beta1
Adam.beta2 = beta2
Lion.length_beta2 = beta2
hyper beta1 = 0.9 in [0, 1)
hyper beta2 = 0.999 in [0, 1)
hyper lr = 1e-3 in [0, inf)
hyper weight_decay = 0 in [0, inf)
hyper gamma = 0.5 in [0, 1]
theta' = gamma * Adam.theta' + (1 - gamma) * Lion.theta'
learn gamma by SGD(lr = 0.01) on cosine
learn after 0
"""


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


def gradients(held: list[nn.Parameter], step: int) -> None:
    for p, g in zip(held, drawn(1000 + step), strict=True):
        p.grad = g


def adam_lengths(held: list[nn.Parameter], lr: float) -> Callable[[], list[float]]:
    """The lengths of the steps that torch's Adam takes with the gradients of parameters."""
    zeros = [nn.Parameter(torch.zeros_like(p)) for p in held]
    adam = torch.optim.Adam(zeros, lr=lr)

    def lengths() -> list[float]:
        for p, z in zip(held, zeros, strict=True):
            z.data.zero_()
            z.grad = p.grad
        adam.step()
        return [float(torch.linalg.vector_norm(z.detach())) for z in zeros]

    return lengths


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_graft_has_the_direction_of_one_and_the_length_of_the_other(backend: str) -> None:
    ours = [nn.Parameter(x) for x in drawn(0)]
    optimizer = optdsl.load("sgd with graft", backend=backend)(
        ours, lr=0.01, momentum=0.9, weight_decay=0.1
    )
    theirs = [nn.Parameter(x) for x in drawn(0)]
    sgd = torch.optim.SGD(theirs, lr=0.01, momentum=0.9, weight_decay=0.1)
    lengths = adam_lengths(theirs, 0.01)
    for step in range(STEPS):
        gradients(ours, step)
        optimizer.step()
        gradients(theirs, step)
        before = [p.detach().clone() for p in theirs]
        sgd.step()
        for p, old, length in zip(theirs, before, lengths(), strict=True):
            moved = p.detach() - old
            p.data.copy_(old + length * moved / torch.linalg.vector_norm(moved))
    torch.testing.assert_close(
        [p.detach() for p in ours], [p.detach() for p in theirs], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_gate_between_directions_leaves_the_length_alone(backend: str) -> None:
    """Whatever the gate is, steps have Adam's length, and what it can learn is across the step."""
    text = optdsl.load("mada with graft", backend=backend, learn={"gamma": Learn("sgd", lr=0.1)})
    for gamma in (0.2, 0.7):
        held = [nn.Parameter(x) for x in drawn(0)]
        optimizer = text(held, lr=0.01, gamma=gamma)
        lengths = adam_lengths(held, 0.01)
        for step in range(4):
            gradients(held, step)
            before = [p.detach().clone() for p in held]
            expected = lengths()
            optimizer.step()
            moved = [p.detach() - old for p, old in zip(held, before, strict=True)]
            found = [float(torch.linalg.vector_norm(x)) for x in moved]
            assert found == pytest.approx(expected, rel=1e-12)
        for p, x in zip(held, moved, strict=True):
            p.grad = x / torch.linalg.vector_norm(x)
        optimizer.step()
        assert abs(optimizer.metrics()["hypergradient/gamma"]) < 1e-12


class AcrossTheStep:
    """Adam, by hand, with the tangent of beta1 across the step of each tensor."""

    def __init__(self, held: list[nn.Parameter], lr: float, beta1: float) -> None:
        self.held, self.lr, self.beta1, self.t = held, lr, beta1, 0
        self.m, self.v, self.tangents = ([torch.zeros_like(p) for p in held] for _ in range(3))

    def step(self) -> float:
        """Takes a step, and returns the hyper-gradient of the one before."""
        found = sum(
            float((p.grad * z).sum()) for p, z in zip(self.held, self.tangents, strict=True)
        )
        self.t += 1
        b1, b2, t = self.beta1, 0.999, self.t
        for i, p in enumerate(self.held):
            g, old = p.grad, self.m[i]
            self.m[i] = m = b1 * old + (1 - b1) * g
            self.v[i] = b2 * self.v[i] + (1 - b2) * g * g
            size = (self.v[i] / (1 - b2**t)).sqrt() + 1e-8
            by_beta = (old - g) / (1 - b1**t) + m * t * b1 ** (t - 1) / (1 - b1**t) ** 2
            step, tangent = -self.lr * m / (1 - b1**t) / size, -self.lr * by_beta / size
            self.tangents[i] = tangent - (tangent * step).sum() / (step * step).sum() * step
            p.data.add_(step)
        return found


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_is_learned_of_a_direction_is_across_the_step(backend: str) -> None:
    """Tensors of one element have no other direction, and so no part in the hyper-gradient."""
    cls = optdsl.load(
        "adam with direction",
        backend=backend,
        learn={"beta1": Learn("sgd", lr=0.0, bounds=(0, 0.99))},
    )
    ours, theirs = ([nn.Parameter(x) for x in drawn(0)] for _ in range(2))
    optimizer, reference = cls(ours, lr=0.01, beta1=0.8), AcrossTheStep(theirs, 0.01, 0.8)
    for step in range(STEPS):
        gradients(ours, step)
        optimizer.step()
        gradients(theirs, step)
        h = reference.step()
        if step > 1:  # Adam's first step does not depend on beta1
            assert optimizer.metrics()["hypergradient/beta1"] == pytest.approx(h, rel=1e-9)
    torch.testing.assert_close(
        [p.detach() for p in ours], [p.detach() for p in theirs], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [0.0, float("inf")])
def test_a_direction_leaves_steps_as_they_are(backend: str, value: float) -> None:
    """To the bit, also where there is no step, or one that is not finite."""
    both = []
    for rule in ("sgd", "sgd with direction"):
        held = [nn.Parameter(x) for x in drawn(0)]
        optimizer = optdsl.load(rule, backend=backend)(held, lr=0.01, momentum=0.9)
        for step in range(5):
            gradients(held, step)
            held[1].grad[3 if value else ...] = value
            optimizer.step()
        both.append([p.detach() for p in held])
    for mine, base in zip(*both, strict=True):
        assert torch.equal(mine.isnan(), base.isnan())
        assert torch.equal(mine.nan_to_num(), base.nan_to_num())


def test_members_of_one_length_share_the_states_that_it_needs() -> None:
    """Lion as long as Adam: its length is made of Adam's moments, which are there."""
    cls = optdsl.compile(MIXED)
    held = [nn.Parameter(x) for x in drawn(0)]
    optimizer = cls(held, lr=0.01)
    for step in range(5):
        gradients(held, step)
        optimizer.step()
    own = {key for key in optimizer.state[held[0]] if "/" not in key}
    assert own == {"step", "m", "v", "m_lion"}
    assert optimizer.metrics()["gamma"] != 0.5


class Displaced:
    """An optimizer of torch whose displacement has a scale."""

    def __init__(self, held: list[nn.Parameter], base: Any, scale: float) -> None:
        self.held, self.base, self.scale = held, base, scale
        self.start = [p.detach().clone() for p in held]
        self.moved = [torch.zeros_like(p) for p in held]

    def step(self) -> None:
        before = [p.detach().clone() for p in self.held]
        self.base.step()
        for p, old, start, moved in zip(self.held, before, self.start, self.moved, strict=True):
            moved += p.detach() - old
            p.data.copy_(start + self.scale * moved)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_displacement_is_scaled_as_a_whole(backend: str) -> None:
    """Cutkosky et al. (2023): theta = start + s * moved; learned, by the product with moved."""
    how = Learn("kt", wealth=0.5, bounds=(0, 10), signal="sign")
    learn = {"displacement_scale": how}
    cls = optdsl.load("adam with displacement", backend=backend, learn=learn)
    ours, theirs = ([nn.Parameter(x) for x in drawn(0)] for _ in range(2))
    optimizer = cls(ours, lr=0.01, displacement_scale=0.3)
    reference = Displaced(theirs, torch.optim.Adam(theirs, lr=0.01), 0.3)
    total = won = bet = 0.0
    for step in range(STEPS):
        gradients(ours, step)
        gradients(theirs, step)
        pairs = zip(theirs, reference.moved, strict=True)
        h = sum(float((p.grad * x).sum()) for p, x in pairs)
        reference.step()
        optimizer.step()
        if step:
            found = optimizer.metrics()
            assert found["hypergradient/displacement_scale"] == pytest.approx(h, rel=1e-12)
            # The bettor of the scale: a coin is the sign, and it bets the share of coins so far.
            coin = -1.0 if h > 0 else 1.0
            total, won = total + coin, won + coin * bet
            reference.scale = min(max(0.3 + total / (step + 1) * (0.5 + won), 0.0), 10.0)
            bet = reference.scale - 0.3
            assert found["displacement_scale"] == pytest.approx(reference.scale, rel=1e-12)
    torch.testing.assert_close(
        [p.detach() for p in ours], [p.detach() for p in theirs], rtol=0, atol=1e-12
    )
