"""Hyper-gradients are the derivatives of the loss by the hyperparameters."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.oracles.rules import SEPARATE

from .helpers import ORDERS, fingerprint, held, learner, loss, parameters, train

pytestmark = pytest.mark.broad(8)

ADAPTIVE = {"lr": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 0.1, "weight_decay": 0.2}
# Values away from the bounds, for a difference to both sides, and what is left out.
POINTS: list[tuple[str, dict[str, float], dict[str, float]]] = [
    ("adam", ADAPTIVE, {}),
    ("adamw", ADAPTIVE, {}),
    ("amsgrad", ADAPTIVE, {}),
    ("avgrad", ADAPTIVE, {}),
    ("yogi", ADAPTIVE, {}),
    ("adan", {**ADAPTIVE, "beta3": 0.7}, {}),
    ("lion", {"lr": 0.1, "weight_decay": 0.2}, {}),
    ("sgd", {"lr": 0.1, "momentum": 0.5, "dampening": 0.25, "weight_decay": 0.2}, {}),
    ("sgd", {"lr": 0.1, "momentum": 0.5, "weight_decay": 0.2}, {"nesterov": 1}),
    ("sgd", {"lr": 0.1, "weight_decay": 0.2}, {}),
    # The paper takes the running mean for a constant, so that the derivatives of what it is made
    # of are only those of the loss where the mean has no share.
    ("mada_legacy", {**ADAPTIVE, "beta3": 0.3, "c": 0.6, "gamma": 0.7}, {"rho": 1}),
    (
        "mada_legacy",
        {"lr": 0.1, "beta1": 0.8, "rho": 0.4, "gamma": 0.7, "eps": 0.1, "weight_decay": 0.2},
        {"c": 0.6},
    ),
]
TAKEN = 3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("spec", "point", "others"), POINTS)
def test_they_agree_with_differences_of_the_loss(
    spec: str, point: dict[str, float], others: dict[str, float], order: str
) -> None:
    """By what the last step was taken with; the states before it are held constant."""
    still = {n: Learn("sgd", lr=0, bounds=(v / 2, min(2 * v, 0.99))) for n, v in point.items()}
    cls = optdsl.load(spec, order=order, learn=still)
    optimizer = cls(parameters(), **point, **others)
    train(optimizer, range(TAKEN))
    expected = {n: difference(optimizer, n, 1e-5 * v) for n, v in point.items()}
    train(optimizer, [TAKEN, TAKEN + 1])
    metrics = optimizer.metrics()
    for name in point:
        found = metrics[f"hypergradient/{name}"]
        assert found == pytest.approx(expected[name], rel=1e-6, abs=1e-9), name
        assert found != 0
        assert metrics[name] == point[name]


def difference(optimizer: torch.optim.Optimizer, name: str, by: float) -> float:
    """The central difference of the loss after the next step."""
    losses = []
    for change in (by, -by):
        trial = copy.deepcopy(optimizer)
        for group in trial.param_groups:
            group[name] += change
        train(trial, [TAKEN])
        losses.append(loss(held(trial), TAKEN + 1).item())
    return (losses[0] - losses[1]) / (2 * by)


class Recorded:
    """An optimizer whose tangent is the gradient, fed by hand."""

    TEXT = "optimizer Own\nhyper w = 0.5 in [-100, 100]\ntheta' = theta + w * g\n"

    def __init__(self, count: int, order: str) -> None:
        cls = optdsl.compile(self.TEXT, order=order, learn={"w": Learn("sgd", lr=0)})
        self.parameters = parameters(shapes=[(2,)] * count)
        self.optimizer = cls(self.parameters)

    def step(self, *gradients: Tensor | None) -> float:
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = None if g is None else g.double()
        self.optimizer.step()
        return self.optimizer.metrics()["hypergradient/w"]


@pytest.mark.parametrize("order", ORDERS)
def test_a_tangent_waits_for_the_next_gradient_of_its_tensor(order: str) -> None:
    recorded = Recorded(2, order)
    a, b, c, d = (torch.tensor(x) for x in ([1.0, 2.0], [3.0, -1.0], [0.5, 4.0], [2.0, 2.0]))
    assert recorded.step(a, b) == 0
    assert recorded.step(c, None) == c @ a
    assert recorded.step(d, None) == d @ c
    assert recorded.step(a, d) == a @ d + d @ b
    assert recorded.step(None, None) == a @ d + d @ b  # nothing was measured
    assert recorded.step(None, c) == c @ d
    assert recorded.step(b, a) == b @ a + a @ c


@pytest.mark.parametrize("order", ORDERS)
def test_a_gradient_of_zero_is_a_gradient(order: str) -> None:
    recorded = Recorded(1, order)
    recorded.step(torch.tensor([1.0, 2.0]))
    assert recorded.step(torch.zeros(2)) == 0
    assert recorded.step(torch.tensor([1.0, 2.0])) == 0


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("spec", "edit"),
    [
        *((spec, lambda x: x.mul_(0.5)) for spec in ("adaptivity", "memory", "mada")),
        # The old parameter is kept: nothing of the step before is computed from the new one.
        ("adaptivity", lambda x: x.view(-1)[:1].fill_(torch.inf)),
        ("adaptivity", lambda x: x.fill_(torch.nan)),
    ],
)
def test_a_parameter_may_be_changed_between_two_steps(
    spec: str, edit: Callable[[Tensor], object], order: str
) -> None:
    """As where tangents are stored, which no change of a parameter can reach."""
    found = []
    for backend in ("auto", "eager"):
        cls = optdsl.load(spec, backend=backend, order=order)
        optimizer = cls(parameters(), lr=0.01)
        train(optimizer, range(TAKEN))
        gradients = [p.grad for p in held(optimizer)]
        for parameter, gradient in zip(held(optimizer), gradients, strict=True):
            edit(parameter.detach())
            parameter.grad = gradient
        optimizer.step()
        metrics = optimizer.metrics().items()
        found.append({n: value for n, value in metrics if n.startswith("hypergradient/")})
    compiled, stored = found
    assert compiled == pytest.approx(stored, rel=1e-9, abs=1e-12)
    assert any(stored.values())


def test_the_dot_product_is_accurate_for_half_precision() -> None:
    """In float16 the sum would be infinite, and in bfloat16 it would stop at 256."""
    for dtype in (torch.float16, torch.bfloat16):
        parameter = nn.Parameter(torch.zeros(1000, dtype=dtype))
        cls = optdsl.compile(Recorded.TEXT, learn={"w": Learn("sgd", lr=0)})
        optimizer = cls([parameter])
        for _ in range(2):
            parameter.grad = torch.full_like(parameter, 100.0)
            optimizer.step()
        assert optimizer.metrics()["hypergradient/w"] == 1e7


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", SEPARATE)
def test_how_a_model_is_cut_into_tensors_does_not_matter(spec: str, order: str) -> None:
    """One tensor, many, or many in groups: the same coefficients."""
    start = torch.linspace(0.5, 2.0, 24, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    targets = torch.randn(10, 24, generator=generator, dtype=torch.float64)
    found = []
    for pieces in ([24], [1] * 24, [0, 7, 1, 16, 0]):
        params = [nn.Parameter(p.clone()) for p in start.split(pieces)]
        groups: Any = [{"params": [p]} for p in params] if len(pieces) == 5 else params
        optimizer = learner(spec, order)(groups, lr=0.01, weight_decay=0.1)
        for target in targets:
            optimizer.zero_grad()
            (torch.cat(list(params)) - target).pow(2).sum().backward()
            optimizer.step()
        found.append(list(optimizer.metrics().values()))
    assert found[1] == pytest.approx(found[0], rel=1e-12, abs=1e-15)
    assert found[2] == pytest.approx(found[0], rel=1e-12, abs=1e-15)


def test_groups_share_one_hypergradient() -> None:
    """Each group's part is by its own learning rate."""
    cls = optdsl.load("sgd", learn={"weight_decay": Learn("sgd", lr=0, bounds=(0, 1))})
    first, second = (nn.Parameter(torch.tensor([v], dtype=torch.float64)) for v in (2.0, 3.0))
    optimizer = cls([{"params": [first], "lr": 0.5}, {"params": [second], "lr": 0.25}])
    for gradient in (0.0, 1.0):
        first.grad, second.grad = (torch.full((1,), gradient).double() for _ in range(2))
        optimizer.step()
    expected = -0.5 * 2.0 - 0.25 * 3.0
    assert optimizer.metrics()["hypergradient/weight_decay"] == expected


def test_every_group_sees_every_metric() -> None:
    optimizer = learner("mada_legacy")([{"params": [p]} for p in parameters()])
    train(optimizer, range(5))
    groups = fingerprint(optimizer)["groups"]
    assert len({tuple((k, v) for k, v in g.items() if k != "params") for g in groups}) == 1
