"""Where models are evaluated, against the package schedulefree, papers and the interpreter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import schedulefree
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn, interpret
from optdsl.specifications import library

from .common import BACKENDS, RULES, copies, gradients, parameters, same_bits, train

pytestmark = pytest.mark.parametrize("backend", BACKENDS)

SETTINGS: list[dict[str, Any]] = [
    {},
    {"lr": 0.05, "warmup_steps": 20, "weight_decay": 0.1},
    {"lr": 0.01, "warmup_steps": 7, "r": 1.0, "weight_lr_power": 0.5, "betas": (0.95, 0.9)},
    {"lr": 0.02, "betas": (0.98, 0.99), "eps": 1e-4, "weight_decay": 0.3, "weight_lr_power": 0.0},
]


def assert_near(ours: list[Tensor], theirs: list[Tensor]) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_schedule_free_is_that_of_its_authors(backend: str, settings: dict[str, Any]) -> None:
    """Parameters and evaluation points, over 100 steps; the learning rate falls on the way."""
    ours, theirs = parameters(), parameters()
    own = optdsl.load("schedule_free_adamw", backend=backend)(ours, **settings)
    other = schedulefree.AdamWScheduleFree(theirs, **settings)
    for step in range(100):
        other.train()
        for optimizer in (own, other):
            optimizer.param_groups[0]["lr"] = settings.get("lr", 2.5e-3) * (0.3 if step > 60 else 1)
        train(own, ours, [step])
        train(other, theirs, [step])
        assert_near(copies(ours), copies(theirs))
        if step % 9 == 0:
            own.eval()
            other.eval()
            assert_near(copies(ours), copies(theirs))
            own.train()


def points(held: list[nn.Parameter], optimizer: Any) -> list[Tensor]:
    optimizer.eval()
    found = copies(held)
    optimizer.train()
    return found


def test_weights_are_averaged(backend: str) -> None:
    """The means are those of the parameters after each step, written by hand."""
    held = parameters()
    optimizer = optdsl.load("adamw with ema_weights", backend=backend)(
        held, lr=0.01, ema_weights_beta=0.7
    )
    other = parameters()
    torchs = torch.optim.AdamW(other, lr=0.01)
    means = copies(held)
    for step in range(20):
        train(optimizer, held, [step])
        train(torchs, other, [step])
        means = [0.7 * m + 0.3 * p.detach() for m, p in zip(means, other, strict=True)]
        assert_near(copies(held), copies(other))
        assert_near(points(held, optimizer), means)


def test_an_average_is_of_the_points_at_which_the_rule_would_be_evaluated(backend: str) -> None:
    held, other = parameters(), parameters()
    name = "schedule_free_adamw with ema_weights(beta = 0.7)"
    optimizer = optdsl.load(name, backend=backend)(held, lr=0.01)
    single = schedulefree.AdamWScheduleFree(other, lr=0.01)
    means = copies(held)
    for step in range(20):
        single.train()
        train(optimizer, held, [step])
        train(single, other, [step])
        single.eval()
        means = [0.7 * m + 0.3 * p.detach() for m, p in zip(means, other, strict=True)]
        assert_near(points(held, optimizer), means)


def test_averages_of_averages(backend: str) -> None:
    """Each modifier averages what the ones before it evaluate."""
    held, other = parameters(), parameters()
    name = "sgd with ema_weights(beta = 0.5), ema_weights(beta = 0.8) as twice"
    optimizer = optdsl.load(name, backend=backend)(held, lr=0.1)
    single = optdsl.load("sgd with ema_weights(beta = 0.5)", backend=backend)(other, lr=0.1)
    means = copies(held)
    for step in range(10):
        train(optimizer, held, [step])
        train(single, other, [step])
        inner = points(other, single)
        means = [0.8 * m + 0.2 * p for m, p in zip(means, inner, strict=True)]
        assert_near(points(held, optimizer), means)


NESTEROV = """\
modifier Ahead of theta', eval
hyper strength = 0.3 in [0, inf)
state w = theta
state d = 0
w'     = base.theta'
d'     = ema(d, base.theta' - w, 0.9)
theta' = base.theta' + strength * d'
eval   = w
recovers base at strength = 0
"""
TAIL = """\
modifier Tail of eval
hyper start   = 3 in [1, inf)
hyper horizon = 4 in [1, inf)
hyper weight  = 0.6 in [0, 1]
state average = theta
moved    = average + (base.eval' - average) / horizon
average' = where(t < start, average, where(t == start, base.eval', moved))
eval     = where(t >= start, (1 - weight) * base.eval + weight * average, base.eval)
"""


def test_points_ahead_and_averages_of_the_tail(backend: str, tmp_path: Path) -> None:
    """A point ahead of the weights, and a mean of the weights themselves, by hand."""
    (tmp_path / "ahead.opt").write_text(NESTEROV)
    (tmp_path / "tail.opt").write_text(TAIL)
    (tmp_path / "both.opt").write_text("optimizer Both = SGD with Ahead, Tail\n")
    held = parameters()
    optimizer = optdsl.load(str(tmp_path / "both.opt"), backend=backend)(held, lr=0.1)
    weights, ahead = copies(held), copies(held)
    means, drift = copies(held), [torch.zeros_like(p) for p in held]
    for step in range(12):
        train(optimizer, held, [step])
        for n, g in enumerate(gradients(step)):
            new = ahead[n] - 0.1 * g
            drift[n] = 0.9 * drift[n] + 0.1 * (new - weights[n])
            weights[n], ahead[n] = new, new + 0.3 * drift[n]
            if step + 1 == 3:
                means[n] = weights[n]
            elif step + 1 > 3:
                means[n] = means[n] + (weights[n] - means[n]) / 4
        assert_near(copies(held), ahead)
        mixed = [0.4 * w + 0.6 * m for w, m in zip(weights, means, strict=True)]
        assert_near(points(held, optimizer), mixed if step + 1 >= 3 else weights)


@pytest.mark.parametrize("rule", RULES)
def test_points_are_those_of_the_interpreter(backend: str, rule: str) -> None:
    program = library.read(library.open_source(rule))
    held = parameters()
    optimizer = optdsl.load(rule, backend=backend)(held, lr=0.02)
    train(optimizer, held, range(5))
    before, hypers = copies(held), dict(program.defaults, lr=0.02)
    states = [optimizer.completed_state(p) for p in held]
    found = points(held, optimizer)
    for p, state, x in zip(before, states, found, strict=True):
        expected = interpret.evaluation_point(program, p, state, hypers, 5)
        torch.testing.assert_close(x, expected, rtol=1e-14, atol=1e-15)
        assert not torch.equal(x, p)


def test_a_point_may_use_t_and_hyperparameters_only(backend: str) -> None:
    """`t` is the last step, and hyperparameters have the values of the group."""
    text = (
        "optimizer A\nhyper lr = 0.1 in [0, 1]\nhyper a = 2 in [0, 9]\n"
        "theta' = theta - lr * g\neval = a * t\n"
    )
    held = parameters()
    optimizer = optdsl.compile(text, backend=backend)(held)
    train(optimizer, held, range(3))
    optimizer.param_groups[0]["a"] = 5.0
    for x in points(held, optimizer):
        assert (x == 15).all()


def test_a_coefficient_of_one_tensor_is_its_own(backend: str) -> None:
    text = "optimizer A\nhyper lr = 0.1 in [0, 1]\ntheta' = theta - lr * g\neval = lr + 0 * theta\n"
    learn = {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1), scope="tensor")}
    held = parameters()
    optimizer = optdsl.compile(text, backend=backend, learn=learn)(held)
    train(optimizer, held, range(3))
    rates = [float(optimizer.state[p]["coefficient/lr"]) for p in held]
    assert len(set(rates)) == 3
    for x, rate in zip(points(held, optimizer), rates, strict=True):
        torch.testing.assert_close(x, torch.full_like(x, rate), rtol=1e-15, atol=0)


def test_blends_mix_points(backend: str) -> None:
    """With the weights of theta'; with all weight on one member, it evaluates where that does."""
    cls = optdsl.blend("schedule_free_adamw", "lion", backend=backend, learn=False)
    for weight in (1.0, 0.25):
        held, other = parameters(), parameters()
        blended = cls(held, w_schedulefreeadamw=weight, w_lion=1 - weight)
        single = optdsl.load("schedule_free_adamw", backend=backend)(other)
        train(blended, held, range(4))
        train(single, other, range(4))
        if weight == 1:
            assert_near(points(held, blended), points(other, single))
        state, before = [blended.completed_state(p) for p in held], copies(held)
        for x, s, p in zip(points(held, blended), state, before, strict=True):
            own = p + (1 - 1 / 0.9) * (s["z"] - p)
            torch.testing.assert_close(x, weight * own + (1 - weight) * p, rtol=1e-12, atol=1e-13)


def test_a_blend_of_members_that_agree_evaluates_where_they_do(
    backend: str, tmp_path: Path
) -> None:
    (tmp_path / "one.opt").write_text(
        "blend One\nuse ScheduleFreeAdamW as A, ScheduleFreeAdamW as B\n"
        "share lr, beta1, beta2, eps, weight_decay, warmup_steps, r, weight_lr_power\n"
        "hyper w = 0.5 in [0, 1]\nupdate = w * A.update + (1 - w) * B.update\n"
    )
    held, other = parameters(), parameters()
    one = optdsl.load(str(tmp_path / "one.opt"), backend=backend)(held)
    single = optdsl.load("schedule_free_adamw", backend=backend)(other)
    train(one, held, range(4))
    train(single, other, range(4))
    assert_near(points(held, one), points(other, single))


def test_a_rule_that_evaluates_at_its_parameters_does_nothing(backend: str) -> None:
    held = parameters()
    optimizer = optdsl.load("adamw", backend=backend)(held)
    assert optimizer.compiled.evaluates is False
    train(optimizer, held, range(2))
    before = copies(held)
    optimizer.eval()
    assert same_bits(copies(held), before)
    optimizer.step()
    assert "evaluating" not in optimizer.state_dict()
    optimizer.train()
    assert not same_bits(copies(held), before)
