"""How a learned weight vector moves, with hyper-gradients that the tests dictate."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn

from .helpers import ORDERS, SPECS, fingerprint, parameters, plain, train
from .weights import LABELS, Probe, differences, exponentials, gradient, mix, named, nearest, vector

pytestmark = pytest.mark.broad(8)

GEOMETRIES = (False, True)
UNIFORM = [1 / 3] * 3
HYPERGRADIENTS = (
    (1.0, -0.5, 0.25),
    (2.0, 0.0, -1.5),
    (-3.5, 4.0, 1e-3),
    (0.25, 0.75, 0.5),
    (-1.0, -1.0, -1.0),
    (0.5, 0.125, 2.0),
)


def sums(steps: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(w) for w in steps]


def test_the_vector_is_projected_as_a_whole() -> None:
    """Each weight by its own hyper-gradient, then all to the nearest point of the simplex."""
    probe = Probe(Learn("sgd", lr=0.25), [0.5, 0.25, 0.25])
    # The rule goes to (0, 0.25, 0.5), which lacks a quarter: a twelfth each.
    assert probe.feed([(2.0, 0.0, -1.0)])[0] == pytest.approx([1 / 12, 1 / 3, 7 / 12], rel=1e-15)
    # To (-0.4166.., 0.3333.., 1.0833..): the first is cut off, the excess is shared by the others.
    assert probe.step(2.0, 0.0, -2.0) == pytest.approx([0.0, 0.125, 0.875], rel=1e-15)
    assert probe.hypergradients == [2.0, 0.0, -2.0]


def test_the_vector_moves_by_the_exponentiated_gradient() -> None:
    probe = Probe(Learn("sgd", lr=0.5, exponentiated=True), [0.5, 0.25, 0.25])
    found = probe.feed([(2 * math.log(2), 0.0, 0.0), (0.0, 0.0, -2 * math.log(4))])
    assert found[0] == pytest.approx(UNIFORM, rel=1e-14)
    assert found[1] == pytest.approx([1 / 6, 1 / 6, 4 / 6], rel=1e-14)


@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_hypergradients_that_are_equal_move_nothing(exponentiated: bool) -> None:
    """Only their differences matter on a simplex, to every rule."""
    probe = Probe(Learn("sgd", lr=0.125, exponentiated=exponentiated), [0.5, 0.25, 0.25])
    assert probe.feed([(2.0, 2.0, 2.0)] * 3)[-1] == pytest.approx([0.5, 0.25, 0.25], rel=1e-14)
    other = Probe(Learn("sgd", lr=0.125, exponentiated=exponentiated), [0.5, 0.25, 0.25])
    shifted = [tuple(h + 8.0 for h in hs) for hs in HYPERGRADIENTS[:2]]
    for mine, theirs in zip(probe.feed(HYPERGRADIENTS[:2]), other.feed(shifted), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_metrics(exponentiated: bool, order: str) -> None:
    probe = Probe(Learn("sgd", lr=0.1, clip=0.5, exponentiated=exponentiated), order=order)
    probe.step(1.0, 2.0, 3.0)  # the first step has no tangent to multiply it with
    assert probe.weights == UNIFORM
    probe.step(7.0, -8.0, 0.25)
    expected = named(probe.weights) | {
        "hypergradient/w_fast": 7.0,
        "hypergradient/w_slow": -8.0,
        "hypergradient/w_flat": 0.25,
    }
    assert probe.optimizer.metrics() == expected


@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_the_clip_limits_every_difference(exponentiated: bool) -> None:
    clipped = Probe(Learn("sgd", lr=0.1, clip=1.0, exponentiated=exponentiated))
    free = Probe(Learn("sgd", lr=0.1, exponentiated=exponentiated))
    found = clipped.feed(HYPERGRADIENTS)
    # Two that differ by less than the clip from their mean, and one that does not.
    limited = [[min(max(h, -1.0), 1.0) for h in differences(hs)] for hs in HYPERGRADIENTS]
    # A rule that is linear, without momentum, forgets what all have in common.
    for mine, theirs in zip(found, free.feed(limited), strict=True):
        assert mine == pytest.approx(theirs, rel=1e-12)
    assert clipped.weights != UNIFORM
    # A common part does not use the clip up.
    far = Probe(Learn("sgd", lr=0.1, clip=1.0, exponentiated=exponentiated))
    shifted = [[h + 64.0 for h in hs] for hs in HYPERGRADIENTS]
    for mine, theirs in zip(far.feed(shifted), found, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("order", ORDERS)
def test_when_a_vector_acts(order: str) -> None:
    """At once in the exact order, from the next step on in the overlapped one."""
    probe = Probe(Learn("sgd", lr=1.0), [0.5, 0.25, 0.25], order)
    probe.feed([(-1.0, 1.0, 1.0)])
    assert probe.weights == [1.0, 0.0, 0.0]
    moved = (probe.parameter.detach() - torch.arange(3)).tolist()
    assert moved == ([6.0, 1.0, 1.0] if order == "exact" else [4.0, 2.0, 2.0])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
@pytest.mark.parametrize("after", [0, 1, 3])
def test_the_first_steps_leave_the_vector(after: int, exponentiated: bool, order: str) -> None:
    """And nothing of them is remembered: what follows is as from a new start."""
    learn = Learn("sgd", lr=0.1, momentum=0.9, after=after, exponentiated=exponentiated)
    probe = Probe(learn, order=order)
    seen = [probe.step(*h) for h in HYPERGRADIENTS]
    idle = max(after, 1)
    assert seen[:idle] == [UNIFORM] * idle
    fresh = Probe(Learn("sgd", lr=0.1, momentum=0.9, exponentiated=exponentiated), order=order)
    assert seen[idle:] == fresh.feed(HYPERGRADIENTS[idle:])
    assert seen[-1] != UNIFORM


# --- corners ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", LABELS)
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_a_corner_can_be_left(exponentiated: bool, start: str) -> None:
    """For the corner that is better, and all the way."""
    probe = Probe(Learn("sgd", lr=0.25, exponentiated=exponentiated), start=start)
    assert sorted(probe.weights) == [0.0, 0.0, 1.0]
    better = (LABELS.index(start) + 1) % 3
    slopes = [-1.0 if i == better else 1.0 for i in range(3)]
    found = probe.feed([slopes] * 40)
    grown = [w[better] for w in found]
    assert grown == sorted(grown)
    assert 0 < grown[0] < 0.6
    assert grown[-1] > 0.999
    assert sums(found) == pytest.approx([1.0] * 40, rel=1e-15)


def test_projection_leaves_a_corner_only_where_it_gains() -> None:
    probe = Probe(Learn("sgd", lr=0.25), start="fast")
    assert probe.feed([(-1.0, 0.0, 2.0)]) == [[1.0, 0.0, 0.0]]
    assert probe.step(1.0, -1.0, 2.0) == [0.75, 0.25, 0.0]


def test_the_floor_lets_a_weight_return() -> None:
    """It took a thousand steps down, which would be as many up again."""
    probe = Probe(Learn("sgd", lr=1.0, exponentiated=True))
    low = probe.feed([(1.0, 0.0, 0.0)] * 1000)[-1][0]
    assert low == pytest.approx(1e-4 / math.e, rel=1e-3)
    back = [probe.step(-1.0, 0.0, 0.0)[0] for _ in range(12)]
    assert back[-1] > 0.5
    # From the floor, not from the 1e-4/e where it was: (1e-4 e) against the rest.
    assert back[0] == pytest.approx(1e-4 * math.e, rel=1e-3)


# --- what is not finite -------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf], ids=str)
@pytest.mark.parametrize("at", range(3))
@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_one_bad_hypergradient_keeps_the_whole_vector(
    exponentiated: bool, at: int, bad: float
) -> None:
    """What is remembered is as if the bad step had not been."""
    learn = Learn("adam", lr=0.05, clip=10, exponentiated=exponentiated)
    sick, sane = Probe(learn), Probe(learn)
    sane.feed(HYPERGRADIENTS[:2])
    kept = sick.feed(HYPERGRADIENTS[:2])[-1]
    slopes = [bad if i == at else 1.0 for i in range(3)]
    assert sick.step(*slopes) == kept == sane.weights
    measured = [bad] * 3 if math.isnan(bad) else slopes
    assert list(map(repr, sick.hypergradients)) == list(map(repr, measured))
    assert sick.entries() == sane.entries()
    # The probe's tangent does not depend on what theta became.
    assert sick.step(*HYPERGRADIENTS[2]) == sane.step(*HYPERGRADIENTS[2]) != kept
    assert sick.entries() == sane.entries()


@pytest.mark.parametrize("exponentiated", GEOMETRIES)
def test_a_rule_that_overflows_for_one_weight_moves_none(exponentiated: bool) -> None:
    """The square of such a number is infinite."""
    probe = Probe(Learn("adam", lr=0.05, exponentiated=exponentiated))
    kept, entries = probe.feed(HYPERGRADIENTS[:1])[-1], probe.entries()
    assert probe.step(1e200, 1.0, -1.0) == kept
    assert probe.hypergradients == [1e200, 1.0, -1.0]
    assert probe.entries() == entries
    assert probe.step(1.0, 1.0, -1.0) != kept


def test_a_vector_waits_for_all_its_hypergradients() -> None:
    """A loaded state may lack the tangent by one of the weights."""
    probe = Probe(Learn("sgd", lr=0.1), backend="eager")
    probe.step(0.0, 0.0, 0.0)
    del probe.optimizer.state[probe.parameter]["tangent/w_flat"]
    assert probe.step(1.0, -1.0, 2.0) == UNIFORM
    assert probe.hypergradients == [1.0, -1.0, 0.0]
    assert probe.step(1.0, -1.0, 2.0) != UNIFORM


def test_a_bad_vector_does_not_keep_other_coefficients() -> None:
    """Blocks are independent: here a rate beside two vectors, one of which is bad."""
    text = """\
optimizer Own
hyper c = 0.5 in [0, 1]
hyper u = uniform on simplex(one, two)
hyper v = uniform on simplex(one, two)
state x = theta
x' = x
theta' = (theta + c * where(x == 0, 4, 0) + u.one * where(x == 1, 4, 0)
  + v.one * where(x == 2, 4, 0) + (u.two + v.two) * where(x == 3, 4, 0))
"""
    sgd = Learn("sgd", lr=0.25)
    learn = {"u": sgd, "c": sgd, "v": Learn("sgd", lr=1.0, exponentiated=True)}
    parameter = nn.Parameter(torch.arange(4, dtype=torch.float64))
    optimizer = optdsl.compile(text, learn=learn)([parameter])
    for hypergradients in ([0.0] * 4, [1.0, math.inf, math.log(3), 0.0]):
        parameter.grad = gradient(hypergradients)
        optimizer.step()
    metrics = optimizer.metrics()
    assert [metrics["u_one"], metrics["u_two"], metrics["c"]] == [0.5, 0.5, 0.25]
    assert [metrics["v_one"], metrics["v_two"]] == pytest.approx([0.25, 0.75], rel=1e-14)


def test_a_learning_rate_of_zero_leaves_the_vector_to_the_bit() -> None:
    start = [0.1, 0.2, 0.7]
    assert Probe(Learn("sgd", lr=0.0), start).feed(HYPERGRADIENTS) == [start] * 6
    # Compiled kernels round otherwise where there are tangents.
    still, fixed = mix(Learn("sgd", lr=0.0), backend="eager"), mix(learn=False, backend="eager")
    optimizers = [still(parameters()), fixed(parameters())]
    for optimizer in optimizers:
        train(optimizer, range(5))
    assert fingerprint(optimizers[0])["parameters"] == fingerprint(optimizers[1])["parameters"]
    assert set(vector(optimizers[0])) == {1 / 3}


# --- any rule -----------------------------------------------------------------------------------


@pytest.mark.parametrize("exponentiated", GEOMETRIES)
@pytest.mark.parametrize("rule", SPECS)
def test_any_rule_can_move_a_vector(rule: str, exponentiated: bool) -> None:
    """As it moves three parameters, which are put back on the simplex after each step."""
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    probe = Probe(Learn(rule, exponentiated=exponentiated, **options), [0.5, 0.3, 0.2])
    found = probe.feed(HYPERGRADIENTS)
    params = [nn.Parameter(torch.full((1,), w, dtype=torch.float64)) for w in (0.5, 0.3, 0.2)]
    optimizer = plain(rule)(params, **options)
    weights = [0.5, 0.3, 0.2]
    for slopes, mine in zip(HYPERGRADIENTS, found, strict=True):
        for parameter, weight, slope in zip(params, weights, differences(slopes), strict=True):
            parameter.grad = torch.full((1,), slope, dtype=torch.float64)
            value = math.log(max(weight, 1e-4)) if exponentiated else weight
            parameter.data.fill_(value)
        optimizer.step()
        moved = [p.item() for p in params]
        weights = exponentials(moved) if exponentiated else list(map(float, nearest(moved)))
        assert mine == pytest.approx(weights, rel=1e-11, abs=1e-15)
    assert len(set(map(tuple, found))) > 3
