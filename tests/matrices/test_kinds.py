"""Kinds of tensors: matrices that are read transposed, convolutions, and kinds of one's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import interpret
from optdsl.diagnostics import Source
from optdsl.specifications import library

RULE = """
optimizer Sided
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.5 in [0, 1)

for KIND

axis k = min(2, rows)

state m = 0
state L : rows * rows = 0
state T : cols * rows = 0
state P : k * cols = 0
state r : rows = 0

m'     = ema(m, g, beta)
L'     = ema(L, g @ transpose(g), beta)
T'     = ema(T, transpose(g), beta)
P'     = ema(P, transpose(singular_vectors(g, k)) @ g, beta)
r'     = r + sum(theta over cols) / rows
theta' = theta - lr * (L' @ m' + transpose(T') + r' + sum(P'^2))

otherwise

theta' = theta - lr * g
"""


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def trained(kind: str, start: Tensor, gradients: list[Tensor], backend: str) -> tuple[Tensor, Any]:
    p = torch.nn.Parameter(start.clone())
    optimizer = optdsl.compile(RULE.replace("KIND", kind), backend=backend)([p])
    for g in gradients:
        p.grad = g
        optimizer.step()
    return p.detach(), optimizer.state[p]


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("shape", [(5, 3), (3, 5), (4, 4)])
def test_wide_matrices_are_read_so_that_rows_are_the_short_side(
    shape: tuple[int, int], backend: str
) -> None:
    start, gradients = randn(1, *shape), [randn(n, *shape) for n in (2, 3, 4)]
    ours, state = trained("wide matrices", start, gradients, backend)
    tall = shape[0] > shape[1]
    turn = (lambda x: x.mT) if tall else (lambda x: x)
    theirs, expected = trained("matrices", turn(start), [turn(g) for g in gradients], backend)
    torch.testing.assert_close(ours, turn(theirs), rtol=1e-12, atol=1e-12)
    assert state["m"].shape == shape
    torch.testing.assert_close(state["m"], turn(expected["m"]), rtol=1e-12, atol=1e-12)
    for name in ("L", "T", "P", "r"):
        torch.testing.assert_close(state[name], expected[name], rtol=1e-12, atol=1e-12)


def test_the_interpreter_reads_wide_matrices_alike() -> None:
    program = library.read(Source("<text>", RULE.replace("KIND", "wide flattened matrices")))
    start, gradients = randn(1, 12, 3, 2), [randn(n, 12, 3, 2) for n in (2, 3)]
    ours, kept = trained("wide flattened matrices", start, gradients, "auto")
    theta, state = start, interpret.initial_state(program, start, gradients[0], program.defaults)
    for t, g in enumerate(gradients, start=1):
        step = interpret.step(program, theta, g, state, program.defaults, t)
        theta, state = step.parameter, step.state
    torch.testing.assert_close(ours, theta, rtol=1e-12, atol=1e-12)
    assert kept["L"].shape == (6, 6)
    assert kept["m"].shape == start.shape


def test_states_of_wide_matrices_are_loaded_and_checked() -> None:
    start, gradients = randn(1, 5, 3), [randn(n, 5, 3) for n in range(2, 6)]
    whole, _ = trained("wide matrices", start, gradients, "auto")
    cls = optdsl.compile(RULE.replace("KIND", "wide matrices"))
    first = torch.nn.Parameter(start.clone())
    optimizer: Any = cls([first])
    for number, g in enumerate(gradients):
        if number == 2:
            saved = optimizer.state_dict()
            optimizer = cls([first])
            optimizer.load_state_dict(saved)
        first.grad = g
        optimizer.step()
    assert torch.equal(first, whole)


@pytest.mark.parametrize(("kind", "read"), [("flattened", (4, 6)), ("stacked", (3, 2))])
def test_convolutions_have_three_dimensions_or_more(kind: str, read: tuple[int, int]) -> None:
    rows = read[0]
    _, state = trained(f"{kind} convolutions", randn(1, 4, 3, 2), [randn(2, 4, 3, 2)], "auto")
    assert state["L"].shape[-1] == rows
    _, state = trained(f"{kind} convolutions", randn(1, 4, 3), [randn(2, 4, 3)] * 2, "auto")
    assert state.keys() == {"step"}  # it came to `otherwise`


HEADS = """
optimizer Heads
  "no paper: a test"

hyper lr = 0.1 in [0, inf)

theta' = theta - lr * update

for heads

update = sign(g) / cols

for biases

update = g / (norm(g) + 1)

otherwise

update = g
"""


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_a_kind_of_ones_own_is_read_as_matrices_where_its_equations_are(backend: str) -> None:
    head, other, bias, stack = (
        randn(n, *s) for n, s in enumerate([(2, 5), (2, 5), (3,), (2, 2, 2)])
    )
    held = [torch.nn.Parameter(torch.zeros_like(x)) for x in (head, other, bias, stack)]
    for p, g in zip(held, (head, other, bias, stack), strict=True):
        p.grad = g
    groups = [
        {"params": [held[0]], "kind": "heads"},
        {"params": [held[1]]},
        {"params": held[2:], "kind": "biases"},
    ]
    cls = optdsl.compile(HEADS, backend=backend)
    cls(groups).step()
    expected = (head.sign() / 5, other, bias / (bias.norm() + 1), stack / (stack.norm() + 1))
    for p, x in zip(held, expected, strict=True):
        torch.testing.assert_close(p.detach(), -0.1 * x, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"cannot read a parameter of shape \(3,\) as heads"):
        cls([{"params": [held[2]], "kind": "heads"}])
    with pytest.raises(ValueError, match="its kinds are heads, biases, otherwise"):
        cls([{"params": [held[2]], "kind": "heads as matrices"}])


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("shape", [(7, 4), (4, 7)])
def test_galore_is_its_algorithm(shape: tuple[int, int], backend: str) -> None:
    """Algorithm 2 of the paper with the details of the authors' AdamW: the short side is projected.

    The directions of the projection have free signs, which are taken over.
    """
    lr, beta1, beta2, eps, decay, rank, gap, scale = 0.01, 0.9, 0.99, 1e-6, 0.1, 2, 4, 0.25
    p = torch.nn.Parameter(randn(1, *shape))
    cls = optdsl.load("galore_adamw", backend=backend)
    settings = {"beta2": beta2, "weight_decay": decay, "rank": rank, "gap": gap}
    optimizer = cls([p], lr=lr, **settings)
    w, m, v = p.detach().clone(), torch.zeros(()), torch.zeros(())
    tall = shape[0] > shape[1]
    projection = torch.zeros(())
    for t in range(1, 31):
        g = randn(10 + t, *shape)
        p.grad = g.clone()
        optimizer.step()
        if (t - 1) % gap == 0:
            u, _, vh = torch.linalg.svd(g, full_matrices=False)
            new = vh[:rank].mT if tall else u[:, :rank]
            # Moments are kept in these directions, so that their signs are those of the library.
            projection = new * (new * optimizer.state[p]["P"]).sum(0).sign()
        low = g @ projection if tall else projection.mT @ g
        m = beta1 * m + (1 - beta1) * low
        v = beta2 * v + (1 - beta2) * low * low
        size = lr * (1 - beta2**t) ** 0.5 / (1 - beta1**t)
        normed = m / (v.sqrt() + eps)
        back = normed @ projection.mT if tall else projection @ normed
        w = w - size * scale * back
        w = w - lr * decay * w
        torch.testing.assert_close(p.detach(), w, rtol=1e-10, atol=1e-10)
    assert optimizer.state[p]["m"].shape == (rank, max(shape))


PROJECTED = """
optimizer Projected
  "no paper: a test of an axis along which no state lies"

hyper lr    = 0.1  in [0, inf)
hyper scale = 0.25 in [0, 10]
hyper rank  = 2    in {1, ..., inf}

for matrices

axis k = min(rank, rows)

P      = singular_vectors(g, k)
theta' = theta - lr * scale * P @ (transpose(P) @ g)

otherwise

theta' = theta - lr * scale * g
"""


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("rule", ["galore_adamw", PROJECTED], ids=["states", "no states"])
def test_coefficients_are_learned_beside_axes_of_other_lengths(rule: str, backend: str) -> None:
    """A step is a multiple of `scale`, so its derivative is the step over that."""
    learn = {"scale": optdsl.Learn("sgd", lr=0.0)}
    make = optdsl.compile if "\n" in rule else optdsl.load
    p = torch.nn.Parameter(randn(1, 5, 3))
    optimizer = make(rule, backend=backend, learn=learn)([p], rank=2)
    step = torch.zeros_like(p)
    for t in range(4):
        p.grad, before = randn(10 + t, 5, 3), p.detach().clone()
        expected = float((p.grad * step).sum() / 0.25)
        optimizer.step()
        step = p.detach() - before
        assert optimizer.metrics()["hypergradient/scale"] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.parametrize("shape", [(4, 6), (3, 2, 5), (5,)])
def test_came_is_its_algorithm(shape: tuple[int, ...], backend: str) -> None:
    """Algorithm 2 of the paper; the clip is of the whole tensor, as in the authors' code."""
    lr, beta1, beta2, beta3, eps1, eps2, decay = 0.01, 0.9, 0.99, 0.995, 1e-30, 1e-16, 0.1
    p = torch.nn.Parameter(randn(1, *shape))
    betas = (beta1, beta2, beta3)
    optimizer = optdsl.load("came", backend=backend)([p], lr=lr, betas=betas, weight_decay=decay)
    w, m = p.detach().clone(), torch.zeros(())
    matrix = len(shape) > 1
    rows, cols, full = torch.zeros(()), torch.zeros(()), torch.zeros(())
    unsteady_rows, unsteady_cols = torch.zeros(()), torch.zeros(())

    def product(r: Tensor, c: Tensor) -> Tensor:
        return torch.einsum("...i,...j->...ij", r / r.mean(-1, keepdim=True), c)

    for t in range(1, 31):
        g = randn(10 + t, *shape)
        p.grad = g.clone()
        optimizer.step()
        squares = g * g + eps1
        if matrix:
            rows = beta2 * rows + (1 - beta2) * squares.mean(-1)
            cols = beta2 * cols + (1 - beta2) * squares.mean(-2)
            full = product(rows, cols)
        else:
            full = beta2 * full + (1 - beta2) * squares
        u = g / full.sqrt()
        u = u / max(1.0, float(u.square().mean().sqrt()))
        m = beta1 * m + (1 - beta1) * u
        step = m
        if matrix:
            distance = (u - m).square() + eps2
            unsteady_rows = beta3 * unsteady_rows + (1 - beta3) * distance.mean(-1)
            unsteady_cols = beta3 * unsteady_cols + (1 - beta3) * distance.mean(-2)
            step = m / product(unsteady_rows, unsteady_cols).sqrt()
        w = w * (1 - lr * decay) - lr * step
        torch.testing.assert_close(p.detach(), w, rtol=1e-10, atol=1e-10)
