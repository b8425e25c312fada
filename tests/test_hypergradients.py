"""Hyper-gradients against autograd, and the learning that they drive."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl.differentiate import differentiate, moves
from optdsl.ir.program import Program
from tests.oracles import every_operation, problems
from tests.oracles.blends import REFERENCES
from tests.oracles.hypergradient_descent import Coefficient, HypergradientDescent
from tests.oracles.references import LegacyMADA
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import Eager, Interpreter, jacobian, read_spec, read_text, warmed_up

pytestmark = pytest.mark.broad(10)

TOLERANCE = 1e-12
EVERY_OPERATION = "every_operation"
PROGRAMS = (*ELEMENTWISE, EVERY_OPERATION)


@functools.cache
def plain(name: str) -> Program:
    return read_text(every_operation.TEXT) if name == EVERY_OPERATION else read_spec(name)


@functools.cache
def derived(name: str) -> Program:
    return differentiate(plain(name), problems.continuous(plain(name)))


@functools.cache
def runners(name: str) -> dict[str, Interpreter | Eager]:
    return {"interpreter": Interpreter(derived(name)), "eager": Eager(derived(name))}


class Problem:
    """A random step of a rule: some steps in, at hyperparameters well inside their domains."""

    def __init__(self, name: str, seed: int, before: int, *shape: int) -> None:
        generator = problems.seeded(seed)
        self.hypers = problems.interior_hypers(plain(name), generator)
        self.start = problems.randn(generator, *shape)
        self.gradients = [problems.randn(generator, *shape) for _ in range(before + 1)]
        self.g = self.gradients[-1]
        self.t = before + 1
        runner = Interpreter(plain(name))
        self.theta, self.state, _ = warmed_up(runner, self.start, self.gradients[:-1], self.hypers)
        if not before:
            self.state = runner.start(self.start, self.g, self.hypers)

    def tangents(self, runner: Interpreter | Eager) -> dict[str, Tensor]:
        return runner.step(self.theta, self.g, self.state, self.hypers, self.t).tangents


def deviation(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return max([0.0, *(found - expected).abs().flatten().tolist()])


STAGES = pytest.mark.parametrize("before", [0, 1, 7])

# By these, a reference that keeps other values from step to step has another derivative: this one
# keeps the average, and the rule, as its authors' code, the point of gradients, which depends on
# beta1. The tangent is autograd's for the rule's own values all the same, as tested above.
KEPT_OTHERWISE = {("schedule_free_adamw", "beta1")}


# --- one step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("shape", [(), (2, 3)])
@STAGES
def test_tangents_are_autograds(name: str, before: int, shape: tuple[int, ...]) -> None:
    """By every continuous hyperparameter; the tape runs through the undifferentiated program."""
    for seed in range(2):
        problem = Problem(name, seed, before, *shape)
        found = {key: problem.tangents(runner) for key, runner in runners(name).items()}
        for hyper in problems.continuous(plain(name)):

            def after(x: Tensor, problem: Problem = problem, hyper: str = hyper) -> Tensor:
                hypers = {**problem.hypers, hyper: x}
                interpreter = Interpreter(plain(name))
                return interpreter.step(
                    problem.theta, problem.g, problem.state, hypers, problem.t
                ).parameter

            expected = jacobian(after, problem.hypers[hyper])
            for runner, tangents in found.items():
                assert deviation(tangents[hyper], expected) <= TOLERANCE, (hyper, runner, seed)


@pytest.mark.parametrize("name", REFERENCES)
@STAGES
def test_tangents_are_those_of_a_reference(name: str, before: int) -> None:
    """The same, where nothing of the package is on the tape."""
    problem = Problem(name, 2, before, 5)
    found = {key: problem.tangents(runner) for key, runner in runners(name).items()}
    for hyper in problems.continuous(plain(name)):
        if (name, hyper) in KEPT_OTHERWISE:
            continue

        def after(x: Tensor, hyper: str = hyper) -> Tensor:
            reference = REFERENCES[name](**problem.hypers)
            theta = problem.start
            reference.start(theta, problem.gradients[0])
            for gradient in problem.gradients[:-1]:
                theta = _step(reference, theta, gradient)
            setattr(reference, hyper, x)
            return _step(reference, theta, problem.g)

        expected = jacobian(after, problem.hypers[hyper])
        for runner, tangents in found.items():
            assert deviation(tangents[hyper], expected) <= TOLERANCE, (hyper, runner)


def _step(reference: Any, theta: Tensor, gradient: Tensor) -> Tensor:
    """A step of a reference that is started already."""
    reference.t += 1
    return reference.update(theta, gradient)


@STAGES
def test_legacy_mada_has_the_published_closed_forms(before: int) -> None:
    for seed in range(5):
        problem = Problem("mada_legacy", seed, before, 6)
        found = {key: problem.tangents(runner) for key, runner in runners("mada_legacy").items()}
        for hyper, direction in closed_forms(problem).items():
            expected = -problem.hypers["lr"] * direction
            for runner, tangents in found.items():
                assert deviation(tangents[hyper], expected) <= TOLERANCE, (hyper, runner, seed)


def closed_forms(problem: Problem) -> dict[str, Tensor]:
    """The derivatives of the legacy update, as derived on paper."""
    beta1, beta2, beta3 = (problem.hypers[h] for h in ("beta1", "beta2", "beta3"))
    rho, c, gamma, eps = (problem.hypers[h] for h in ("rho", "c", "gamma", "eps"))
    g, t, old = problem.g, problem.t, problem.state
    d = g - old["g_prev"] if problem.hypers["difference"] else g
    ahead = g + beta3 * d
    sigma = torch.sign(ahead**2 - old["v"])
    s = c * ahead**2 + (1 - c) * (old["v"] + ahead**2 * sigma)
    m = beta1 * old["m"] + (1 - beta1) * g
    v = beta2 * old["v"] + (1 - beta2) * s
    n = beta3 * old["n"] + (1 - beta3) * d
    mean = (v + (t - 1) * old["V"]) / t
    b1, b2 = 1 - beta1**t, 1 - beta2**t
    w = (rho * v + (1 - rho) * mean) / b2
    r = w.sqrt()
    q = r + eps
    a = (m / b1 + beta3 * n) / q
    lion = 0.98 * old["m_lion"] + 0.02 * g
    u = torch.sign(0.95 * lion + 0.05 * g)

    def den(z: Tensor) -> Tensor:
        return -gamma * a * z / (2 * q * r)

    slope = rho * (1 - beta2) / b2
    return {
        "gamma": a - u,
        "rho": den((v - mean) / b2),
        "beta1": gamma / q * ((m - g) / (beta1 * b1) + m * t * beta1 ** (t - 1) / b1**2),
        "c": den(slope * (ahead**2 - old["v"] - ahead**2 * sigma)),
        "beta2": den(rho * (old["v"] - s) / b2 + w * t * beta2 ** (t - 1) / b2),
        "beta3": gamma / q * (2 * n - d) + den(slope * (c + (1 - c) * sigma) * 2 * ahead * d),
    }


@pytest.mark.parametrize("name", PROGRAMS)
def test_gradients_of_zero_leave_tangents_finite(name: str) -> None:
    """An element without a gradient must not turn the dot products of all others into NaN."""
    hypers = {h.name: h.default for h in plain(name).hypers}
    zeros = torch.zeros(3, dtype=torch.float64)
    for runner in runners(name).values():
        theta, state, _ = warmed_up(runner, zeros + 1, [zeros, zeros], hypers)
        for t, before in ((1, runner.start(theta, zeros, hypers)), (3, state)):
            for hyper, tangent in runner.step(theta, zeros, before, hypers, t).tangents.items():
                assert torch.isfinite(tangent).all(), hyper


FLAT_AT_ZERO = """\
optimizer FlatAtZero
hyper lr    = 0.1 in (0, inf)
hyper power = 1.5 in (0, 4)
hyper scale = 2   in (0, inf)

theta' = theta - lr * (abs(g)^power + sqrt(scale * g^2))
"""


def test_powers_and_roots_of_zero_do_not_move() -> None:
    """0^p is 0 for every p near, and sqrt(0 * s) for every s; autograd has NaN for the second."""
    program = differentiate(read_text(FLAT_AT_ZERO), ["power", "scale"])
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64)
    g = torch.tensor([0.0, 4.0], dtype=torch.float64)
    hypers = {"lr": 0.1, "power": 1.5, "scale": 2.0}
    for runner in (Interpreter(program), Eager(program)):
        tangents = runner.step(theta, g, {}, hypers, 1).tangents
        assert tangents["power"].tolist() == pytest.approx([0.0, -0.8 * math.log(4)], abs=1e-15)
        assert tangents["scale"].tolist() == pytest.approx([0.0, -0.1 * 2**0.5], abs=1e-15)


@pytest.mark.parametrize("mode", [0.0, 1.0, 2.0])
def test_tangents_are_difference_quotients(mode: float) -> None:
    """For the rule with every operation; a quotient looks through `stop_gradient`, so without."""
    text = every_operation.TEXT.replace("stop_gradient(width * g)", "(width * g)")
    assert "stop_gradient" not in text
    program = differentiate(read_text(text), every_operation.CONTINUOUS)
    problem = Problem(EVERY_OPERATION, 3, 4, 6)
    problem.hypers["mode"] = mode
    worst = 0.0
    for runner in (Interpreter(program), Eager(program)):
        for hyper, tangent in problem.tangents(runner).items():

            def after(x: float, hyper: str = hyper, runner: Interpreter | Eager = runner) -> Tensor:
                hypers = {**problem.hypers, hyper: problem.hypers[hyper] + x}
                return runner.step(
                    problem.theta, problem.g, problem.state, hypers, problem.t
                ).parameter

            # Of fourth order, so that neither width^4 nor the rounding over width is in the way.
            width = 1e-3
            near, far = after(width) - after(-width), after(2 * width) - after(-2 * width)
            worst = max(worst, deviation((8 * near - far) / (12 * width), tangent))
    assert worst <= 1e-9


# --- learning -------------------------------------------------------------------------------------


def network(parameters: Sequence[Tensor], t: int) -> Tensor:
    """The loss of a small network on the batch of step `t`."""
    generator = problems.seeded(1000 + t)
    x = problems.randn(generator, 16, 5)
    target = torch.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3]
    first, bias, second, scale = parameters
    # Ten times as much as usual, for steps do not grow with the loss, but hyper-gradients do.
    return 10 * ((torch.tanh(x @ first + bias) @ second * scale - target) ** 2).mean()


def quadratic(parameters: Sequence[Tensor], t: int) -> Tensor:
    """A noisy quadratic of bad condition."""
    generator = problems.seeded(2000 + t)
    loss = torch.zeros((), dtype=torch.float64)
    for x in parameters:
        curvature = torch.logspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
        noise = problems.randn(generator, *x.shape)
        loss = loss + (curvature * x * x / 2 + curvature.sqrt() * noise * x).sum()
    return loss


LOSSES: dict[str, Callable[[Sequence[Tensor], int], Tensor]] = {
    "network": network,
    "quadratic": quadratic,
}


def initial_parameters() -> list[Tensor]:
    generator = problems.seeded(7)
    return [
        problems.randn(generator, 5, 8) * 0.5,
        problems.randn(generator, 8) * 0.1,
        problems.randn(generator, 8, 1) * 0.3,
        problems.randn(generator),
    ]


def settings(after: int) -> dict[str, Coefficient]:
    """All six coefficients, from inside their bounds, with clips that matter."""
    return {
        "beta1": Coefficient(0.8, 0.02, 0.9, 1.0, 0.01, 0.99, after),
        "beta2": Coefficient(0.9, 0.05, 0.5, 10.0, 0.501, 0.99, after),
        "beta3": Coefficient(0.1, 0.1, 0.0, 0.3, 0.0, 0.99, after),
        "rho": Coefficient(0.5, 0.1, 0.9, 10.0, 0.0, 1.0, after),
        "c": Coefficient(0.9, 0.2, 0.9, 0.05, 0.0, 1.0, after),
        "gamma": Coefficient(0.7, 0.1, 0.0, 0.2, 0.0, 1.0, after),
    }


def declared(coefficients: dict[str, Coefficient]) -> dict[str, optdsl.Learn]:
    """The same for the package."""
    return {
        name: optdsl.Learn(
            "sgd",
            lr=c.lr,
            momentum=c.momentum,
            clip=c.clip,
            bounds=(c.lower, c.upper),
            after=c.after,
        )
        for name, c in coefficients.items()
    }


@pytest.mark.parametrize("after", [0, 10])
@pytest.mark.parametrize("order", ["exact", "overlapped"])
@pytest.mark.parametrize("loss", LOSSES)
def test_learning_is_that_of_autograd(loss: str, order: str, after: int) -> None:
    """All six coefficients of legacy MADA over 100 steps, weight decay on the matrices."""
    coefficients = settings(after)
    cls = optdsl.load("mada_legacy", learn=declared(coefficients), order=order)
    start = initial_parameters()
    parameters = [x.clone().requires_grad_() for x in start]
    decay = [0.1 if x.ndim >= 2 else 0.0 for x in start]
    initial = {name: c.value for name, c in coefficients.items()}
    optimizer = cls(
        [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": 0.1},
            {"params": [p for p in parameters if p.ndim < 2]},
        ],
        lr=0.02,
        **initial,
    )
    references = [LegacyMADA(lr=0.02, weight_decay=w) for w in decay]
    expected = HypergradientDescent(start, references, coefficients, exact=order == "exact")
    worst = 0.0
    for t in range(1, 101):
        optimizer.zero_grad()
        value = LOSSES[loss](parameters, t)
        value.backward()
        optimizer.step()
        by_autograd = expected.step(lambda x, t=t: LOSSES[loss](x, t))
        worst = max(worst, abs(float(value.detach()) - by_autograd))
        for parameter, other in zip(parameters, expected.parameters, strict=True):
            worst = max(worst, deviation(parameter.detach(), other.detach()))
        metrics = optimizer.metrics()
        for name, c in coefficients.items():
            worst = max(worst, abs(metrics[name] - c.value))
            worst = max(worst, abs(metrics[f"hypergradient/{name}"] - c.hypergradient))
            assert t > after or metrics[name] == initial[name]
    assert worst <= 1e-10
    # Something was at stake: they moved, and the clip and the projection were at work.
    assert all(abs(c.value - initial[name]) > 1e-3 for name, c in coefficients.items())
    clips, lower, upper = (sum(c.hits[i] for c in coefficients.values()) for i in range(3))
    assert clips
    assert lower + upper


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_every_hyperparameter_that_matters_can_be_learned(name: str) -> None:
    """Hyper-gradients as an optimizer measures them, at coefficients that do not move."""
    generator = problems.seeded(9)
    program = plain(name)
    hypers = problems.interior_hypers(program, generator)
    learned = [hyper for hyper in problems.continuous(program) if moves(program, hyper)]
    assert learned
    vectors = {x: simplex for x in learned if (simplex := program.simplex_of(x))}
    fixed = {
        x: optdsl.Learn("sgd", lr=0.0, bounds=(hypers[x], hypers[x]))
        for x in learned
        if x not in vectors
    } | {simplex.name: optdsl.Learn("sgd", lr=0.0) for simplex in vectors.values()}
    theta = problems.randn(generator, 4)
    parameter = theta.clone().requires_grad_()
    optimizer = optdsl.load(name, learn=fixed)([parameter], **hypers)
    interpreter = Interpreter(derived(name))
    state, pending = dict[str, Tensor](), dict.fromkeys(learned, torch.zeros_like(theta))
    for t in range(1, 6):
        g = problems.randn(generator, 4)
        expected = {x: float(torch.dot(g, tangent)) for x, tangent in pending.items()}
        result = interpreter.step(theta, g, state or interpreter.start(theta, g, hypers), hypers, t)
        theta, state = result.parameter, result.state
        pending = {x: result.tangents[x] for x in learned}
        parameter.grad = g
        optimizer.step()
        assert deviation(parameter.detach(), theta) <= TOLERANCE
        metrics = optimizer.metrics()
        for x in learned:
            assert abs(metrics[f"hypergradient/{x}"] - expected[x]) <= TOLERANCE, x


def test_the_counterexample_reaches_its_published_figures() -> None:
    """The problem of Reddi et al. (2018) on which Adam fails, as run by the authors of MADA."""
    learn = {
        name: optdsl.Learn("sgd", lr=0.1, momentum=0.9, bounds=bounds)
        for name, bounds in {"rho": (0, 1), "beta3": (0, 0.99), "c": (0, 1)}.items()
    }
    cls = optdsl.load("mada_legacy", learn=learn, order="exact")
    x = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = cls(
        [x], lr=1e-3, beta1=0.9, beta2=0.99, beta3=0.0, rho=1.0, c=1.0, gamma=1.0, eps=1e-6
    )
    common, rare = (torch.tensor(g, dtype=torch.float64) for g in (-10.0, 1010.0))
    for t in range(1, 3001):
        x.grad = rare if t % 101 == 1 else common
        optimizer.step()
        with torch.no_grad():
            x.clamp_(-1, 1)
    found = optimizer.metrics()
    assert x.item() == pytest.approx(0.040279932042, rel=0, abs=1e-9)
    assert found["rho"] == pytest.approx(0.714730700, rel=0, abs=1e-9)
    assert found["beta3"] == pytest.approx(0.249674323, rel=0, abs=1e-9)
    assert found["c"] == pytest.approx(0.989502748, rel=0, abs=1e-9)


@pytest.mark.parametrize("exponent", ["t - 1", "1 - 1", "0 * b"])
@pytest.mark.parametrize("value", [0.0, 0.5])
def test_powers_to_zero_have_derivative_zero(exponent: str, value: float) -> None:
    """x^0 is 1 for every x; the rule p * x^(p - 1) would make NaN of 0 * 0^-1."""
    text = f"optimizer A\nhyper b = 0.5 in [0, 1]\ntheta' = theta - (1 - b^({exponent})) * g"
    program = differentiate(read_text(text), ["b"])
    theta, g = torch.tensor([[0.3, -2.0], [1.5, 0.0]], dtype=torch.float64)
    for runner in (Eager(program), Interpreter(program)):
        assert runner.step(theta, g, {}, {"b": value}, 1).tangents["b"].tolist() == [0.0, 0.0]


@pytest.mark.parametrize("name", ["adam_avgrad", "hyperadam", "mada", "memory", "two_speed"])
def test_an_element_without_a_gradient_keeps_no_coefficient_from_moving(name: str) -> None:
    """An unused row of an embedding has a second moment of zero, and so the root of zero."""
    parameter = torch.ones(3, dtype=torch.float64, requires_grad=True)
    optimizer = optdsl.load(name)([parameter])
    generator = problems.seeded(4)
    for _ in range(60):
        g = problems.randn(generator, 3)
        g[0] = 0.0
        parameter.grad = g
        optimizer.step()
        assert all(map(math.isfinite, optimizer.metrics().values()))
    assert any(v != 0 for k, v in optimizer.metrics().items() if k.startswith("hypergradient/"))


def test_a_gate_may_start_in_a_corner_where_a_root_is_zero() -> None:
    text = (
        "blend Corner\nuse AdamW, Yogi\nshare lr, beta1, beta2, eps, weight_decay\n"
        "hyper lr = 1e-3 in [0, inf)\nhyper eps = 1e-8 in [0, inf)\n"
        "hyper weight_decay = 0 in [0, inf)\nYogi.m0 = 0\nhyper rho = 1 in [0, 1]\n"
        "vhat = rho * AdamW.vhat + (1 - rho) * Yogi.vhat\nlearn rho by SGD(lr = 10)\n"
    )
    moved = []
    for live in (2, 3):
        parameter = torch.ones(live, dtype=torch.float64, requires_grad=True)
        optimizer = optdsl.compile(text)([parameter])
        generator = problems.seeded(5)
        for _ in range(20):
            g = torch.zeros(live, dtype=torch.float64)
            g[-2:] = problems.randn(generator, 2)
            parameter.grad = g
            optimizer.step()
        moved.append(optimizer.metrics()["rho"])
    # An element that does nothing changes nothing.
    assert moved[0] == moved[1] < 1
