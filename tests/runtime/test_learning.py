"""How a learned coefficient moves, with hyper-gradients that the tests dictate."""

import math

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn

from .helpers import (
    ORDERS,
    PROBE,
    SPECS,
    Probe,
    fingerprint,
    held,
    learner,
    loss,
    parameters,
    plain,
    train,
)

pytestmark = pytest.mark.broad(8)


def test_the_hypergradient_is_measured_and_followed() -> None:
    probe = Probe(Learn("sgd", lr=0.25), w=1.0)
    assert probe.optimizer.metrics() == {"w": 1.0, "hypergradient/w": 0.0}
    probe.step(123.0)  # the first step has no tangent to multiply it with
    assert probe.optimizer.metrics() == {"w": 1.0, "hypergradient/w": 0.0}
    probe.step(2.0)
    assert probe.optimizer.metrics() == {"w": 0.5, "hypergradient/w": 2.0}
    probe.step(-4.0)
    assert probe.optimizer.metrics() == {"w": 1.5, "hypergradient/w": -4.0}


def test_when_a_coefficient_acts() -> None:
    """At once in the exact order, from the next step on in the overlapped one."""
    exact, overlapped = (Probe(Learn("sgd", lr=1), order, w=1.0) for order in ("exact", ORDERS[0]))
    assert exact.feed([1.0, -2.0]) == overlapped.feed([1.0, -2.0]) == [0.0, 2.0]
    assert exact.parameter.item() == 1.0 + 0.0 + 2.0
    assert overlapped.parameter.item() == 1.0 + 1.0 + 0.0


@pytest.mark.parametrize("order", ORDERS)
def test_a_corner_can_be_left(order: str) -> None:
    """Bounds are kept by projection, which has no flat ends."""
    learn = Learn("sgd", lr=0.25, bounds=(0, 1))
    assert Probe(learn, order, w=1.0).feed([-9.0, -1.0, 1.0, 1.0]) == [1.0, 1.0, 0.75, 0.5]
    assert Probe(learn, order, w=0.0).feed([9.0, 1.0, -1.0, -1.0]) == [0.0, 0.0, 0.25, 0.5]


def test_a_value_out_of_the_bounds_of_learning_is_refused() -> None:
    """The first update would jump to the bounds."""
    learn = Learn("sgd", lr=0.25, bounds=(0, 1), after=2)
    with pytest.raises(ValueError, match=r"w = 5 is out of bounds, it is learned in \[0, 1\]"):
        Probe(learn, w=5.0)
    cls = optdsl.compile(PROBE, learn={"w": learn})
    optimizer = cls([nn.Parameter(torch.zeros(1))])
    optimizer.param_groups[0]["w"] = -1.0
    with pytest.raises(ValueError, match="w = -1 is out of bounds"):
        train(optimizer, [0])


def test_bounds_of_a_single_point_hold_the_coefficient() -> None:
    assert Probe(Learn("adam", bounds=(0.5, 0.5))).feed([3.0, -3.0]) == [0.5, 0.5]


@pytest.mark.parametrize("order", ORDERS)
def test_the_clip_limits_the_move_but_not_the_metric(order: str) -> None:
    probe = Probe(Learn("sgd", lr=0.5, clip=2), order, w=0.0)
    assert probe.feed([1000.0, -3.0, 0.5]) == [-1.0, 0.0, -0.25]
    probe.step(-1e6)
    assert probe.hypergradient == -1e6
    free = Probe(Learn("sgd", lr=0.5, clip=None), order, w=0.0)
    assert free.feed([100.0]) == [-50.0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("after", [0, 1, 2, 5])
def test_the_first_steps_leave_the_coefficient(after: int, order: str) -> None:
    """And nothing of them is remembered: what follows is as from a new start."""
    probe = Probe(Learn("sgd", lr=0.5, momentum=0.9, after=after), order, w=0.0)
    seen = [probe.step(-1.0) for _ in range(8)]
    idle = max(after, 1)  # the first step has nothing to learn from anyway
    assert seen[:idle] == [0.0] * idle
    fresh = Probe(Learn("sgd", lr=0.5, momentum=0.9), order, w=0.0)
    assert seen[idle:] == fresh.feed([-1.0] * (8 - idle))
    assert probe.hypergradient == -1.0


def test_hypergradients_are_measured_before_learning_begins() -> None:
    probe = Probe(Learn("sgd", lr=0.5, after=50))
    assert probe.feed([1.0, 7.0]) == [0.5, 0.5]
    assert probe.hypergradient == 7.0


def test_the_first_steps_are_those_of_the_optimizer() -> None:
    """A tensor whose first gradient comes late does not hold learning up."""
    cls = optdsl.compile(PROBE, learn={"w": Learn("sgd", lr=0.25, after=3)})
    early, late = (nn.Parameter(torch.zeros(1)) for _ in range(2))
    optimizer = cls([early, late])
    for parameter in [early] * 5 + [late] * 2:
        optimizer.zero_grad()
        parameter.grad = torch.ones(1)
        optimizer.step()
    # Steps 4 and 5 learn from `early`, step 6 has no tangent yet, step 7 learns from `late`.
    assert optimizer.metrics()["w"] == 0.5 - 3 * 0.25


def test_momentum() -> None:
    probe = Probe(Learn("sgd", lr=0.5, momentum=0.5), w=0.0)
    # The moment: 1, 0.5 + 1, 0.75 - 2, -0.625 + 0.
    assert probe.feed([1.0, 1.0, -2.0, 0.0]) == [-0.5, -1.25, -0.625, -0.3125]
    assert probe.entries() == {"learn/w/buf": -0.625, "learn/w/step": 4}


def test_the_specifications_own_settings() -> None:
    """`learn after 50`, SGD with lr = 0.1, in [0, 1]."""
    cls = optdsl.load("mada_legacy", order="exact", learn=["rho", "c"])
    optimizer = cls(parameters(shapes=[(2,)]), rho=0.5, c=0.5)
    assert set(optimizer.metrics()) == {"rho", "c", "hypergradient/rho", "hypergradient/c"}
    train(optimizer, range(50))
    assert [optimizer.metrics()[k] for k in ("rho", "c")] == [0.5, 0.5]
    train(optimizer, [50])
    for name in ("rho", "c"):
        found = optimizer.metrics()
        assert found[name] == pytest.approx(0.5 - 0.1 * found[f"hypergradient/{name}"], rel=1e-12)
        assert found[name] != 0.5


def test_which_hyperparameters_learn() -> None:
    every = {"beta1", "beta2", "beta3", "rho", "c", "gamma"}

    def learned(cls: type[torch.optim.Optimizer]) -> set[str]:
        return {k for k in cls(parameters()).metrics() if "/" not in k}

    assert learned(optdsl.load("mada_legacy")) == every
    assert learned(optdsl.load("mada_legacy", learn=False)) == set()
    assert learned(optdsl.load("mada_legacy", learn=[])) == set()
    assert learned(optdsl.load("mada_legacy", learn={})) == set()
    assert learned(optdsl.load("mada_legacy", learn="rho")) == {"rho"}
    assert learned(optdsl.load("mada_legacy", learn=("rho", "rho"))) == {"rho"}
    assert learned(optdsl.load("mada_legacy", learn=(n for n in ["c", "rho"]))) == {"c", "rho"}
    assert learned(optdsl.load("mada_legacy", learn={"lr": Learn("sgd", bounds=(0, 1))})) == {"lr"}
    assert learned(optdsl.load("adam")) == set()


@pytest.mark.parametrize("spec", SPECS)
def test_without_learning_there_is_nothing_of_it(spec: str) -> None:
    optimizer = plain(spec)(parameters())
    train(optimizer, range(3))
    keys = {k for state in optimizer.state.values() for k in state}
    assert not [k for k in keys if "tangent" in k]
    assert not [k for k in optimizer.param_groups[0] if "/" in k]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_learning_rate_of_zero_for_the_coefficients_changes_nothing_else(
    spec: str, order: str
) -> None:
    """Tangents beside the equations do not disturb them."""
    names = ["lr", "weight_decay"] + (["rho", "c", "beta3"] if spec == "mada_legacy" else [])
    top = {"lr": 10, "weight_decay": 10, "beta3": 0.9}
    still = {n: Learn("sgd", lr=0, bounds=(0, top.get(n, 1))) for n in names}
    # Compiled kernels collect factors otherwise where there are tangents, up to rounding.
    cls = optdsl.load(spec, order=order, learn=still, backend="eager")
    optimizer = cls(parameters(), lr=0.01)
    reference = plain(spec, "eager")(parameters(), lr=0.01)
    train(optimizer, range(6))
    train(reference, range(6))
    assert fingerprint(optimizer)["parameters"] == fingerprint(reference)["parameters"]
    assert optimizer.metrics()["hypergradient/lr"] != 0
    assert optimizer.metrics()["lr"] == 0.01


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["momentum", "dampening", "weight_decay", "lr"])
@pytest.mark.parametrize("options", [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}])
def test_every_hyperparameter_of_sgd_can_be_learned(
    name: str, options: dict[str, float], order: str
) -> None:
    """Even where its tangent is a plain zero in some steps, or for some values of the others."""
    cls = optdsl.load("sgd", order=order, learn={name: Learn("sgd", lr=1e-6, bounds=(0, 0.99))})
    optimizer = cls(parameters(), **options)
    train(optimizer, range(5))
    metrics = optimizer.metrics()
    assert all(map(math.isfinite, metrics.values()))
    if options:
        assert metrics[f"hypergradient/{name}"] != 0


@pytest.mark.parametrize("order", ORDERS)
def test_learning_the_rate_lowers_the_loss(order: str) -> None:
    """From a rate that is much too small."""
    learn = {"lr": Learn("adam", lr=0.02, bounds=(0, 0.4))}

    def final(cls: type[torch.optim.Optimizer]) -> float:
        optimizer = cls(parameters(), lr=1e-4)
        for _ in range(60):
            train(optimizer, [0])
        return loss(held(optimizer), 0).item()

    assert final(optdsl.load("sgd", order=order, learn=learn)) < 0.1 * final(plain("sgd"))


@pytest.mark.parametrize("spec", SPECS)
def test_repeated_runs_are_equal_to_the_bit(spec: str) -> None:
    first, second = learner(spec)(parameters()), learner(spec)(parameters())
    train(first, range(6))
    train(second, range(6))
    assert fingerprint(first) == fingerprint(second)
