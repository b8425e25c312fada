"""Tensors of a step that share memory: every engine takes the step that reads before it writes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

import optdsl
from optdsl.runtime.engines import overlaps
from tests.c import rules

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

INTERIOR = {"c": 0.9, "rho": 0.8, "kappa": 0.1, "gamma": 0.7}
SIZE = 300
Setting = Callable[[Tensor], list[tuple[Tensor, Callable[[], Tensor]]]]


def numbers(dtype: torch.dtype, count: int = 2 * SIZE) -> Tensor:
    return torch.linspace(-1, 1, count, dtype=dtype).sin()


def own(memory: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """The gradient is the parameter."""
    return [(memory, lambda: memory)]


def shifted(memory: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """The gradient begins in the middle of the parameter."""
    return [(memory[:SIZE], lambda: memory[SIZE // 2 : SIZE // 2 + SIZE])]


def crossed(memory: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Each of two parameters is the gradient of the other one."""
    first, second = memory[:SIZE], memory[SIZE:]
    return [(first, lambda: second), (second, lambda: first)]


def shared(memory: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Two parameters have one gradient, which is nobody's parameter."""
    gradient = memory[:SIZE].cos()
    return [(memory[:SIZE], lambda: gradient), (memory[SIZE:], lambda: gradient)]


def strided(memory: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Parameter and gradient are the columns of one matrix."""
    matrix = memory.view(SIZE, 2)
    return [(matrix[:, 0], lambda: matrix[:, 1])]


def tied(memory: Tensor) -> list[tuple[Tensor, Callable[[], Tensor]]]:
    """Two parameters lie in one memory, the second one further on."""
    return [
        (memory[:SIZE], lambda: torch.ones(SIZE, dtype=memory.dtype)),
        (memory[SIZE // 3 : SIZE], lambda: -2 * torch.ones(SIZE - SIZE // 3, dtype=memory.dtype)),
    ]


def run(
    cls: type[CompiledOptimizer], setting: Setting, dtype: torch.dtype, **hypers: float
) -> tuple[Tensor, dict[str, float]]:
    memory = numbers(dtype)
    pairs = setting(memory)
    held = [nn.Parameter(x) for x, _ in pairs]
    optimizer = cls(held, **hypers)
    for _ in range(4):
        for parameter, (_, gradient) in zip(held, pairs, strict=True):
            parameter.grad = gradient().detach()
        optimizer.step()
    return memory.clone(), optimizer.metrics()


@pytest.mark.parametrize("order", rules.ORDERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("setting", [own, shifted, crossed, shared, strided])
def test_learning_steps_agree(setting: Setting, dtype: torch.dtype, order: str) -> None:
    found, expected = (
        run(rules.load("mada", backend=b, order=order), setting, dtype, lr=0.1, **INTERIOR)
        for b in ("c", "eager")
    )
    double = dtype is torch.float64
    tolerance = {"rtol": 1e-11, "atol": 1e-12} if double else {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(found[0], expected[0], **tolerance)
    assert found[1] == pytest.approx(expected[1], rel=1e-9 if double else 1e-3, abs=1e-5)


@pytest.mark.parametrize("setting", [own, shifted, crossed, shared, strided, tied])
@pytest.mark.parametrize("backend", ["eager", "c"])
def test_a_step_is_that_of_gradients_that_overlap_with_nothing(
    setting: Setting, backend: str
) -> None:
    """Written out: the gradients are copied before the step, by hand."""
    cls = optdsl.load("adamw", backend=backend)
    found, _ = run(cls, setting, torch.float64, lr=0.1)
    memory = numbers(torch.float64)
    pairs = setting(memory)
    held = [nn.Parameter(x) for x, _ in pairs]
    optimizers = [torch.optim.AdamW([p], lr=0.1) for p in held]
    for _ in range(4):
        copies = [gradient().detach().clone() for _, gradient in pairs]
        for parameter, copy, optimizer in zip(held, copies, optimizers, strict=True):
            parameter.grad = copy
            optimizer.step()
    torch.testing.assert_close(found, memory, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", ["eager", "c"])
def test_states_that_share_memory_are_separated(backend: str) -> None:
    """Somebody's loading made one tensor of two states, and of one of them the gradient."""
    results = []
    for alias in (True, False):
        parameter = nn.Parameter(numbers(torch.float64, SIZE))
        optimizer = optdsl.load("adam", backend=backend)([parameter], lr=0.1)
        parameter.grad = torch.ones(SIZE, dtype=torch.float64)
        optimizer.step()
        state = optimizer.state[parameter]
        same = numbers(torch.float64, SIZE).square()
        state["m"] = same
        state["v"] = same if alias else same.clone()
        parameter.grad = same if alias else same.clone()
        optimizer.step()
        results.append([parameter.detach(), state["m"], state["v"], parameter.grad])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("order", rules.ORDERS)
def test_a_parameter_that_is_listed_twice_steps_twice(order: str) -> None:
    """One step after the other with one gradient, as in torch, which warns of it."""
    found = {}
    learn = {"beta1": optdsl.Learn("sgd", lr=0.05, bounds=(0.5, 0.99))}
    for backend in ("c", "eager"):
        parameter = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
        cls = optdsl.load(
            "adam",
            backend=backend,
            order=order,
            learn=learn,
        )
        with pytest.warns(UserWarning, match="duplicate parameters"):
            optimizer = cls([parameter, parameter], lr=0.1)
        for _ in range(5):
            parameter.grad = parameter.detach().clone()
            optimizer.step()
        found[backend] = [*parameter.tolist(), *optimizer.metrics().values()]
    assert found["c"] == pytest.approx(found["eager"], rel=1e-12)
    reference = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    with pytest.warns(UserWarning, match="duplicate parameters"):
        theirs = torch.optim.Adam([reference, reference], lr=0.1, foreach=False)
    fixed = nn.Parameter(reference.detach().clone())
    with pytest.warns(UserWarning, match="duplicate parameters"):
        ours = optdsl.load("adam", backend="c")([fixed, fixed], lr=0.1)
    for _ in range(5):
        reference.grad = fixed.grad = torch.tensor([0.3, -0.5], dtype=torch.float64)
        theirs.step()
        ours.step()
    torch.testing.assert_close(fixed.detach(), reference.detach(), rtol=1e-12, atol=1e-15)


Extents = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 6)), max_size=8)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(Extents, Extents)
def test_overlap_is_what_a_look_at_every_byte_finds(
    held: list[tuple[int, int]], gradients: list[tuple[int, int]]
) -> None:
    sets = [set(range(b, b + n)) for b, n in held]
    disjoint = sum(map(len, sets)) == len(set().union(*sets))
    lengths = [n for _, n in gradients]
    own = overlaps.written([[b for b, _ in held]], [[n for _, n in held]], lengths)
    assert (own is not None) == disjoint
    if own is not None:
        touched = any(set(range(b, b + n)) & s for b, n in gradients for s in sets)
        assert overlaps.meets(own, [b for b, _ in gradients]) == touched


MIRRORED = """
optimizer Mirrored
hyper lr = 0.1 in [0, inf)
for matrices
state before : cols * rows = 0
before' = transpose(theta)
theta'  = theta - lr * (g + 0.5 * transpose(before))
otherwise
state last : scalar = 0
state before = 0
last'   = sum(g)
before' = last
theta'  = theta - lr * (g + 0.5 * before)
"""


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_state_that_reads_the_memory_of_another_value_is_as_before_the_step(
    backend: str,
) -> None:
    """A transpose of the parameter, and one number for every element, are views."""
    matrix, vector = (nn.Parameter(numbers(torch.float64, 6).reshape(s)) for s in ((3, 2), (6,)))
    optimizer = optdsl.compile(MIRRORED, backend=backend)([matrix, vector])
    expected, other = matrix.detach().clone(), vector.detach().clone()
    before, (late, last) = torch.zeros(3, 2).double(), (0.0, 0.0)
    for step in range(4):
        matrix.grad = numbers(torch.float64, 6).reshape(3, 2) + step
        vector.grad = numbers(torch.float64, 6) * step + 1
        optimizer.step()
        expected, before = expected - 0.1 * (matrix.grad + 0.5 * before), expected
        other = other - 0.1 * (vector.grad + 0.5 * late)
        late, last = last, float(vector.grad.sum())
        torch.testing.assert_close(matrix.detach(), expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(vector.detach(), other, rtol=1e-12, atol=1e-12)
