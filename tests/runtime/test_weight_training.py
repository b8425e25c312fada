"""Training with a learned weight vector, beside loops that are written out by hand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn

from .helpers import ORDERS, bits, fingerprint, held, loss, parameters, resumed, train
from .weights import LABELS, differences, exponentials, mix, named, nearest, vector

pytestmark = pytest.mark.broad(8)

STEPS = 50
GEOMETRIES = (False, True)
RATE = 0.05

Move = Callable[[list[float], list[float]], list[float]]


@dataclass
class Momentum:
    """SGD with momentum on each weight after a clip, then back to the simplex."""

    lr: float
    momentum: float
    clip: float
    exponentiated: bool
    buffer: list[float] = field(default_factory=list)
    clipped: int = 0

    def __call__(self, weights: list[float], hypergradients: list[float]) -> list[float]:
        free = differences(hypergradients)
        h = [max(-self.clip, min(self.clip, x)) for x in free]
        self.clipped += h != free
        old = self.buffer
        self.buffer = [self.momentum * b + x for b, x in zip(old, h, strict=True)] if old else h
        if self.exponentiated:
            lifted = [max(w, 1e-4) for w in weights]
            powers = [w * math.exp(-self.lr * b) for w, b in zip(lifted, self.buffer, strict=True)]
            return [p / sum(powers) for p in powers]
        moved = [w - self.lr * b for w, b in zip(weights, self.buffer, strict=True)]
        return [float(x) for x in nearest(moved)]

    @property
    def learn(self) -> Learn:
        return Learn(
            "sgd",
            lr=self.lr,
            momentum=self.momentum,
            clip=self.clip,
            exponentiated=self.exponentiated,
        )


class Adam:
    """torch's Adam on the vector, or on its logarithms."""

    def __init__(self, exponentiated: bool) -> None:
        self.exponentiated = exponentiated
        self.parameter = nn.Parameter(torch.zeros(3, dtype=torch.float64))
        self.optimizer = torch.optim.Adam([self.parameter], lr=0.2, betas=(0.8, 0.95))

    def __call__(self, weights: list[float], hypergradients: list[float]) -> list[float]:
        at = [math.log(max(w, 1e-4)) for w in weights] if self.exponentiated else weights
        self.parameter.data.copy_(torch.tensor(at, dtype=torch.float64))
        self.parameter.grad = torch.tensor(differences(hypergradients), dtype=torch.float64)
        self.optimizer.step()
        moved = self.parameter.tolist()
        return exponentials(moved) if self.exponentiated else [float(x) for x in nearest(moved)]

    @property
    def learn(self) -> Learn:
        how = self.exponentiated
        return Learn("adam", lr=0.2, beta1=0.8, beta2=0.95, exponentiated=how)


class ByAutograd:
    """The mixture by hand: the last step stays on the tape until the next loss."""

    def __init__(self, start: Sequence[Tensor], weights: list[float], move: Move, order: str):
        self.parameters = [p.detach().clone() for p in start]
        self.moments = [torch.zeros_like(p) for p in self.parameters]
        self.weights, self.move, self.order = weights, move, order
        self.hypergradients = [0.0] * len(weights)
        self._used: Tensor | None = None

    def step(self, step: int) -> None:
        if self._used is None:
            for p in self.parameters:
                p.requires_grad_()
        over = [*self.parameters, *([] if self._used is None else [self._used])]
        found = torch.autograd.grad(loss(self.parameters, step), over)
        learns = len(found) > len(self.parameters)
        if learns and self.order == "exact":
            self._learn(found[-1])
        self._used = torch.tensor(self.weights, dtype=torch.float64, requires_grad=True)
        fast, slow, flat = self._used
        for i, (p, g) in enumerate(zip(self.parameters, found, strict=False)):
            self.moments[i] = 0.9 * self.moments[i] + 0.1 * g
            update = fast * g + slow * self.moments[i] + flat * g.sign()
            self.parameters[i] = p.detach() - RATE * update
        if learns and self.order == "overlapped":
            self._learn(found[-1])

    def _learn(self, hypergradients: Tensor) -> None:
        self.hypergradients = hypergradients.tolist()
        self.weights = self.move(self.weights, self.hypergradients)


def followed(move: Momentum | Adam, order: str, start: str) -> list[list[float]]:
    """Train both, compare every number of every step; the weights as they went."""
    params = parameters()
    optimizer = mix(move.learn, order, start)(params)
    reference = ByAutograd(params, vector(optimizer), move, order)
    path = []
    for step in range(STEPS):
        train(optimizer, [step])
        reference.step(step)
        metrics = optimizer.metrics()
        path.append([metrics[f"w_{label}"] for label in LABELS])
        measured = [metrics[f"hypergradient/w_{label}"] for label in LABELS]
        assert path[-1] == pytest.approx(reference.weights, rel=0, abs=1e-12), step
        assert measured == pytest.approx(reference.hypergradients, rel=0, abs=1e-12), step
        torch.testing.assert_close(params, list(reference.parameters), rtol=0, atol=1e-12)
        assert math.fsum(path[-1]) == pytest.approx(1.0, rel=0, abs=1e-15)
        assert all(0 <= w <= 1 for w in path[-1])
    return path


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start", ["uniform", "flat", "0.5, 0.25, 0.25"])
def test_projection_follows_a_loop_by_autograd(start: str, order: str) -> None:
    move = Momentum(lr=0.1, momentum=0.5, clip=0.25, exponentiated=False)
    path = followed(move, order, start)
    assert 0 < move.clipped < STEPS
    zero = [0.0 in w for w in path]
    assert any(zero)
    assert not all(zero)
    assert min(max(w[i] for w in path) - min(w[i] for w in path) for i in range(3)) > 0.1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("start", ["uniform", "flat", "0.5, 0.25, 0.25"])
def test_exponentiated_gradient_follows_a_loop_by_autograd(start: str, order: str) -> None:
    move = Momentum(lr=1.5, momentum=0.5, clip=1.0, exponentiated=True)
    path = followed(move, order, start)
    assert 0 < move.clipped < STEPS
    assert all(min(w) > 0 for w in path[1:])  # the first step has nothing to learn from
    assert min(min(w) for w in path[1:]) < 1e-4
    assert min(max(w[i] for w in path) - min(w[i] for w in path) for i in range(3)) > 0.1


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_adam_moves_a_vector_as_torchs_adam_would(exponentiated: bool, order: str) -> None:
    path = followed(Adam(exponentiated), order, "uniform")
    assert max(max(w) - min(w) for w in path) > 0.3


# --- groups, checkpoints ------------------------------------------------------------------------


def learned(exponentiated: bool) -> Learn:
    return Learn("adam", lr=0.05, clip=10, after=2, exponentiated=exponentiated)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_groups_share_the_weights(exponentiated: bool, order: str) -> None:
    """However the parameters are grouped, and whatever else the groups have for themselves."""
    cls = mix(learned(exponentiated), order)
    params = parameters()
    grouped = cls([{"params": params[:1]}, {"params": []}, {"params": params[1:]}])
    alone = cls(parameters())
    train(grouped, range(12))
    train(alone, range(12))
    assert grouped.metrics() == pytest.approx(alone.metrics(), rel=1e-12)
    assert vector(grouped, 0) == vector(grouped, 1) == vector(grouped, 2) != [1 / 3] * 3


@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_every_group_contributes_by_its_own_rate(exponentiated: bool) -> None:
    cls = mix(learned(exponentiated))
    params = parameters(shapes=[(1,), (1,)])
    optimizer = cls([{"params": params[:1], "lr": 0.5}, {"params": params[1:], "lr": 0.25}])
    for slope in (2.0, 3.0):
        for p in params:
            p.grad = torch.full_like(p, slope)
        optimizer.step()
    metrics = optimizer.metrics()
    assert metrics["hypergradient/w_fast"] == -0.75 * 2 * 3
    assert metrics["hypergradient/w_slow"] == pytest.approx(-0.75 * 0.2 * 3, rel=1e-14)
    assert metrics["hypergradient/w_flat"] == -0.75 * 1 * 3


@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_a_late_group_starts_with_the_learned_weights(exponentiated: bool) -> None:
    params = parameters()
    optimizer = mix(learned(exponentiated))(params[:2])
    train(optimizer, range(6))
    now = vector(optimizer)
    assert now != [1 / 3] * 3
    optimizer.add_param_group({"params": params[2:]})
    assert vector(optimizer, 1) == now
    train(optimizer, range(6, 9))
    assert vector(optimizer, 0) == vector(optimizer, 1) != now


@pytest.mark.parametrize("rule", ["sgd", "adam"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_a_resumed_run_is_the_same_to_the_bit(exponentiated: bool, order: str, rule: str) -> None:
    options = {"momentum": 0.9} if rule == "sgd" else {}
    how = Learn(rule, lr=0.05, clip=1, after=3, exponentiated=exponentiated, **options)
    cls = mix(how, order, start="0.5, 0.25, 0.25")
    unbroken = cls(parameters(torch.float32))
    halted = []
    for step in range(10):
        if step in {0, 1, 4, 7}:
            new = resumed(cls, unbroken)
            assert fingerprint(new) == fingerprint(unbroken)
            halted.append((step, new))
        train(unbroken, [step])
    assert vector(unbroken) != [0.5, 0.25, 0.25]
    for step, new in halted:
        train(new, range(step, 10))
        assert fingerprint(new) == fingerprint(unbroken), f"cut before step {step}"


@pytest.mark.parametrize(
    ("backend", "pending"),
    [
        ("auto", {"pending/g", "pending/hypers"}),
        ("eager", {f"tangent/w_{label}" for label in LABELS}),
    ],
    ids=["auto", "eager"],
)
def test_what_is_saved(backend: str, pending: set[str]) -> None:
    cls = mix(Learn("sgd", lr=0.1, exponentiated=True), backend=backend)
    optimizer = cls(parameters(shapes=[(2,)]))
    train(optimizer, range(3))
    group = optimizer.state_dict()["param_groups"][0]
    kinds = ("{}", "hypergradient/{}", "learn/{}/buf", "learn/{}/step")
    assert set(group) == {"params", "lr", "maximize"} | {
        k.format(n) for k in kinds for n in named([0, 0, 0])
    }
    assert [group[f"learn/w_{label}/step"] for label in LABELS] == [2, 2, 2]
    state = optimizer.state_dict()["state"][0]
    assert set(state) == {"m", "step"} | pending


@pytest.mark.parametrize("exponentiated", ["", "exponentiated "])
def test_a_statement_of_the_specification_does_the_same(exponentiated: str) -> None:
    stated = mix(f"learn w by {exponentiated}SGD(lr = 0.1, momentum = 0.5, clip = 1) after 2")
    how = Learn("sgd", lr=0.1, momentum=0.5, clip=1, after=2, exponentiated=bool(exponentiated))
    optimizers = [stated(parameters()), mix(how)(parameters())]
    for optimizer in optimizers:
        train(optimizer, range(10))
    assert vector(optimizers[0]) != [1 / 3] * 3
    first, second = map(fingerprint, optimizers)
    assert first == second


def test_a_vector_that_is_not_learned_stays_where_it_is_put() -> None:
    """And a corner is its member alone."""
    mixture = mix(learn=False, start="fast")(parameters())
    sgd = optdsl.load("sgd")(parameters(), lr=RATE)
    train(mixture, range(5))
    train(sgd, range(5))
    assert [bits(p) for p in held(mixture)] == [bits(p) for p in held(sgd)]
    assert mixture.metrics() == {}
