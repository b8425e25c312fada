"""Normalized hyper-gradients, and tangents with a horizon, against automatic differentiation."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import Learn
from optdsl.diagnostics import Source
from optdsl.options import OptionError
from optdsl.report.plan import describe_plan
from optdsl.runtime.engines.sampled.choice import sample_of

from .helpers import ORDERS

pytestmark = pytest.mark.broad(8)

SHAPES = ((7, 5), (11,))
STEPS, START = 9, {"lr": 0.05, "beta1": 0.8}
BOUNDS = {"lr": (0.0, 1.0), "beta1": (0.1, 0.99)}
RATES = {"lr": 1e-4, "beta1": 1e-3}


def adam(theta: Tensor, m: Tensor, v: Tensor, g: Tensor, t: int, lr: Tensor, beta1: Tensor) -> Any:
    """A step of Adam, written from the paper (Kingma and Ba, 2015): the parameter, m and v."""
    m = beta1 * m + (1 - beta1) * g
    v = 0.999 * v + 0.001 * g * g
    unbiased = m / (1 - beta1**t)
    return theta - lr * unbiased / ((v / (1 - 0.999**t)).sqrt() + 1e-8), m, v


def normed(
    theta: Tensor, m: Tensor, v: Tensor, g: Tensor, t: int, lr: Tensor, beta1: Tensor
) -> Any:
    """A step of `NORMED`."""
    m = beta1 * m + g
    return theta - lr * m / (torch.linalg.vector_norm(m) + 0.1), m, v


NORMED = """\
optimizer Normed
  "a step of length lr"
hyper lr = 0.1 in [0, 1]
hyper beta1 = 0.9 in [0, 1]
state m = 0
m' = beta1 * m + g
theta' = theta - lr * m' / (norm(m') + 0.1)
"""
RULES = {"adam": adam, "normed": normed}


def drawn(seed: int, shapes: Any = SHAPES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]


def by_hand(
    rule: str, signal: str, horizon: float, order: str, sample: int = 1, shapes: Any = SHAPES
) -> list[dict[str, float]]:
    """What is learned after each step: tangents by automatic differentiation, sums in a loop."""
    theta = drawn(0, shapes)
    m, v = ([torch.zeros_like(x) for x in theta] for _ in range(2))
    coefficients = {k: torch.tensor(x, dtype=torch.float64) for k, x in START.items()}
    mean, updates = dict.fromkeys(START, 0.0), 0
    traces = {k: [torch.zeros_like(x) for x in theta] for k in START}
    weights = [torch.ones_like(x) for x in theta]
    if sample > 1:
        for one in weights:
            found = sample_of(one.shape, sample)
            if not found.whole:
                one.zero_().view(-1)[found.index(one.device)] = sample
    history = []

    def learn(gradients: list[Tensor]) -> dict[str, float]:
        nonlocal updates
        measured = {}
        updates += 1
        for name in START:
            zs = zip(gradients, traces[name], weights, strict=True)
            h = sum(float((w * g * z).sum()) for g, z, w in zs)
            measured[f"hypergradient/{name}"] = h
            if signal == "normalized":
                both = zip(gradients, weights, strict=True)
                square = sum(float((w * g * g).sum()) for g, w in both)
                mean[name] = 0.99 * mean[name] + 0.01 * square
                h = h / (square + mean[name] / (1 - 0.99**updates))
            moved = float(coefficients[name]) - RATES[name] * h
            coefficients[name] = torch.tensor(moved, dtype=torch.float64).clamp(*BOUNDS[name])
        return measured

    def step(gradients: list[Tensor], t: int) -> None:
        for n, g in enumerate(gradients):
            for name in START:

                def of(x: Tensor, name: str = name, n: int = n, g: Tensor = g) -> Tensor:
                    given = coefficients | {name: x}
                    return RULES[rule](theta[n], m[n], v[n], g, t, **given)[0]

                one = torch.ones((), dtype=torch.float64)
                tangent = torch.func.jvp(of, (coefficients[name],), (one,))[1]
                traces[name][n] = horizon * traces[name][n] + tangent
            theta[n], m[n], v[n] = RULES[rule](theta[n], m[n], v[n], g, t, **coefficients)

    for t in range(1, STEPS + 1):
        gradients = drawn(t, shapes)
        measured = {}
        if order == "exact":
            measured = learn(gradients) if t > 1 else {}
            step(gradients, t)
        else:
            pending = {k: list(x) for k, x in traces.items()}
            step(gradients, t)
            new, traces = traces, pending
            measured = learn(gradients) if t > 1 else {}
            traces = new
        history.append({k: float(x) for k, x in coefficients.items()} | measured)
    return history


def optimizer(rule: str, signal: str, horizon: float, order: str, backend: str, **more: Any) -> Any:
    shapes = more.pop("shapes", SHAPES)
    learn = {
        name: Learn(
            "sgd", lr=RATES[name], bounds=BOUNDS[name], signal=signal, horizon=horizon, **more
        )
        for name in START
    }
    options: Any = {"learn": learn, "order": order, "backend": backend}
    made = optdsl.compile(NORMED, **options) if rule == "normed" else optdsl.load(rule, **options)
    return made([torch.nn.Parameter(x) for x in drawn(0, shapes)], **START)


def trained(optimizer: Any, steps: Any, shapes: Any = SHAPES) -> list[dict[str, float]]:
    history = []
    for t in steps:
        for p, g in zip(optimizer.param_groups[0]["params"], drawn(t, shapes), strict=True):
            p.grad = g
        optimizer.step()
        history.append(dict(optimizer.metrics()))
    return history


def agree(found: list[dict[str, float]], expected: list[dict[str, float]]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one == pytest.approx({**dict.fromkeys(one, 0.0), **other}, rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("horizon", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("signal", ["raw", "normalized"])
@pytest.mark.parametrize("rule", list(RULES))
def test_as_by_hand(rule: str, signal: str, horizon: float, order: str, backend: str) -> None:
    found = trained(optimizer(rule, signal, horizon, order, backend), range(1, STEPS + 1))
    agree(found, by_hand(rule, signal, horizon, order))


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", list(RULES))
def test_of_a_sample(rule: str, order: str, backend: str) -> None:
    """A decaying tangent is kept of the sampled elements only, whatever the rule reads."""
    shapes, more = ((70, 60), (50,)), {"sample": 4}
    made = optimizer(rule, "normalized", 0.9, order, backend, shapes=shapes, **more)
    found = trained(made, range(1, STEPS + 1), shapes)
    agree(found, by_hand(rule, "normalized", 0.9, order, 4, shapes))
    large = made.param_groups[0]["params"][0]
    assert made.state[large]["tangent/lr"].numel() == sample_of(large.shape, 4).count


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("rule", list(RULES))
def test_resumed_to_the_bit(rule: str, order: str, backend: str) -> None:
    whole = optimizer(rule, "normalized", 0.9, order, backend)
    first = optimizer(rule, "normalized", 0.9, order, backend)
    expected = trained(whole, range(1, 9))[5:]
    trained(first, range(1, 6))
    state = copy.deepcopy(first.state_dict())
    later = optimizer(rule, "normalized", 0.9, order, backend)
    both = zip(*(x.param_groups[0]["params"] for x in (later, first)), strict=True)
    for p, q in both:
        p.data.copy_(q)
    later.load_state_dict(state)
    assert trained(later, range(6, 9)) == expected


def test_another_backend_goes_on() -> None:
    """Both store tangents, so that a trace does not begin anew."""
    first = optimizer("adam", "normalized", 0.9, "exact", "eager")
    history = trained(first, range(1, 6))
    later = optimizer("adam", "normalized", 0.9, "exact", "auto")
    for p, q in zip(*(x.param_groups[0]["params"] for x in (later, first)), strict=True):
        p.data.copy_(q)
    later.load_state_dict(first.state_dict())
    agree(
        history + trained(later, range(6, STEPS + 1)), by_hand("adam", "normalized", 0.9, "exact")
    )


def test_the_normalized_gradient_bounds_what_is_learned() -> None:
    """The scale of the loss does not matter where the tangent does not change with it."""
    found = []
    for scale in (1.0, 2.0**-20, 2.0**30):
        learn = {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1), signal="normalized")}
        made = optdsl.load("sgd", learn=learn)([torch.nn.Parameter(x) for x in drawn(0)], lr=0.1)
        for t in range(1, 6):
            for p, g in zip(made.param_groups[0]["params"], drawn(t), strict=True):
                p.grad = g * scale
            made.step()
        found.append(made.metrics()["lr"])
    assert found[0] != 0.1
    assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-12)


def test_a_gradient_of_zeros_moves_nothing() -> None:
    learn = {"lr": Learn("sgd", lr=1.0, bounds=(0, 1), signal="normalized")}
    p = torch.nn.Parameter(torch.ones(3))
    made = optdsl.load("sgd", learn=learn)([p], lr=0.1)
    for _ in range(3):
        p.grad = torch.zeros(3)
        made.step()
    assert made.metrics()["lr"] == 0.1


def test_observed_squares_follow_the_weight() -> None:
    """The quotient of what was observed with a factor is that of the gradient with the factor."""
    found = []
    for weight in (1.0, 0.5):
        made = optimizer("adam", "normalized", 0.9, "exact", "auto")
        trained(made, range(1, 4))
        for p, g in zip(made.param_groups[0]["params"], drawn(7), strict=True):
            p.grad = g / weight
        made.observe(weight)
        found += trained(made, [4])
    assert found[0] == pytest.approx(found[1], rel=1e-12)


def test_a_horizon_outside_its_domain_is_refused() -> None:
    with pytest.raises(OptionError, match=r"horizon=1\.5"):
        Learn("sgd", horizon=1.5)


def test_a_kernel_refuses_decaying_tangents_of_a_sample_of_whole_tensors() -> None:
    with pytest.raises(OptionError, match="nothing to do with each other"):
        optimizer("normed", "raw", 0.9, "exact", "c", sample=4)


def test_the_bytes_are_shown() -> None:
    learn = {"lr": Learn("sgd", horizon=0.9, sample=4), "beta1": Learn("sgd", bounds=(0, 0.9))}
    text = describe_plan(Source("normed.opt", NORMED), learn)
    assert "State: 6 bytes per parameter" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "tangent/lr 1 per parameter with its horizon, of 1 in 4 elements" in lines


def test_a_file_learns_from_normalized_gradients_and_refuses_horizons() -> None:
    how = {
        name: Learn("sgd", lr=RATES[name], bounds=BOUNDS[name], signal="normalized")
        for name in START
    }
    found: dict[str, Any] = {}
    exec(optdsl.eject("adam", learn=how), found)
    made = found["Adam"]([torch.nn.Parameter(x) for x in drawn(0)], **START)
    expected = trained(optimizer("adam", "normalized", 0.0, "overlapped", "eager"), range(1, 5))
    for t in range(1, 5):
        for p, g in zip(made.param_groups[0]["params"], drawn(t), strict=True):
            p.grad = g
        made.step()
        group = {k: float(made.param_groups[0][k]) for k in expected[t - 1]}
        assert group == pytest.approx(expected[t - 1], rel=1e-12)
    with pytest.raises(OptionError, match="horizon"):
        optdsl.eject("adam", learn={"lr": Learn("sgd", horizon=0.9)})
