"""Every rule that may move a coefficient does on the device what it does on the host."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn, OptionError
from optdsl.runtime.device.device_step import DeviceStep
from tests.oracles.rules import ELEMENTWISE

pytestmark = pytest.mark.broad(8)

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def run(
    backend: str,
    learn: dict[str, Learn],
    gradients: list[Tensor],
    order: str = "overlapped",
    rule: str = "adam",
    **hypers: float,
) -> tuple[list[dict[str, float]], list[dict[str, object]], bool]:
    """The metrics after each step, the groups at the end, and whether it all was on the device."""
    parameter = nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64, device=DEVICE))
    cls = optdsl.load(rule, backend=backend, learn=learn, order=order)
    optimizer = cls([parameter], lr=0.1, **hypers)
    found = []
    for gradient in gradients:
        parameter.grad = gradient.to(DEVICE)
        optimizer.step()
        found.append(optimizer.metrics())
    groups = optimizer.state_dict()["param_groups"]
    return found, groups, optimizer._known.find(DeviceStep) is not None


def drawn(steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(9, generator=generator, dtype=torch.float64) for _ in range(steps)]


def agree(learn: dict[str, Learn], gradients: list[Tensor], **options: object) -> list[float]:
    """The values that the first coefficient had."""
    ours, groups, device_step_of = run("triton", learn, gradients, **options)
    theirs, expected, _ = run("eager", learn, gradients, **options)
    assert device_step_of
    for found, wanted in zip(ours, theirs, strict=True):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            assert found[key] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), key
    for key, value in expected[0].items():
        if key != "params":
            assert groups[0][key] == pytest.approx(value, rel=1e-9, abs=1e-12, nan_ok=True), key
            assert type(groups[0][key]) is type(value), key
    return [metrics[next(iter(learn))] for metrics in theirs]


def moving_rules() -> list[str]:
    found = []
    for name in ELEMENTWISE:
        try:
            optdsl.load("adam", learn={"beta1": Learn(name, bounds=(0.5, 0.99))})
        except OptionError:
            continue
        found.append(name)
    return found


@pytest.mark.parametrize("name", moving_rules())
@pytest.mark.parametrize("order", ["overlapped", "exact"])
def test_every_rule_moves_a_coefficient(name: str, order: str) -> None:
    # What is learned of the second step is zero but for rounding, and rules may follow a sign.
    learn = {"beta1": Learn(name, lr=0.01, bounds=(0.5, 0.99), after=2)}
    values = agree(learn, drawn(7), order=order)
    assert len(set(values)) > 2


def test_bounds_clips_signs_and_waiting() -> None:
    learn = {
        "beta1": Learn("sgd", lr=1, bounds=(0.8, 0.95), after=2),
        "beta2": Learn("sgd", lr=1, bounds=(0.9, 0.9995), clip=1e-4),
        "eps": Learn("sgd", lr=1e-6, bounds=(0, 1), signal="sign", after=2),
    }
    values = agree(learn, drawn(12))
    assert {0.8, 0.95} & set(values)


@pytest.mark.parametrize("exponentiated", [False, True])
@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.exhaustive
def test_weights_move_on_their_simplex(exponentiated: bool, count: int) -> None:
    members = ("adam", "lion", "yogi", "adan", "sgd")[:count]
    learn = {"w": Learn("sgd", lr=3, exponentiated=exponentiated, clip=2)}
    runs = []
    for backend in ("triton", "eager"):
        parameter = nn.Parameter(torch.linspace(-1, 1, 9, dtype=torch.float64, device=DEVICE))
        optimizer = optdsl.blend(*members, backend=backend, learn=learn)([parameter])
        found = []
        for gradient in drawn(8):
            parameter.grad = gradient.to(DEVICE)
            optimizer.step()
            found.append(optimizer.metrics())
        runs.append(found)
    for ours, theirs in zip(*runs, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-9, abs=1e-12)
        assert math.fsum(ours[f"w_{m}"] for m in members) == pytest.approx(1)
    assert runs[1][0] != runs[1][-1]


@pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_moves_nothing(odd: float) -> None:
    gradients = drawn(6)
    gradients[3][4] = odd
    learn = {"beta1": Learn("adam", lr=0.01, bounds=(0.5, 0.99), after=2)}
    agree(learn, gradients)


def test_a_move_that_overflows_is_none() -> None:
    learn = {"weight_decay": Learn("sgd", lr=1e308, bounds=(0, math.inf))}
    values = agree(learn, [1e3 * g for g in drawn(5)], rule="adamw")
    assert all(map(math.isfinite, values))


@pytest.mark.parametrize("order", ["overlapped", "exact"])
@pytest.mark.parametrize(("signal", "horizon"), [("normalized", 0.0), ("normalized", 0.9)])
def test_normalized_and_with_a_horizon(signal: str, horizon: float, order: str) -> None:
    learn = {
        "lr": Learn("sgd", lr=1e-3, bounds=(0, 1), signal=signal, horizon=horizon),
        "beta1": Learn("adam", lr=1e-2, bounds=(0.1, 0.99), signal=signal, horizon=horizon),
    }
    values = agree(learn, drawn(6), order=order)
    assert len(set(values)) == 6
