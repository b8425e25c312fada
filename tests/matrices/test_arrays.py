"""Rules of matrices on Python floats mean what they mean to the interpreter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from optdsl import interpret, matrices
from optdsl.diagnostics import Source
from optdsl.ir import arrays
from optdsl.ir.arrays import Array, Shape
from optdsl.ir.laws import Stage
from optdsl.ir.ops import DRAWS, TABLE
from optdsl.ir.program import Program
from optdsl.ir.trajectories import Run, trajectory
from optdsl.passes.specialize import specialize
from optdsl.specifications import library
from tests.matrices.every_operation import EVERY_OPERATION

SHAPES: list[Shape] = [(1, 2, 3), (1, 3, 2), (1, 1, 1), (2, 2, 3), (3, 1, 2)]
SQUARES: list[Shape] = [(1, 1, 1), (1, 3, 3), (2, 4, 4)]
FACTORIZED = """
optimizer Factorized
  "no paper: a test"

hyper lr = 0.1 in [0, 1]

for stacked matrices

state L : rows * rows = 0
state R : cols * cols = identity(cols)

L'     = L + g @ transpose(g) + 0.01 * identity(rows)
R'     = qr(R + transpose(g) @ g, sum(g over rows))
theta' = theta - lr * inverse_root(L', 4) @ g @ R'
"""


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def array(x: Tensor) -> Array:
    stack, rows, cols = x.shape
    return Array((stack, rows, cols), tuple(x.flatten().tolist()))


def tensor(x: Array) -> Tensor:
    return torch.tensor(x.numbers, dtype=torch.float64).reshape(x.shape)


def numbers(x: Tensor) -> tuple[float, ...]:
    return tuple(x.flatten().tolist())


def program(text: str) -> Program:
    return specialize(library.read(Source("<text>", text)), 0)


def spec(name: str) -> Program:
    return specialize(library.read(library.open_source(name)), 0)


def test_every_operation_is_known() -> None:
    with_arguments = {opcode for opcode, row in TABLE.items() if not row.leaf}
    assert arrays.FUNCTIONS.keys() == with_arguments - DRAWS
    elementwise = {o for o in with_arguments if TABLE[o].stage is Stage.ELEMENTWISE}
    assert arrays.FUNCTIONS.keys() - elementwise == {*matrices.OPERATIONS, "sum_all", "max_all"}


@pytest.mark.parametrize(
    ("name", "shape"),
    [(n, s) for n in ("every operation", "factorized", "adafactor") for s in SHAPES]
    + [(n, s) for n in ("muon", "normuon") for s in SHAPES if s[0] == 1],
)
def test_runs_are_those_of_the_interpreter(name: str, shape: Shape) -> None:
    texts = {"every operation": EVERY_OPERATION, "factorized": FACTORIZED}
    rule = program(texts[name]) if name in texts else spec(name)
    read = shape if rule.kind == "stacked matrices" else shape[1:]
    hypers = rule.defaults
    theta, gradients = randn(1, *shape), [randn(9 + t, *shape) for t in range(4)]
    run = Run(tuple(hypers.items()), numbers(theta), tuple(map(numbers, gradients)), shape)
    found = trajectory(rule, run)
    theta = theta.reshape(read)
    state = interpret.initial_state(rule, theta, gradients[0].reshape(read), hypers)
    for t, (g, after) in enumerate(zip(gradients, found, strict=True), start=1):
        done = interpret.step(rule, theta, g.reshape(read), state, hypers, t)
        theta, state = done.parameter, done.state
        expected = torch.tensor(after, dtype=torch.float64).reshape(read)
        torch.testing.assert_close(theta, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("shape", SQUARES)
def test_factorizations_are_those_of_torch(shape: Shape) -> None:
    x, order = randn(5, *shape), randn(6, shape[0], 1, shape[2])
    s = x @ x.mT + 0.1 * torch.eye(shape[-1], dtype=torch.float64)
    q = tensor(arrays.FUNCTIONS["eigenvectors"](array(s)))
    expected = matrices.eigenvectors(s)
    # Of the signs of eigenvectors nothing is said.
    signs = (q * expected).sum(-2, keepdim=True).sign()
    torch.testing.assert_close(q, expected * signs, rtol=0, atol=1e-12)
    root = tensor(arrays.FUNCTIONS["inverse_root"](array(s), 4.0))
    p = torch.tensor(4.0, dtype=torch.float64)
    torch.testing.assert_close(root, matrices.inverse_root(s, p), rtol=1e-11, atol=1e-11)
    found = tensor(arrays.FUNCTIONS["qr"](array(x), array(order)))
    torch.testing.assert_close(found, matrices.qr(x, order), rtol=0, atol=1e-11)


@pytest.mark.parametrize("size", [1e-20, 1.0, 1e12])
def test_a_singular_matrix_has_a_root_at_every_scale(size: float) -> None:
    x = randn(7, 1, 4, 2)
    s = size * (x @ x.mT)
    root = tensor(arrays.FUNCTIONS["inverse_root"](array(s), 2.0))
    p = torch.tensor(2.0, dtype=torch.float64)
    # In the null space the root is that of what counts as zero, in both.
    torch.testing.assert_close(root, matrices.inverse_root(s, p), rtol=1e-6, atol=1e-6 / size**0.5)


def test_no_numbers_give_no_numbers() -> None:
    nothing = Array((1, 2, 2), (float("nan"),) * 4)
    for opcode, rest in (("eigenvectors", ()), ("inverse_root", (2.0,))):
        found = arrays.FUNCTIONS[opcode](nothing, *rest)
        assert all(x != x for x in found.numbers)
