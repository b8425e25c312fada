"""Operations on matrices: the interpreter against torch by hand, eager code against both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import compiler, interpret, matrices
from optdsl.diagnostics import Source
from optdsl.ir.ops import OF_MATRICES, TABLE
from optdsl.ir.text import parse_program, print_program
from optdsl.options import OptionError
from optdsl.specifications import library
from tests.matrices.every_operation import EVERY_OPERATION, OWN_AXES

SHAPES = [(4, 6), (6, 4), (3, 2, 5), (1, 1), (1, 4)]


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def test_the_rules_with_every_operation_have_every_operation_without_a_factorization() -> None:
    factorizations = {"eigenvectors", "inverse_root", "qr"}
    used = set[str]()
    for text in (EVERY_OPERATION, OWN_AXES):
        program = library.read(Source("<text>", text))
        used |= {o.opcode for o in program.operations}
        assert parse_program(print_program(program)) == program
    assert OF_MATRICES - used <= factorizations | {"spread"}


def by_hand(
    theta: Tensor, g: Tensor, state: dict[str, Tensor], lr: float, beta: float, t: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """`EVERY_OPERATION` for stacks of matrices, with einsum and dimensions that are kept."""
    rows, cols = g.shape[-2:]
    eye = torch.eye
    m = beta * state["m"] + (1 - beta) * g
    r = beta * state["r"] + (1 - beta) * (g * g).mean(-1, keepdim=True)
    r = r + theta.sum(-1, keepdim=True)
    c = state["c"] + m.mean(-2, keepdim=True) * g.sum(-2, keepdim=True)
    s = state["s"] + g.mean((-2, -1), keepdim=True) + r.sum(-2, keepdim=True) / rows
    s = s + g.mean() + m.sum() / cols
    left = torch.einsum("...ij,...kj->...ik", g, m)
    big_l = beta * state["L"] + (1 - beta) * left + eye(rows, dtype=g.dtype)
    right = torch.einsum("...ji,...jk->...ik", g, m)
    trace = torch.einsum("...ii->...", state["R"])
    big_r = beta * state["R"] + (1 - beta) * right - trace.unsqueeze(-1).unsqueeze(-1)
    big_t = state["T"] + m.transpose(-1, -2) * beta
    big_t = big_t + g.transpose(-1, -2) if t > 1 else big_t
    update = torch.einsum("...ij,...jk,...kl->...il", big_l, m, big_r) + r * c
    update = update + big_t.transpose(-1, -2) + s
    update = update + torch.diagonal(big_l, dim1=-2, dim2=-1).unsqueeze(-1) + m / 4
    size = update.square().mean((-2, -1), keepdim=True).sqrt()
    new = {"m": m, "r": r, "c": c, "s": s, "L": big_l, "R": big_r, "T": big_t}
    return theta - lr * update / (1 + size), new


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("backend", ["interpreter", "eager", "auto"])
def test_every_operation_is_what_it_is_by_hand(shape: tuple[int, ...], backend: str) -> None:
    *stack, rows, cols = shape
    theta = randn(1, *shape)
    expected = theta.clone()
    state = {
        "m": torch.zeros(shape, dtype=torch.float64),
        "r": torch.zeros(*stack, rows, 1, dtype=torch.float64),
        "c": torch.ones(*stack, 1, cols, dtype=torch.float64),
        "s": torch.zeros(*stack, 1, 1, dtype=torch.float64),
        "L": torch.zeros(*stack, rows, rows, dtype=torch.float64),
        "R": torch.eye(cols, dtype=torch.float64).expand(*stack, cols, cols),
        "T": torch.zeros(*stack, cols, rows, dtype=torch.float64),
    }
    hypers = {"lr": 0.1, "beta": 0.7, "depth": 2.0}
    program = library.read(Source("<text>", EVERY_OPERATION))
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = None
    kept: dict[str, Tensor] = {}
    if backend != "interpreter":
        optimizer = optdsl.compile(EVERY_OPERATION, backend=backend)([parameter])
    for t in range(1, 6):
        g = randn(10 + t, *shape)
        expected, state = by_hand(expected, g, state, 0.1, 0.7, t)
        if optimizer is None:
            kept = kept or interpret.initial_state(program, theta, g, hypers)
            done = interpret.step(program, theta, g, kept, hypers, t)
            theta, kept = done.parameter, done.state
        else:
            parameter.grad = g
            optimizer.step()
            theta = parameter.detach()
            kept = {k: v for k, v in optimizer.state[parameter].items() if k != "step"}
        torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-12)
        assert kept.keys() == state.keys()
        for name, value in state.items():
            assert kept[name].shape == value.shape, name
            torch.testing.assert_close(kept[name], value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (2, 3, 4)])
@pytest.mark.parametrize("hyper", ["lr", "beta"])
def test_hyper_gradients_are_those_of_autograd(shape: tuple[int, ...], hyper: str) -> None:
    program = library.read(Source("<text>", EVERY_OPERATION))
    learn = {hyper: optdsl.Learn("sgd", lr=0.1)}
    derived = compiler.derive(Source("<text>", EVERY_OPERATION), learn)
    theta, g, weights = randn(1, *shape), randn(2, *shape), randn(3, *shape)
    hypers: dict[str, float | Tensor] = {"lr": 0.1, "beta": 0.7, "depth": 2.0}
    start = interpret.initial_state(program, theta, randn(4, *shape), hypers)
    start = interpret.step(program, theta, randn(4, *shape), start, hypers, 1).state
    found = interpret.step(derived, theta, g, start, hypers, 2).tangents[hyper]
    x = torch.tensor(hypers[hyper], dtype=torch.float64, requires_grad=True)
    on_tape = interpret.step(program, theta, g, start, hypers | {hyper: x}, 2)
    (expected,) = torch.autograd.grad((on_tape.parameter * weights).sum(), x)
    torch.testing.assert_close((found * weights).sum(), expected, rtol=1e-10, atol=1e-12)


def test_what_acts_through_a_factorization_is_not_learned() -> None:
    text = """
optimizer Factorized
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.5 in [0, 1]

for matrices

state L : rows * rows = 0

L'     = ema(L, g @ transpose(g), beta)
theta' = theta - lr * eigenvectors(L') @ g

otherwise

theta' = theta - lr * g
"""
    with pytest.raises(OptionError, match="eigenvectors"):
        optdsl.compile(text, learn={"beta": optdsl.Learn("sgd", lr=0.1)})
    optdsl.compile(text, learn={"lr": optdsl.Learn("sgd", lr=0.1)})


@pytest.mark.parametrize("shape", [(5, 5), (3, 4, 4), (1, 1)])
def test_factorizations_are_what_they_say(shape: tuple[int, ...]) -> None:
    x = randn(5, *shape)
    s = x @ x.mT + 0.1 * torch.eye(shape[-1], dtype=torch.float64)
    for functions in (matrices.OPERATIONS, _emitted()):
        q = functions["eigenvectors"](s)
        diagonal = q.mT @ s @ q
        values = torch.diagonal(diagonal, dim1=-2, dim2=-1)
        torch.testing.assert_close(diagonal, torch.diag_embed(values), rtol=0, atol=1e-12)
        assert bool((values[..., :-1] >= values[..., 1:]).all())
        root = functions["inverse_root"](s, torch.tensor(4.0, dtype=torch.float64))
        power = root @ root @ root @ root
        eye = torch.eye(shape[-1], dtype=torch.float64).expand_as(s)
        torch.testing.assert_close(power @ s, eye, rtol=0, atol=1e-10)
        order = randn(6, *shape[:-2], 1, shape[-1])
        found = functions["qr"](x, order)
        torch.testing.assert_close(found.mT @ found, eye, rtol=0, atol=1e-12)
        first = order.argmax(-1, keepdim=True).expand(*shape[:-1], 1)
        kept, was = found.gather(-1, first), x.gather(-1, first)
        torch.testing.assert_close(kept, was / was.norm(dim=-2, keepdim=True), rtol=0, atol=1e-12)
    both = [f["qr"](x, order) for f in (matrices.OPERATIONS, _emitted())]
    torch.testing.assert_close(*both, rtol=0, atol=1e-11)


def _emitted() -> dict[str, object]:
    from optdsl.backends.matrix_expressions import MATRIX_HELPERS

    names: dict[str, object] = {"torch": torch, "Tensor": Tensor}
    exec("\n\n".join(MATRIX_HELPERS.values()), names)
    return names


ZEROED = """
optimizer Zeroed
  "no paper: a test"

hyper beta = 0 in [0, 1]

for stacked matrices

state L : rows * rows = 0

L'     = beta * L + (1 - beta) * (g @ transpose(g))
theta' = theta - L' @ g

otherwise

theta' = theta - g
"""


@pytest.mark.parametrize("shape", [(2, 3), (2, 2, 3)])
@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_a_factor_of_zero_hides_no_nan(shape: tuple[int, ...], beta: float) -> None:
    """Zero times NaN is NaN, which a product that is fused with a sum may leave out."""
    program = library.read(Source("<text>", ZEROED))
    parameter = torch.nn.Parameter(torch.ones(shape, dtype=torch.float64))
    optimizer = optdsl.compile(ZEROED)([parameter], beta=beta)
    parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    if beta == 0:
        optimizer.state[parameter]["L"].fill_(torch.nan)
    else:
        parameter.grad.fill_(torch.nan)
    state = {"L": optimizer.state[parameter]["L"].clone()}
    theta, g = parameter.detach().clone(), parameter.grad
    expected = interpret.step(program, theta, g, state, {"beta": beta}, 2)
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), expected.parameter, equal_nan=True)
    torch.testing.assert_close(optimizer.state[parameter]["L"], expected.state["L"], equal_nan=True)
    assert bool(parameter.isnan().all())


def test_only_matrices_have_operations_of_matrices() -> None:
    assert {r.opcode for r in TABLE.values() if r.stage.of_matrices} == OF_MATRICES
