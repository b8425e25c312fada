"""Any rule can run on a coefficient, and does there what it does on a parameter."""

from typing import Any

import pytest
import torch
from torch import nn

from optdsl import Learn

from .helpers import ORDERS, SPECS, Probe, plain

pytestmark = pytest.mark.broad(8)

HYPERGRADIENTS = (1.0, -0.5, 2.0, 0.0, 3.5, -4.0, 1e-3, 0.25, 0.75, -1.5)
# Settings that are not the defaults, so that it is seen that they arrive.
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "adam": [{}, {"lr": 0.1, "beta1": 0.5, "beta2": 0.9, "eps": 1e-3, "weight_decay": 0.1}],
    "adamw": [{}, {"lr": 0.1, "beta1": 0.0, "weight_decay": 0.5}],
    "adan": [{}, {"lr": 0.1, "beta3": 0.5, "weight_decay": 0.5}],
    "amsgrad": [{}, {"lr": 0.1, "beta2": 0.1}],
    "avgrad": [{}, {"lr": 0.1, "beta2": 0.5}],
    "lion": [{}, {"lr": 0.1, "beta1": 0.2, "weight_decay": 0.5}],
    "mada_legacy": [{}, {"lr": 0.1, "rho": 0.5, "c": 0.5, "gamma": 0.5, "beta3": 0.5}],
    "sgd": [
        {},
        {"lr": 0.1, "momentum": 0.9},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5},
    ],
    "yogi": [{}, {"lr": 0.1, "m0": 0.5, "v0": 2.0}],
}
CASES = [(rule, options) for rule in SPECS for options in OPTIONS.get(rule, [{}])]

IN_TORCH: list[tuple[str, dict[str, Any], Any]] = [
    ("sgd", {"lr": 0.1}, lambda p: torch.optim.SGD(p, lr=0.1)),
    (
        "sgd",
        {"lr": 0.1, "momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.5, weight_decay=0.1),
    ),
    (
        "sgd",
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    ),
    (
        "adam",
        {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.1},
        lambda p: torch.optim.Adam(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1),
    ),
    (
        "adamw",
        {"lr": 0.1, "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.1),
    ),
    (
        "adagrad",
        {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.5},
        lambda p: torch.optim.Adagrad(p, lr=0.1, lr_decay=0.2, initial_accumulator_value=0.5),
    ),
    ("amsgrad", {"lr": 0.1}, lambda p: torch.optim.Adam(p, lr=0.1, amsgrad=True)),
]


def fed(optimizer: torch.optim.Optimizer, bounds: tuple[float, float] | None = None) -> list[float]:
    """The values of a parameter of one element with these gradients, projected if asked for."""
    (parameter,) = optimizer.param_groups[0]["params"]
    found = []
    for gradient in HYPERGRADIENTS:
        parameter.grad = torch.full_like(parameter, gradient)
        optimizer.step()
        if bounds is not None:
            with torch.no_grad():
                parameter.clamp_(*bounds)
        found.append(parameter.item())
    return found


def scalar() -> nn.Parameter:
    return nn.Parameter(torch.full((1,), 0.5, dtype=torch.float64))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("rule", "options"), CASES)
def test_a_rule_does_to_a_coefficient_what_it_does_to_a_parameter(
    rule: str, options: dict[str, Any], order: str
) -> None:
    found = Probe(Learn(rule, **options), order).feed(HYPERGRADIENTS)
    assert found == pytest.approx(fed(plain(rule)([scalar()], **options)), rel=1e-12, abs=0)
    assert len(set(found)) > 3


@pytest.mark.parametrize(("rule", "options"), CASES)
def test_the_rule_goes_on_from_the_projected_value(rule: str, options: dict[str, Any]) -> None:
    bounds = (0.4998, 0.5002)
    found = Probe(Learn(rule, bounds=bounds, **options)).feed(HYPERGRADIENTS)
    expected = fed(plain(rule)([scalar()], **options), bounds)
    assert found == pytest.approx(expected, rel=1e-12, abs=0)
    assert set(found) & set(bounds)


@pytest.mark.parametrize(("rule", "options", "reference"), IN_TORCH)
def test_a_rule_does_to_a_coefficient_what_torch_does(
    rule: str, options: dict[str, Any], reference: Any
) -> None:
    found = Probe(Learn(rule, **options)).feed(HYPERGRADIENTS)
    assert found == pytest.approx(fed(reference([scalar()])), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("rule", "options"), CASES)
def test_the_clip_comes_before_the_rule(rule: str, options: dict[str, Any]) -> None:
    clipped = Probe(Learn(rule, clip=1.0, **options)).feed(HYPERGRADIENTS)
    limited = [min(max(h, -1.0), 1.0) for h in HYPERGRADIENTS]
    assert clipped == Probe(Learn(rule, **options)).feed(limited)


@pytest.mark.parametrize(("rule", "options"), CASES)
def test_what_a_rule_remembers_is_a_few_numbers(rule: str, options: dict[str, Any]) -> None:
    probe = Probe(Learn(rule, **options))
    expected = {"learn/w/step", *(f"learn/w/{s}" for s in states(rule))}
    assert set(probe.entries()) == expected
    probe.feed(HYPERGRADIENTS)
    assert set(probe.entries()) == expected
    assert all(isinstance(v, float | int) for v in probe.entries().values())
    assert probe.entries()["learn/w/step"] == len(HYPERGRADIENTS)


def states(rule: str) -> set[str]:
    parameter = scalar()
    optimizer = plain(rule)([parameter])
    fed(optimizer)
    return set(optimizer.state[parameter]) - {"step"}
