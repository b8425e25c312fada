"""Training as the authors of MADA train, against a reference by autograd in double precision.

The hyper-gradient is that of the first micro-batch, before gradients are clipped; coefficients
move first and act in the same step, but for the first 50 steps (Ozkara et al., ICML 2024).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import optdsl

NAMES = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
RATES = {"beta1": 5e-4, "beta2": 5e-4, "beta3": 0.1, "rho": 0.1, "c": 0.1, "gamma": 0.1}
BOUNDS = {"beta1": (0.01, 0.99), "beta2": (0.501, 0.99), "beta3": (0.0, 0.99)}
START = {"beta1": 0.9, "beta2": 0.95, "beta3": 0.2, "rho": 0.5, "c": 0.6, "gamma": 0.8}
SHAPES = ((6, 5), (5,), (5, 3), (3,))
MICRO, STEPS, QUIET, DECAY, LARGEST = 3, 90, 50, 0.1, 0.5


def rate(step: int) -> float:
    """The learning rate, which warms up and then decays."""
    return 0.02 * min(step / 20, 1.0) * (1 - step / 300)


def data(step: int, micro: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * step + micro)
    x = torch.randn(8, 6, generator=generator, dtype=torch.float64)
    return x, 3 * torch.stack([x.sin().sum(1), x[:, 0] * x[:, 1], x[:, 2].tanh()], dim=1)


def loss_of(weights: list[Tensor], step: int, micro: int) -> Tensor:
    x, y = data(step, micro)
    first, shift, second, last = weights
    return 300 * (((x @ first + shift).tanh() @ second + last - y) ** 2).mean() / MICRO


def start() -> list[Tensor]:
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in SHAPES]


@dataclass
class Authors:
    """Their update and their procedure.

    Attributes:
        cleared: whether the last gradient is cleared before the next update reads it.
        weights: the parameters; after the first step they are functions of `used`.
        values: the coefficients.
        used: the coefficients of the last update, on its tape.
        clips: how often a hyper-gradient was clipped.
    """

    cleared: bool
    weights: list[Tensor] = field(default_factory=start)
    values: dict[str, float] = field(default_factory=lambda: dict(START))
    used: dict[str, Tensor] = field(default_factory=dict)
    states: list[dict[str, Tensor]] = field(default_factory=list)
    clips: int = 0

    def step(self, step: int) -> None:
        leaves = [w.detach().requires_grad_() for w in self.weights]
        for micro in range(MICRO):
            loss_of(leaves, step, micro).backward()
            if micro == 0 and self.used:
                self.learn(loss_of(self.weights, step, micro), step)
        gradients = [w.grad for w in leaves]
        nn.utils.clip_grad_norm_(leaves, LARGEST)
        self.used = {
            name: torch.tensor(value, dtype=torch.float64, requires_grad=True)
            for name, value in self.values.items()
        }
        if not self.states:
            self.states = [self.first(g) for g in gradients]
        self.weights = [
            self.updated(w.detach(), g, state, step)
            for w, g, state in zip(leaves, gradients, self.states, strict=True)
        ]

    def learn(self, loss: Tensor, step: int) -> None:
        """Move the coefficients; `loss` is a function of the last update's coefficients."""
        slopes = torch.autograd.grad(loss, list(self.used.values()))
        if step <= QUIET:
            return
        for name, slope in zip(self.used, map(float, slopes), strict=True):
            self.clips += abs(slope) > 10
            moved = self.values[name] - RATES[name] * max(-10.0, min(10.0, slope))
            lower, upper = BOUNDS.get(name, (0.0, 1.0))
            self.values[name] = max(lower, min(upper, moved))

    def first(self, g: Tensor) -> dict[str, Tensor]:
        zero = torch.zeros_like(g)
        tiny = torch.full_like(g, 1e-15)
        return {"g": zero, "m": zero, "v": tiny, "n": g * g, "V": tiny, "lion": zero}

    def updated(self, x: Tensor, g: Tensor, state: dict[str, Tensor], t: int) -> Tensor:
        """The new parameter, on the tape of `used`; past states are constants."""
        beta1, beta2, beta3, rho, c, gamma = (self.used[name] for name in NAMES)
        old = {name: value.detach() for name, value in state.items()}
        change = g - (torch.zeros_like(g) if self.cleared else old["g"])
        ahead = g + beta3 * change
        square = ahead**2
        yogi = old["v"] + square * torch.sign(square - old["v"])
        s = c * square + (1 - c) * yogi
        m = beta1 * old["m"] + (1 - beta1) * g
        v = beta2 * old["v"] + (1 - beta2) * s
        n = beta3 * old["n"] + (1 - beta3) * change
        mean = ((v + (t - 1) * old["V"]) / t).detach()
        root = ((rho * v + (1 - rho) * mean) / (1 - beta2**t)).sqrt() + 1e-6
        lion = 0.98 * old["lion"] + 0.02 * g
        sign = torch.sign(0.95 * lion + 0.05 * g)
        state.update(g=g.clone(), m=m, v=v, n=n, V=mean, lion=lion)
        adaptive = (m / (1 - beta1**t) + beta3 * n) / root
        decayed = x * (1 - rate(t) * DECAY) if x.ndim >= 2 else x
        return decayed - rate(t) * (gamma * adaptive + (1 - gamma) * sign)


@pytest.mark.parametrize("backend", ["eager", "c"])
@pytest.mark.parametrize("difference", [0, 1])
def test_training_is_that_of_the_authors(difference: int, backend: str) -> None:
    """With the last gradient cleared, as for GPT-2, or not, as in their toy problem."""
    weights = [w.requires_grad_() for w in start()]
    matrices = {"params": [w for w in weights if w.ndim >= 2], "weight_decay": DECAY}
    vectors = {"params": [w for w in weights if w.ndim < 2]}
    cls = optdsl.load("mada_legacy", order="exact", backend=backend)
    optimizer = cls([matrices, vectors], difference=difference, **START)
    authors = Authors(cleared=difference == 0)
    worst = 0.0
    for step in range(1, STEPS + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad()
        for micro in range(MICRO):
            loss_of(weights, step, micro).backward()
            if micro == 0:
                optimizer.observe()
        nn.utils.clip_grad_norm_(weights, LARGEST)
        optimizer.step()
        authors.step(step)
        metrics = optimizer.metrics()
        for found, expected in zip(weights, authors.weights, strict=True):
            worst = max(worst, float((found - expected).detach().abs().max()))
        worst = max(worst, *(abs(metrics[name] - authors.values[name]) for name in NAMES))
    assert worst <= 2e-14
    assert all(authors.values[name] != START[name] for name in NAMES)
    assert authors.clips
