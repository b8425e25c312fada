"""A coefficient's rule follows the hyper-gradient, its sign, or a cosine."""

import math

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from optdsl.compiler import emit
from optdsl.options import OptionError
from optdsl.specifications import library

from .helpers import ORDERS, Probe, held, parameters, resumed, train
from .weights import mix

pytestmark = pytest.mark.broad(8)

# The tangent is the gradient, so that each step's hyper-gradient is the product with the last one.
OWN = "optimizer Own\nhyper w = 0.5 in [-100, 100]\ntheta' = theta + w * g\n"


class Recorded:
    """Parameters whose tangents and gradients a test dictates."""

    def __init__(self, order: str, shapes: list[tuple[int, ...]], dtype: torch.dtype) -> None:
        learn = {"w": Learn("sgd", lr=1.0, signal="cosine")}
        self.parameters = parameters(dtype, shapes)
        self.optimizer = optdsl.compile(OWN, order=order, learn=learn)(self.parameters)

    def step(self, *gradients: Tensor | None) -> float:
        """How far the coefficient went, which is what its rule was given."""
        before = self.optimizer.metrics()["w"]
        for p, g in zip(self.parameters, gradients, strict=True):
            p.grad = None if g is None else g.to(p.dtype)
        self.optimizer.step()
        return before - self.optimizer.metrics()["w"]


def cosine(first: list[Tensor], second: list[Tensor]) -> float:
    """The cosine of two vectors that come in pieces."""
    x, y = (torch.cat([t.reshape(-1).double() for t in ts]) for ts in (first, second))
    return float(x @ y / (torch.linalg.vector_norm(x) * torch.linalg.vector_norm(y)))


@pytest.mark.parametrize("order", ORDERS)
def test_a_sign_is_the_hypergradients(order: str) -> None:
    """The one that is recorded is as measured; zero and what is not finite move nothing."""
    probe = Probe(Learn("sgd", lr=0.25, signal="sign"), order)
    fed = [3.0, -1e-30, 0.0, -1e30, math.nan, math.inf, 2.0, 5e-324]
    assert probe.feed(fed[:1]) == [0.25]
    assert probe.hypergradient == 3.0
    assert [probe.step(h) for h in fed[1:]] == [0.5, 0.5, 0.75, 0.75, 0.75, 0.5, 0.25]
    assert probe.hypergradient == 5e-324


def test_the_clip_is_of_the_sign() -> None:
    probe = Probe(Learn("sgd", lr=1.0, signal="sign", clip=0.125))
    assert probe.feed([7.0, 0.01]) == [0.375, 0.25]


def test_the_rule_runs_on_the_signs() -> None:
    """Momentum adds up signs."""
    probe = Probe(Learn("sgd", lr=0.125, momentum=0.5, signal="sign"))
    assert probe.feed([10.0, 0.1, -9.0]) == [0.375, 0.1875, 0.21875]


def test_scaling_the_loss_leaves_sign_and_cosine_alone() -> None:
    for signal in ("sign", "cosine"):
        found = []
        for scale in (1.0, 2.0**-20, 2.0**30):
            learn = {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1), signal=signal)}
            params = parameters()
            optimizer = optdsl.load("lion", order="exact", learn=learn)(params, lr=0.1)
            for step in range(6):  # five signs, which cannot cancel
                generator = torch.Generator().manual_seed(step)
                for p in params:
                    drawn = torch.randn(p.shape, generator=generator, dtype=torch.float64)
                    p.grad = drawn * scale
                optimizer.step()
            found.append(optimizer.metrics()["lr"])
        assert found[0] != 0.1
        assert found[1:] == pytest.approx([found[0]] * 2, rel=1e-12), signal


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("order", ORDERS)
def test_a_cosine_is_over_all_tensors_that_have_both(order: str, dtype: torch.dtype) -> None:
    recorded = Recorded(order, [(3,), (2, 2)], dtype)
    generator = torch.Generator().manual_seed(5)
    a, b, c, d = (
        [torch.randn(s, generator=generator).to(dtype) for s in ((3,), (2, 2))] for _ in range(4)
    )
    exact = 1e-12  # float32 tangents of these gradients are the gradients themselves
    assert recorded.step(*a) == 0
    assert recorded.step(*b) == pytest.approx(cosine(a, b), rel=exact)
    assert recorded.step(c[0], None) == pytest.approx(cosine(b[:1], c[:1]), rel=exact)
    assert recorded.step(None, None) == 0
    # The second tensor's tangent is still that of its last step.
    assert recorded.step(*d) == pytest.approx(cosine([c[0], b[1]], d), rel=exact)


@pytest.mark.parametrize("order", ORDERS)
def test_a_cosine_without_a_gradient_or_a_tangent_is_zero(order: str) -> None:
    recorded = Recorded(order, [(2,)], torch.float64)
    one, zero = torch.tensor([3.0, 4.0]), torch.zeros(2)
    assert [recorded.step(g) for g in (one, one, zero, one, one)] == [0, 1, 0, 0, 1]
    assert recorded.step(-one) == -1


@pytest.mark.parametrize("size", [1e-150, 1e-30, 1e140])
def test_a_cosine_of_extreme_lengths(size: float) -> None:
    """Squares of these may leave the range of floats, their cosine does not."""
    recorded = Recorded("exact", [(2,)], torch.float64)
    recorded.step(torch.tensor([1.0, 0.0], dtype=torch.float64) * size)
    slope = recorded.step(torch.tensor([1.0, 1.0], dtype=torch.float64) * size)
    assert slope == pytest.approx(math.sqrt(0.5), rel=1e-12)


def test_a_cosine_is_measured_apart_from_other_signals() -> None:
    how = {"lr": 1e-3, "bounds": (0, 1)}
    both = {"lr": Learn("sgd", signal="cosine", **how), "weight_decay": Learn("sgd", **how)}
    mixed = optdsl.load("adamw", learn=both)(parameters(), lr=0.1)
    raw = optdsl.load("adamw", learn={**both, "lr": Learn("sgd", **how | {"lr": 0.0})})(
        parameters(), lr=0.1
    )
    train(mixed, [0, 1])
    train(raw, [0, 1])
    for name in ("hypergradient/lr", "hypergradient/weight_decay", "weight_decay"):
        assert mixed.metrics()[name] == pytest.approx(raw.metrics()[name], rel=1e-12), name
    assert 0 < abs(mixed.metrics()["lr"] - 0.1) <= 1e-3


@pytest.mark.parametrize("signal", ["sign", "cosine"])
def test_weights_follow_the_signal_of_their_differences(signal: str) -> None:
    """What all have in common moves nothing, as with raw hyper-gradients."""
    optimizer = mix(Learn("sgd", lr=0.05, signal=signal))(parameters())
    train(optimizer, range(6))
    group = optimizer.param_groups[0]
    weights = [group[f"w_{label}"] for label in ("fast", "slow", "flat")]
    assert sum(weights) == pytest.approx(1, abs=1e-12)
    assert len(set(weights)) > 1


def test_weights_move_by_the_signs_of_differences() -> None:
    """One step from the middle: with signs (1, -1, -1), to the nearest point of the simplex."""
    optimizer = mix(Learn("sgd", lr=0.03, signal="sign"))(parameters())
    train(optimizer, [0, 1])
    metrics = optimizer.metrics()
    slopes = [metrics[f"hypergradient/w_{x}"] for x in ("fast", "slow", "flat")]
    mean = sum(slopes) / 3
    moved = [1 / 3 - 0.03 * math.copysign(1, h - mean) for h in slopes]
    excess = (sum(moved) - 1) / 3
    expected = [x - excess for x in moved]
    assert [metrics[f"w_{x}"] for x in ("fast", "slow", "flat")] == pytest.approx(expected)


def test_compiled_kernels_refuse_a_cosine_and_auto_runs_without_them() -> None:
    learn = {"lr": Learn("sgd", bounds=(0, 1), signal="cosine")}
    with pytest.raises(OptionError, match='lr is learned by its cosine, which backend="c"'):
        optdsl.load("adam", backend="c", learn=learn)
    with pytest.raises(OptionError, match="by its cosine"):
        emit(library.open_source("adam"), "c", learn)
    cls = optdsl.load("adam", learn=learn)
    optimizer = cls([nn.Parameter(torch.ones(2))])
    train(optimizer, [0])
    assert "tangent/lr" in optimizer.state[held(optimizer)[0]]


def test_a_cosine_takes_up_what_compiled_kernels_left_pending() -> None:
    """The state of an optimizer that learned otherwise goes on, its pending step included."""
    how = {"lr": 0.0, "bounds": (0, 1)}
    compiled = optdsl.load("adam", backend="c", learn={"lr": Learn("sgd", **how)})(parameters())
    eager = optdsl.load("adam", backend="eager", learn={"lr": Learn("sgd", **how)})(parameters())
    moving = {"lr": Learn("sgd", signal="cosine", **how | {"lr": 1e-4})}
    found = []
    for optimizer in (compiled, eager):
        train(optimizer, range(3))
        new = resumed(optdsl.load("adam", learn=moving), optimizer)
        train(new, [3])
        found.append(new.metrics()["lr"])
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] != 1e-3


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("signal", ["sign", "cosine"])
def test_a_resumed_run_goes_on(signal: str, order: str) -> None:
    learn = {"lr": Learn("adam", lr=1e-3, bounds=(0, 1), signal=signal)}
    cls = optdsl.load("adam", order=order, learn=learn)
    unbroken = cls(parameters())
    train(unbroken, range(4))
    new = resumed(cls, unbroken)
    for optimizer in (unbroken, new):
        train(optimizer, range(4, 8))
    assert new.metrics() == unbroken.metrics()
    assert new.metrics()["lr"] != 1e-3


def test_a_signal_is_one_of_four() -> None:
    with pytest.raises(OptionError, match="'raw', 'sign', 'cosine' or 'normalized'"):
        Learn("sgd", signal="angle")
