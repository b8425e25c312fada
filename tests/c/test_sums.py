"""Hyper-gradients of C: the same from run to run, for any threads, and however a model is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import pytest
import torch
from torch import Tensor, nn

from tests.oracles import problems
from tests.oracles.by_interpreter import ByInterpreter

from . import rules

pytestmark = pytest.mark.broad(3)

# A prime number of elements: nothing divides it.
SIZE = 100_003
CUTS = {
    "one tensor": [SIZE],
    "blocks": [8192] * 12 + [SIZE - 12 * 8192],
    "odd pieces": [1, 8191, 8193, 255, 257, 40_000, SIZE - 56_897],
    "many": [997] * 100 + [303],
    "the other way": [SIZE - 7, 0, 7],
}
STEPS = 4


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    usual = torch.get_num_threads()
    yield
    torch.set_num_threads(usual)


def numbers(steps: int) -> tuple[Tensor, list[Tensor]]:
    """A model, and gradients that are large in places."""
    generator = problems.seeded(5)
    scale = 10 ** (-3 * problems.rand(generator, SIZE))
    return problems.randn(generator, SIZE), [
        scale * problems.randn(generator, SIZE) for _ in range(steps)
    ]


def trained(
    rule: str, order: str, dtype: torch.dtype, sizes: Sequence[int]
) -> tuple[list[dict[str, float]], Tensor]:
    """The hyper-gradients of each step, and the parameters after the last."""
    cls = rules.load(rule, backend="c", order=order, learn=rules.learning(rule))
    start, gradients = numbers(STEPS)
    held = [nn.Parameter(x.clone()) for x in start.to(dtype).split(list(sizes))]
    optimizer = cls(held, **problems.interior_hypers(rules.read(rule), problems.seeded(6)))
    found = []
    for gradient in gradients:
        for parameter, g in zip(held, gradient.to(dtype).split(list(sizes)), strict=True):
            parameter.grad = g.clone()
        optimizer.step()
        metrics = optimizer.metrics()
        found.append({h: metrics[f"hypergradient/{h}"] for h in rules.learnable(rule)})
    return found, torch.cat([p.detach() for p in held])


# Elements of bfloat16 differ in how they are loaded and stored, in both orders alike.
@pytest.mark.parametrize(
    ("dtype", "order"),
    [
        (torch.float32, "overlapped"),
        (torch.float32, "exact"),
        (torch.float64, "overlapped"),
        (torch.float64, "exact"),
        (torch.bfloat16, "overlapped"),
    ],
    ids=str,
)
@pytest.mark.parametrize("rule", ["mada", "adam_avgrad", "lamb", "every_operation"])
def test_runs_and_threads_give_the_same_bits(rule: str, dtype: torch.dtype, order: str) -> None:
    runs = []
    for threads in (1, 2, 2, 3):
        torch.set_num_threads(threads)
        runs.append(trained(rule, order, dtype, CUTS["odd pieces"]))
    (found, theta), others = runs[0], runs[1:]
    assert all(any(sums.values()) for sums in found[2:])
    for again, other in others:
        assert again == found
        assert torch.equal(other, theta)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("order", rules.ORDERS)
@pytest.mark.parametrize("rule", ["mada", "adam_avgrad"])
def test_a_model_may_be_cut_in_any_way(rule: str, order: str, dtype: torch.dtype) -> None:
    """The sums agree to 1e-12 of their magnitudes in float64.

    In float32, where products are added up in single precision within a chunk, they agree to what
    rounding may make of the tangents.
    """
    torch.set_num_threads(2)
    start, gradients = numbers(STEPS)
    unit = 0.0 if dtype is torch.float64 else 2.0**-24
    reference = ByInterpreter(rules.differentiated(rule), [start.to(dtype).double()], unit)
    hypers = problems.interior_hypers(rules.read(rule), problems.seeded(6))
    sizes = [reference.step([g.to(dtype)], [hypers]) for g in gradients]
    found = {name: trained(rule, order, dtype, cut) for name, cut in CUTS.items()}
    for (one, a), (other, b) in itertools.combinations(found.values(), 2):
        for left, right, size in zip(one[1:], other[1:], sizes[1:], strict=True):
            for hyper, value in left.items():
                magnitude = size[hyper].size + 1e-7 * size[hyper].weight
                allowed = 1e-12 * magnitude + size[hyper].radius
                assert abs(value - right[hyper]) <= allowed, hyper
        torch.testing.assert_close(a, b, rtol=4 * torch.finfo(dtype).eps, atol=0.0)


def test_sums_are_kept_in_double_precision() -> None:
    """A million of ones and a small number: float32 would not see it."""
    size = 2**20 + 1
    held = nn.Parameter(torch.zeros(size))
    text = "optimizer Sum\nhyper w = 1 in [-9, 9]\nstate m = 0\nm' = g\ntheta' = theta + w * m'\n"
    learn = {"w": rules.Learn("sgd", after=10**9)}
    optimizer = rules.optdsl.compile(text, backend="c", learn=learn)([held])
    gradient = torch.ones(size)
    gradient[-1] = 2.0**-12
    for _ in range(2):
        held.grad = gradient
        optimizer.step()
    assert optimizer.metrics()["hypergradient/w"] == 2**20 + 2.0**-24


@pytest.mark.parametrize("size", [31, 128, 8192 + 77, SIZE])
def test_the_error_of_sums_is_that_of_thirty_two_products(size: int) -> None:
    """Lanes of at most 32 products in single precision, and their sums in double precision."""
    generator = problems.seeded(8)
    held = nn.Parameter(torch.zeros(size))
    text = "optimizer Sum\nhyper w = 1 in [-9, 9]\nstate m = 0\nm' = g\ntheta' = theta + w * m'\n"
    learn = {"w": rules.Learn("sgd", after=10**9)}
    optimizer = rules.optdsl.compile(text, backend="c", learn=learn)([held])
    old = new = torch.zeros(size)
    for _ in range(2):
        # Of one sign, so that no errors cancel, and of very different sizes.
        scale = 10 ** (-6 * problems.rand(generator, size))
        old, new = new, (scale * problems.rand(generator, size)).float()
        held.grad = new
        optimizer.step()
    exact = float((old.double() * new.double()).sum())
    error = abs(optimizer.metrics()["hypergradient/w"] - exact)
    assert error <= (32 + 1) * 2.0**-24 * exact


@pytest.mark.parametrize("other", [1, 8, 16, 32])
def test_a_sum_that_exceeds_single_precision_is_made_in_double(other: int) -> None:
    """Each product does not; in which lanes they are depends on the width of vectors."""
    held = nn.Parameter(torch.zeros(256))
    text = "optimizer Sum\nhyper w = 1 in [-9, 9]\nstate m = 0\nm' = g\ntheta' = theta + w * m'\n"
    learn = {"w": rules.Learn("sgd", after=10**9)}
    optimizer = rules.optdsl.compile(text, backend="c", learn=learn)([held])
    gradient = torch.zeros(256)
    gradient[0] = gradient[other] = 1.5 * 2.0**63
    for _ in range(2):
        held.grad = gradient
        optimizer.step()
    assert optimizer.metrics()["hypergradient/w"] == 2 * (1.5 * 2.0**63) ** 2


def test_initial_values_do_not_depend_on_threads() -> None:
    text = "optimizer Own\nstate k : scalar = sum(g)\nk' = k\ntheta' = theta - k\n"
    cls = rules.optdsl.compile(text, backend="c")
    gradient = problems.randn(problems.seeded(0), 60_000).float()
    found = set()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        parameter = nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        optimizer = cls([parameter])
        optimizer.step()
        found.add(float(optimizer.state[parameter]["k"]))
    assert len(found) == 1
