"""The interpreter and the eager backend, on every specification of the library and tangents too."""

from __future__ import annotations

import functools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

import optdsl
from optdsl.differentiate import differentiate
from optdsl.ir.domain import Choice
from optdsl.ir.ops import DRAWS, OF_MATRICES, TABLE, TOTALS, UNCOMPILED
from optdsl.ir.program import Hyper, Program
from tests.oracles import every_operation, problems
from tests.oracles.every_operation import step_by_hand
from tests.oracles.rounding import Nudged, disagreement, everything, nudged, trajectory
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import Eager, Interpreter, read_spec, read_text
from tests.sampling import examples

pytestmark = pytest.mark.broad(8)

EVERY_OPERATION = "every_operation"
PROGRAMS = (*ELEMENTWISE, EVERY_OPERATION)


@functools.cache
def program(name: str) -> Program:
    """A specification with all tangents that it can have."""
    read = read_text(every_operation.TEXT) if name == EVERY_OPERATION else read_spec(name)
    return differentiate(read, problems.continuous(read))


@functools.cache
def eager(name: str) -> Eager:
    return Eager(program(name))


@functools.cache
def knobs(name: str) -> Nudged:
    return nudged(program(name))


# --- anything that a user may do ------------------------------------------------------------------

SHAPES = st.sampled_from([(), (1,), (0,), (3,), (2, 3), (2, 1, 2)])


def signed(low: float, high: float) -> st.SearchStrategy[float]:
    return st.tuples(st.floats(low, high), st.booleans()).map(lambda x: x[0] if x[1] else -x[0])


# Scales whose squares are numbers, nothing, or infinite, but not subnormal: there a power has no
# relative accuracy, and nothing can be said about what comes of it.
ELEMENTS = st.one_of(
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, 1e-310, -2.2e-308]),
    signed(1e-3, 1e3),
    signed(1e-90, 1e-60),
    signed(1e90, 1e140),
    signed(1e200, 1e308),
)
PARAMETERS = st.one_of(st.just(0.0), signed(1e-3, 1e3), signed(1e-90, 1e90))


def tensors(
    shape: tuple[int, ...], elements: st.SearchStrategy[float]
) -> st.SearchStrategy[Tensor]:
    size = math.prod(shape)
    return st.lists(elements, min_size=size, max_size=size).map(
        lambda values: torch.tensor(values, dtype=torch.float64).reshape(shape)
    )


def values(hyper: Hyper) -> st.SearchStrategy[float]:
    """Numbers that a hyperparameter may take: its default, its ends, and any between."""
    domain = hyper.domain
    if isinstance(domain, Choice):
        return st.sampled_from(domain.values)
    lower, upper = max(domain.lower, -1e3), min(domain.upper, 1e3)
    inside = st.floats(lower, upper, allow_subnormal=False).filter(lambda x: x in domain)
    ends = [x for x in (hyper.default, lower, upper) if x in domain]
    return st.one_of(st.sampled_from(ends), inside)


@st.composite
def cases(draw: st.DrawFn, name: str) -> tuple[Tensor, list[Tensor], dict[str, float]]:
    shape = draw(SHAPES)
    theta = draw(tensors(shape, PARAMETERS))
    gradients = draw(st.lists(tensors(shape, ELEMENTS), min_size=1, max_size=4))
    hypers = {h.name: draw(values(h)) for h in program(name).hypers}
    for simplex in program(name).simplexes:
        total = sum(hypers[h] for h in simplex.hypers)
        weights = {h: hypers[h] / total if total else float(h == simplex.hypers[0])
                   for h in simplex.hypers}  # fmt: skip
        hypers |= weights
    return theta, gradients, hypers


@pytest.mark.parametrize("name", PROGRAMS)
@examples(40)
@given(data=st.data())
def test_they_agree_on_anything(name: str, data: st.DataObject) -> None:
    theta, gradients, hypers = data.draw(cases(name))
    found = trajectory(eager(name), theta, gradients, hypers)
    expected = trajectory(Interpreter(program(name)), theta, gradients, hypers)

    def neighbours() -> list[list[dict[str, Tensor]]]:
        neighbour = Interpreter(knobs(name).program)
        return [
            trajectory(neighbour, theta, gradients, {**hypers, **pattern})
            for pattern in knobs(name).patterns()
        ]

    problem = disagreement(found, expected, neighbours)
    assert problem is None, problem


# --- ordinary problems, without an excuse ---------------------------------------------------------


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("seed", range(3))
def test_they_agree_closely_on_ordinary_problems(name: str, seed: int) -> None:
    """Where nothing is ill-conditioned, to a few units of the largest number around."""
    generator = problems.seeded(seed)
    theta = problems.randn(generator, 5, 4)
    gradients = [problems.randn(generator, 5, 4) for _ in range(20)]
    gradients[0][0] = 0.0
    hypers = problems.interior_hypers(program(name), generator)
    found = trajectory(eager(name), theta, gradients, hypers)
    expected = trajectory(Interpreter(program(name)), theta, gradients, hypers)
    for ours, theirs in zip(found, expected, strict=True):
        for key, value in theirs.items():
            assert torch.isfinite(value).all(), key
            scale = max(1.0, float(value.abs().max()))
            torch.testing.assert_close(ours[key], value, rtol=0.0, atol=1e-13 * scale)


@pytest.mark.parametrize("name", PROGRAMS)
def test_tangents_do_not_change_the_step(name: str) -> None:
    """The code is laid out differently when tangents share its values; it computes the same."""
    plain = Eager(replace(program(name), tangents=()))
    generator = problems.seeded(3)
    theta, g = problems.randn(generator, 4), problems.randn(generator, 4)
    hypers = problems.interior_hypers(program(name), generator)
    alone = trajectory(plain, theta, [g, 2 * g], hypers)
    together = trajectory(eager(name), theta, [g, 2 * g], hypers)
    for left, right in zip(alone, together, strict=True):
        assert all(torch.equal(right[key], value) for key, value in left.items())


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_layout_is_not_a_value(name: str) -> None:
    """Transposed and strided tensors give what contiguous ones give."""
    generator = problems.seeded(4)
    theta, g = problems.randn(generator, 3, 4), problems.randn(generator, 3, 4)
    hypers = problems.interior_hypers(program(name), generator)
    expected = trajectory(Interpreter(program(name)), theta, [g, -g], hypers)
    other = theta.t().contiguous().t(), torch.stack([g, g], dim=-1)[..., 0]
    assert not any(x.is_contiguous() for x in other)
    found = trajectory(eager(name), other[0], [other[1], -other[1]], hypers)
    for ours, theirs in zip(found, expected, strict=True):
        for key, value in theirs.items():
            torch.testing.assert_close(ours[key], value, rtol=1e-13, atol=1e-13)


BRANCHES = """\
optimizer Branches
hyper lr = 0.1 in (0, inf)
hyper keep = 0.5 in [0, 1]

state k : scalar = where(lr > 1, 2, norm(g))
state m          = where(lr > 1, 2, g)

k'     = where(t == 1, 3, norm(g))
u      = where(t == 1, 4, abs(g))
w      = where(t <= 2, norm(g), keep * theta)
m'     = where(t == 3, keep, m + sum(u))
theta' = where(t == 4, k', theta - lr * (sqrt(u) + w / k' + m'))
"""


def test_a_branch_has_the_type_of_the_whole() -> None:
    """A host condition may choose a number where the other branch is a tensor."""
    read = read_text(BRANCHES)
    derived = differentiate(read, ["lr", "keep"])
    generator = problems.seeded(8)
    theta = problems.randn(generator, 2, 3)
    gradients = [problems.randn(generator, 2, 3) for _ in range(5)]
    for lr in (0.1, 1.5):
        hypers = {"lr": lr, "keep": 0.5}
        started = Eager(derived).start(theta, gradients[0], hypers)
        for key, value in Interpreter(derived).start(theta, gradients[0], hypers).items():
            torch.testing.assert_close(started[key], value, rtol=1e-14, atol=0.0)
        found = trajectory(Eager(derived), theta, gradients, hypers)
        expected = trajectory(Interpreter(derived), theta, gradients, hypers)
        for ours, theirs in zip(found, expected, strict=True):
            for key, value in theirs.items():
                torch.testing.assert_close(ours[key], value, rtol=1e-13, atol=1e-13)


# --- every operation ------------------------------------------------------------------------------


def test_the_rule_with_every_operation_has_every_operation() -> None:
    used = {operation.opcode for operation in program(EVERY_OPERATION).operations}
    # A mean is made by blends only.
    mixed = {operation.opcode for operation in program("memory").operations}
    # Those of matrices have tests of their own.
    assert used | (mixed & {"mix"}) == set(TABLE) - OF_MATRICES - TOTALS - DRAWS - UNCOMPILED


@pytest.mark.parametrize("mode", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("shape", [(), (1,), (7,), (3, 4)])
def test_every_operation_means_what_it_says(shape: tuple[int, ...], mode: float) -> None:
    generator = problems.seeded(5)
    by_default = {h.name: h.default for h in program(EVERY_OPERATION).hypers}
    hypers = {**by_default, "mode": mode}
    theta = problems.randn(generator, *shape)
    g = problems.randn(generator, *shape)
    state = {
        "m": torch.zeros_like(theta),
        "start": theta / 2,
        "k": torch.tensor(0.0, dtype=torch.float64),
        "peak": (g * g).sum().sqrt() * hypers["rate"],
    }
    for runner in (Interpreter(program(EVERY_OPERATION)), eager(EVERY_OPERATION)):
        for key, value in runner.start(theta, g, hypers).items():
            torch.testing.assert_close(value, state[key], rtol=1e-14, atol=0.0)
    for t in range(1, 6):
        after, new = step_by_hand(theta, g, state, hypers, t)
        for runner in (Interpreter(program(EVERY_OPERATION)), eager(EVERY_OPERATION)):
            results = everything(runner.step(theta, g, state, hypers, t))
            for key, value in {"theta": after, **new}.items():
                torch.testing.assert_close(results[key], value, rtol=1e-12, atol=1e-13)
        theta, state, g = after, new, problems.randn(generator, *shape)


def test_every_operation_compiles_to_an_optimizer() -> None:
    """`optdsl.compile` and a plain training step, scalar states included."""
    cls = optdsl.compile(every_operation.TEXT, backend="eager")
    generator = problems.seeded(6)
    parameter = problems.randn(generator, 2, 3).requires_grad_()
    optimizer = cls([parameter], lr=0.05)
    hypers = {h.name: h.default for h in program(EVERY_OPERATION).hypers} | {"lr": 0.05}
    theta, state = parameter.detach().clone(), dict[str, Tensor]()
    for t in range(1, 6):
        g = problems.randn(generator, 2, 3)
        interpreter = Interpreter(program(EVERY_OPERATION))
        state = state or interpreter.start(theta, g, hypers)
        after = interpreter.step(theta, g, state, hypers, t)
        theta, state = after.parameter, after.state
        parameter.grad = g
        optimizer.step()
        torch.testing.assert_close(parameter.detach(), theta, rtol=1e-12, atol=1e-13)
        assert optimizer.state[parameter]["k"].shape == ()
