"""Rules that no package has as their papers say them, written by hand in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_optimizer.optimizer.utils.matrix import zero_power_via_newton_schulz_5
from torch import Tensor, nn

import optdsl
from tests.oracles import problems

pytestmark = pytest.mark.broad(2)

STEPS = 100
BACKENDS = ["eager", "auto"]


def started(*shapes: tuple[int, ...]) -> list[nn.Parameter]:
    generator = problems.seeded(0)
    return [nn.Parameter(problems.randn(generator, *shape)) for shape in shapes]


def gradient(step: int, p: Tensor, scale: float = 1.0) -> Tensor:
    """That of a parabola, with noise."""
    noise = problems.randn(problems.seeded(100 * step + p.numel()), *p.shape)
    return scale * (0.2 * (p.detach() - 2) + noise)


# --- hypergradient descent ------------------------------------------------------------------------


def directions(rule: str, p: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
    """The update of SGD and of Adam, without the learning rate (Baydin et al., 2018)."""
    assert p.grad is not None
    if rule == "sgd_hd":
        return -p.grad
    m = state["m"] = 0.9 * state.get("m", torch.zeros_like(p)) + 0.1 * p.grad
    v = state["v"] = 0.999 * state.get("v", torch.zeros_like(p)) + 0.001 * p.grad**2
    return -(m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("rule", "rate"), [("sgd_hd", 1e-3), ("adam_hd", 1e-7)])
def test_hypergradient_descent_is_its_algorithm(rule: str, rate: float, backend: str) -> None:
    """SGD-HD and Adam-HD: the learning rate moves first, along the last direction."""
    ours, theirs = started((3, 4), (5,)), started((3, 4), (5,))
    optimizer = optdsl.load(rule, backend=backend, order="exact")(ours, lr=1e-3)
    alpha, before = 1e-3, [torch.zeros_like(p) for p in theirs]
    states: list[dict[str, Tensor]] = [{} for _ in theirs]
    for t in range(1, STEPS + 1):
        for p, q in zip(ours, theirs, strict=True):
            p.grad, q.grad = gradient(t, p), gradient(t, q)
        optimizer.step()
        alpha -= rate * sum(float((q.grad * d).sum()) for q, d in zip(theirs, before, strict=True))
        with torch.no_grad():
            for n, q in enumerate(theirs):
                before[n] = directions(rule, q, states[n], t)
                q += alpha * before[n]
    assert optimizer.param_groups[0]["lr"] == pytest.approx(alpha, rel=1e-10)
    assert abs(alpha - 1e-3) > 1e-5
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


# --- APOLLO ---------------------------------------------------------------------------------------

# What a rule of this name draws under the name P for a tensor, whatever its equations are.
SHOWN = """\
optimizer APOLLO
hyper rank = 2 in {1, ..., inf}
hyper gap  = 7 in {1, ..., inf}
for wide matrices
axis k = min(rank, rows)
random P : k * rows = normal at floor((t - 1) / gap)
state seen : k * rows = 0
seen'  = P
theta' = theta + 0 * (g + sum(seen))
"""


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("kind", "rank", "scale"), [("channel", 2, 1.0), ("tensor", 1, 128.0)])
def test_apollo_is_its_algorithm(kind: str, rank: int, scale: float, backend: str) -> None:
    """Algorithm 1 of the paper with the details of the authors' code, and APOLLO-Mini."""
    lr, beta1, beta2, eps, decay = 0.01, 0.9, 0.99, 1e-6, 0.1
    shapes = [(7, 4), (4, 7)]
    held, copies = started(*shapes), started(*shapes)
    theirs = [p.detach().clone() for p in held]
    shown = optdsl.compile(SHOWN, backend="eager")(copies, rank=rank)
    optimizer: Any = optdsl.load("apollo", backend=backend)(
        held, lr=lr, betas=(beta1, beta2), weight_decay=decay, rank=rank, gap=7, scale=scale,
        scale_type=kind,
    )  # fmt: skip
    moments = [(torch.zeros(()), torch.zeros(())) for _ in held]
    norms = [math.inf, math.inf]
    limited = 0
    for t in range(1, STEPS + 1):
        for p, q in zip(held, copies, strict=True):
            p.grad = q.grad = gradient(t, p, 0.3 if t % 9 else 3.0)
        shown.step()
        optimizer.step()
        for n, (p, q) in enumerate(zip(held, copies, strict=True)):
            g, projection = q.grad, shown.state[q]["seen"] / math.sqrt(rank)
            assert g is not None
            tall = g.shape[0] > g.shape[1]
            low = g @ projection.T if tall else projection @ g
            m = beta1 * moments[n][0] + (1 - beta1) * low
            v = beta2 * moments[n][1] + (1 - beta2) * low.square()
            moments[n] = m, v
            normed = m / (v.sqrt() + eps)
            axis = (1 if tall else 0) if kind == "channel" else (0, 1)
            ratio = normed.norm(dim=axis, keepdim=True) / (low.norm(dim=axis, keepdim=True) + 1e-8)
            step = g * ratio
            limiter = max(float(step.norm()) / (norms[n] + 1e-8), 1.01) / 1.01
            limited += limiter > 1
            step = step / limiter
            norms[n] = float(step.norm())
            size = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
            theirs[n] = (theirs[n] - size * math.sqrt(scale) * step) * (1 - lr * decay)
            torch.testing.assert_close(p.detach(), theirs[n], rtol=0, atol=1e-10)
    assert STEPS // 10 < limited < 2 * STEPS


# --- matrices on a sphere, and the polar factor ---------------------------------------------------


def orthogonal(x: Tensor, weights: Any, steps: int, margin: float = 1.0) -> Tensor:
    """A package's Newton-Schulz iteration, in float64."""
    return zero_power_via_newton_schulz_5(
        x, num_steps=steps, weights=weights, safety_factor=margin, dtype=torch.float64
    )


class Momentum:
    """Muon's momentum with Nesterov's step."""

    def __init__(self, *like: Tensor) -> None:
        self._m = [torch.zeros_like(p) for p in like]

    def __call__(self, n: int, g: Tensor) -> Tensor:
        self._m[n] = 0.95 * self._m[n] + 0.05 * g
        return 0.05 * g + 0.95 * self._m[n]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["adam_h", "muon_h"])
def test_the_hyperball_is_its_equation(rule: str, backend: str) -> None:
    """W' = R Norm(W - lr R Norm(u)) for matrices, with the norm R at the start; Adam for others."""
    ours, theirs = started((4, 6), (6, 4), (5,)), started((4, 6), (6, 4), (5,))
    with torch.no_grad():
        ours[1].mul_(50)
        theirs[1].mul_(50)
    radii = [float(p.detach().norm()) for p in theirs]
    optimizer = optdsl.load(rule, backend=backend)(ours, lr=0.02)
    # Adam's steps of size 1 from zero are its updates.
    zeros = [nn.Parameter(torch.zeros_like(p)) for p in theirs]
    adam, momentum = torch.optim.Adam(zeros, lr=1.0), Momentum(*theirs)
    for t in range(STEPS):
        for p, q, z in zip(ours, theirs, zeros, strict=True):
            p.grad, q.grad = gradient(t, p), gradient(t, q)
            z.data.zero_()
            z.grad = q.grad.clone()
        optimizer.step()
        adam.step()
        with torch.no_grad():
            for n, (q, z) in enumerate(zip(theirs, zeros, strict=True)):
                assert q.grad is not None
                if q.dim() < 2:
                    q += 0.02 * z
                    continue
                u = -z.detach()
                if rule == "muon_h":
                    u = orthogonal(momentum(n, q.grad), (3.4445, -4.775, 2.0315), 5)
                moved = q - 0.02 * radii[n] * u / u.norm()
                q.copy_(radii[n] * moved / moved.norm())
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_a_matrix_that_starts_at_zero_is_trained_without_a_sphere() -> None:
    p, q = (nn.Parameter(torch.zeros(3, 4, dtype=torch.float64)) for _ in range(2))
    one, other = optdsl.load("adam_h")([p], lr=0.02), torch.optim.Adam([q], lr=0.02)
    for t in range(5):
        p.grad = q.grad = gradient(t, p)
        one.step()
        other.step()
    torch.testing.assert_close(p, q, rtol=0, atol=1e-12)


def best(low: float, high: float) -> tuple[float, float, float]:
    """The odd polynomial of degree 5 with the least distance from 1 between two numbers.

    By Remez's exchange: the distance is the same, with alternating signs, at both ends and at the
    extrema between them.
    """
    inner = np.array([(3 * low + high) / 4, (low + 3 * high) / 4])
    for _ in range(30):
        x = np.array([low, *inner, high])
        a, b, c, _ = np.linalg.solve(np.stack([x, x**3, x**5, [1, -1, 1, -1]], 1), np.ones(4))
        inner = np.sqrt((-3 * b + np.sqrt(9 * b * b - 20 * a * c) * np.array([-1, 1])) / (10 * c))
    return float(a), float(b), float(c)


def composition() -> list[tuple[float, float, float]]:
    """Amsel et al., 2025, algorithm 1 from 1e-3 on, with the cushion of the coefficients there."""
    found, low, high, cushion = [], 1e-3, 1.0, 0.02407327424182761
    for _ in range(7):
        a, b, c = best(max(low, cushion * high), high)
        ends = [a * x + b * x**3 + c * x**5 for x in (low, high)]
        centre = 2 / sum(ends) if cushion * high > low else 1.0
        found.append((a * centre, b * centre, c * centre))
        low = centre * ends[0]
        high = 2 - low
    safe = [(a / 1.01, b / 1.01**3, c / 1.01**5) for a, b, c in found]
    return [*safe, (1.875, -1.25, 0.375)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("steps", [4, 9])
def test_polar_express_has_the_best_polynomials(steps: int, backend: str) -> None:
    """In Muon, with gradients so large that what is added to norms is less than rounding."""
    ours, theirs = started((4, 6), (6, 4)), started((4, 6), (6, 4))
    optimizer = optdsl.load("muon with polar_express", backend=backend)(
        ours, lr=0.01, ns_steps=steps, weight_decay=0.0
    )
    weights, momentum = composition(), Momentum(*theirs)
    for t in range(STEPS):
        for n, (p, q) in enumerate(zip(ours, theirs, strict=True)):
            p.grad = gradient(t, p, 1e6)
            u = orthogonal(momentum(n, gradient(t, q, 1e6)), weights, steps, 1.01)
            q.data -= 0.01 * math.sqrt(max(1, q.shape[0] / q.shape[1])) * u
        optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)
