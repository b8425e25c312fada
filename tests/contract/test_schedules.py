"""Learning rates as tensors, and the schedulers of torch, for every specification."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import optdsl
from optdsl import Learn
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper
from optdsl.runtime.core.hyperparameters import number
from tests.c.rules import device
from tests.contract.common import (
    BACKENDS,
    SPECS,
    every,
    plain,
    tensor,
)
from tests.runtime.helpers import bits, fingerprint, held, parameters, train

pytestmark = pytest.mark.broad(10)


@every
def test_a_tensor_stays_the_learning_rate_and_is_read_at_every_step(
    spec: str, backend: str
) -> None:
    cls = plain(spec, backend)
    rates = [0.05, 0.025, 0.1, 0.0]
    expected = cls(parameters(), lr=1.0)
    first, second = tensor(9.0), tensor(9.0)
    given, in_group = cls(parameters(), lr=first), cls([{"params": parameters(), "lr": second}])
    assert given.param_groups[0]["lr"] is first
    assert in_group.param_groups[0]["lr"] is second
    for step, rate in enumerate(rates):
        expected.param_groups[0]["lr"] = rate
        first.fill_(rate)
        second.fill_(rate)
        for optimizer in (expected, given, in_group):
            train(optimizer, [step])
    assert [bits(p) for p in held(given)] == [bits(p) for p in held(expected)]
    assert [bits(p) for p in held(in_group)] == [bits(p) for p in held(expected)]


def test_a_tensor_survives_checkpoints_and_is_checked() -> None:
    cls = optdsl.load("adam")
    rate = tensor(0.5)
    optimizer, loaded = cls(parameters(), lr=rate), cls(parameters())
    loaded.load_state_dict(optimizer.state_dict())
    assert float(loaded.param_groups[0]["lr"]) == 0.5
    rate.fill_(-1.0)
    before = fingerprint(optimizer)["parameters"]
    with pytest.raises(ValueError, match="lr = -1 is out of bounds"):
        train(optimizer, [0])
    assert fingerprint(optimizer)["parameters"] == before
    learned = optdsl.load("adam", learn={"lr": Learn("sgd", lr=1e-3, bounds=(0, 1))})
    group = learned(parameters(), lr=torch.tensor(0.5)).param_groups[0]
    assert type(group["lr"]) is float  # it is learned: nobody else writes it


def one_cycle(epoch: int, start: float, top: float, end: float, warm: int, last: int) -> float:
    low, high, part = (
        (start, top, epoch / warm) if epoch <= warm else (top, end, (epoch - warm) / (last - warm))
    )
    return high + (low - high) * (1 + math.cos(math.pi * part)) / 2


STEPS = 8
SCHEDULER = torch.optim.lr_scheduler
Maker = Callable[[torch.optim.Optimizer], Any]
# Schedulers over a first rate of 0.04, and by hand the rate of each step.
SCHEDULES: dict[str, tuple[Maker, Callable[[int], float]]] = {
    "LambdaLR": (
        lambda o: SCHEDULER.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
        lambda n: 0.04 / (1 + n),
    ),
    "MultiplicativeLR": (
        lambda o: SCHEDULER.MultiplicativeLR(o, lambda epoch: 0.5),
        lambda n: 0.04 * 0.5**n,
    ),
    "StepLR": (lambda o: SCHEDULER.StepLR(o, 3, 0.1), lambda n: 0.04 * 0.1 ** (n // 3)),
    "MultiStepLR": (
        lambda o: SCHEDULER.MultiStepLR(o, [2, 5], 0.5),
        lambda n: 0.04 * 0.5 ** ((n >= 2) + (n >= 5)),
    ),
    "LinearLR": (
        lambda o: SCHEDULER.LinearLR(o, 0.25, 1.0, 4),
        lambda n: 0.04 * (0.25 + 0.75 * min(n, 4) / 4),
    ),
    "CosineAnnealingLR": (
        lambda o: SCHEDULER.CosineAnnealingLR(o, STEPS),
        lambda n: 0.04 * (1 + math.cos(math.pi * n / STEPS)) / 2,
    ),
    "OneCycleLR": (
        lambda o: SCHEDULER.OneCycleLR(
            o, 0.1, STEPS, pct_start=0.5, div_factor=4, final_div_factor=5, cycle_momentum=False
        ),
        lambda n: one_cycle(n, 0.025, 0.1, 0.005, STEPS // 2 - 1, STEPS - 1),
    ),
    "ReduceLROnPlateau": (
        lambda o: SCHEDULER.ReduceLROnPlateau(o, factor=0.5, patience=1),
        # The first value is the best one, and every second one after that is one too many.
        lambda n: 0.04 * 0.5 ** max(0, (n - 1) // 2),
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("spec", "backend", "kind"),
    [
        *(pytest.param(s, b, tensor, id=f"{s}-{b}-tensor") for s in SPECS for b in BACKENDS),
        *(pytest.param("mada", b, float, id=f"mada-{b}-float") for b in BACKENDS),
    ],
)
def test_schedulers_set_the_rate_of_every_step(
    spec: str, backend: str, name: str, kind: Callable[[float], Any]
) -> None:
    """Against a loop with the rates written by hand; a second group has half of the rate.

    Rates are tensors, which schedulers write into; as numbers tests/runtime/test_use.py drives all.
    """
    cls, (make, by_hand) = plain(spec, backend), SCHEDULES[name]
    params, expected = parameters(), parameters()
    half = 1.0 if name == "OneCycleLR" else 0.5  # which sets the rates itself
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": kind(half * 0.04)}]
    driven = cls(groups, lr=kind(0.04))
    loop = cls([{"params": expected[:1]}, {"params": expected[1:]}])
    scheduler = make(driven)
    for step in range(STEPS):
        groups = list(zip(driven.param_groups, loop.param_groups, (1, half), strict=True))
        for group, own, part in groups:
            rate = float(group["lr"])
            assert rate == pytest.approx(part * by_hand(step), rel=1e-12)
            own["lr"] = rate
        train(driven, [step])
        train(loop, [step])
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert [bits(p) for p in params] == [bits(p) for p in expected]
    assert type(driven.param_groups[0]["lr"]) is type(kind(0.04))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", ["adam", "adamw"])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_schedulers_that_cycle_the_momentum_drive_beta1(spec: str, backend: str, name: str) -> None:
    """With their defaults, as they drive torch's optimizer of the same rule."""
    makers: dict[str, Maker] = {
        "OneCycleLR": lambda o: SCHEDULER.OneCycleLR(o, 0.1, total_steps=STEPS),
        "CyclicLR": lambda o: SCHEDULER.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    }
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[spec]
    mine, expected = parameters(), parameters()
    optimizers = [optdsl.load(spec, backend=backend)(mine), theirs(expected)]
    schedulers = [makers[name](o) for o in optimizers]
    seen = set()
    for step in range(STEPS):
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            train(optimizer, [step])
            scheduler.step()
        groups = [o.param_groups[0] for o in optimizers]
        assert groups[0]["betas"] == groups[1]["betas"]
        seen.add(groups[0]["betas"][0])
    assert len(seen) > 3
    torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-11)


# Half of torch's schedulers compute a rate from the last one, and what should be 0 is -4.4e-21.
@pytest.mark.parametrize("kind", [float, tensor])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rate_that_rounding_has_brought_below_its_bound_is_the_bound(
    backend: str, kind: Callable[[float], Any]
) -> None:
    params = parameters()
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": kind(2e3)}]
    driven = optdsl.load("adamw", backend=backend)(groups, lr=kind(0.3))
    scheduler = SCHEDULER.LinearLR(driven, 1 / 3, 0.0, 100)
    for _ in range(100):
        driven.step()
        scheduler.step()
    rates = [float(group["lr"]) for group in driven.param_groups]
    assert all(-1e-12 < rate < 0 for rate in rates)
    before = [bits(p) for p in params]
    train(driven, [100])
    assert [float(group["lr"]) for group in driven.param_groups] == rates
    assert [bits(p) for p in params] == before


@pytest.mark.parametrize("learn", [False, ["rho"]])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_step_uses_the_bound_on_either_side(backend: str, learn: Any) -> None:
    """Closed bounds have numbers; an open one, or more than rounding, is refused as ever."""
    cls = optdsl.load("mada_legacy", backend=backend, learn=learn, order="exact")
    beyond = math.nextafter(1.0, 2.0)
    for value, bound in ((beyond, 1.0), (-1e-17, 0.0)):
        runs = [cls(parameters(), rho=x) for x in (value, bound)]
        for optimizer in runs:
            train(optimizer, range(3))
        assert [bits(p) for p in held(runs[0])] == [bits(p) for p in held(runs[1])]
        assert runs[0].metrics() == runs[1].metrics()
    for name, value in {"rho": 1 + 1e-14, "beta1": beyond, "lr": -1e-17}.items():
        with pytest.raises(ValueError, match=f"{name} = .* is out of bounds"):
            cls(parameters(), **{name: value})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    default=st.floats(1e-6, 1e3),
    start=st.floats(0, 1e3),
    beyond=st.floats(-16, 16),
)
def test_rounding_is_a_few_spacings_at_the_largest_value_that_there_was(
    default: float, start: float, beyond: float
) -> None:
    hyper = Hyper("lr", default, Interval(0.0, math.inf, False, True))
    spacing = torch.finfo(torch.float64).eps * max(default, start)
    value = beyond * spacing
    others = ({"lr": value, "initial_lr": start},)
    if value >= 0:
        assert number("R", hyper, value, {}, others) == value
    elif -value <= 4 * spacing:
        assert number("R", hyper, value, {}, others) == 0
    else:
        with pytest.raises(ValueError, match="is out of bounds"):
            number("R", hyper, value, {}, others)


LEARNED = {
    "lr": Learn("sgd", lr=1e-4, bounds=(0, 1)),
    "beta1": Learn("sgd", lr=1e-4, bounds=(0, 0.99)),
}


def driven(
    make: Maker | None, name: str, backend: str, **options: Any
) -> tuple[list[str], torch.optim.Optimizer]:
    """What a training says with a scheduler where one hyperparameter is learned."""
    cls = optdsl.load("adamw", backend=backend, learn={name: LEARNED[name]}, **options)
    params = [p.detach().to(device(backend)).requires_grad_() for p in parameters()]
    optimizer = cls([{"params": params[:1]}, {"params": params[1:]}], lr=0.01)
    scheduler = make(optimizer) if make is not None else None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            for parameter in params:
                parameter.grad = parameter.detach().clone()
            optimizer.step()
            if scheduler is not None:
                scheduler.step()
    assert {w.filename for w in caught} <= {__file__}
    return [str(w.message) for w in caught], optimizer


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize(
    ("learned", "name"),
    [
        ("lr", "LambdaLR"),
        ("lr", "OneCycleLR"),
        ("beta1", "OneCycleLR"),
        ("lr", "CosineAnnealingLR"),
    ],
)
def test_what_is_learned_and_scheduled_is_told_once(learned: str, name: str, backend: str) -> None:
    makers: dict[str, Maker] = {
        "LambdaLR": lambda o: SCHEDULER.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
        "OneCycleLR": lambda o: SCHEDULER.OneCycleLR(o, 0.1, total_steps=STEPS),
        "CosineAnnealingLR": lambda o: SCHEDULER.CosineAnnealingLR(o, STEPS),
    }
    messages, _ = driven(makers[name], learned, backend)
    (message,) = messages
    assert message.startswith(f"AdamW: {learned} is learned, and something else sets or scales it")
    assert "so that what is learned is lost or mixed with the schedule" in message


@pytest.mark.parametrize("backend", [*BACKENDS, "triton"])
@pytest.mark.parametrize("learned", LEARNED)
def test_what_is_learned_alone_or_set_now_and_then_is_not_told(learned: str, backend: str) -> None:
    rarely: Maker = lambda o: SCHEDULER.StepLR(o, 3, 0.5)  # noqa: E731
    other: Maker = lambda o: SCHEDULER.LambdaLR(o, lambda epoch: 1 / (1 + epoch))  # noqa: E731
    for make in (None, rarely, *([other] if learned == "beta1" else [])):
        messages, optimizer = driven(make, learned, backend)
        assert messages == []
        (start,) = {float(g[learned]) for g in optimizer.param_groups}
        assert start not in {0.01, 0.9}
