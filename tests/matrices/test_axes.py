"""Axes that a rule declares: values, shapes and steps against torch by hand, and mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import compiler, interpret
from optdsl.cli import main
from optdsl.diagnostics import Source
from optdsl.specifications import library
from tests.matrices.every_operation import OWN_AXES

RULE = """
optimizer Projected
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper rank = 2   in {1, ..., inf}

for matrices

axis k = LENGTH

state m : k * cols = 0

p      = singular_vectors(g, k)
m'     = ema(m, transpose(p) @ g, 0.9)
theta' = theta - lr * p @ m'
"""


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def by_hand(
    theta: Tensor, g: Tensor, state: dict[str, Tensor], t: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """`OWN_AXES` with its defaults, with einsum and dimensions that are kept."""
    beta, k = 0.7, min(2, g.shape[-2])
    p = state["P"]
    if t in {1, 4, 7}:
        vectors = torch.linalg.eigh(torch.einsum("...ij,...kj->...ik", g, g)).eigenvectors
        p = vectors.flip(-1)[..., :k]
        # Signs are free: those of the library.
        u = torch.linalg.svd(g).U[..., :k]
        p = p * (p * u).sum(-2, keepdim=True).sign()
    h = torch.einsum("...ij,...ik->...jk", p, g)
    m = beta * state["m"] + (1 - beta) * h
    n = state["n"] + beta * h.mT
    diagonal = torch.einsum("...ii->...i", state["q"]).unsqueeze(-1)
    d = beta * state["d"] + (1 - beta) * h.square().sum(-1, keepdim=True)
    d = d + diagonal / k + n.mean(-2).unsqueeze(-1)
    q = state["q"] + torch.einsum("...ij,...kj->...ik", h, m) + k * torch.eye(k, dtype=g.dtype)
    low = torch.einsum("...ij,...jk->...ik", q, m) / (1 + d)
    back = torch.einsum("...ij,...jk->...ik", p, low)
    back = back + h.square().sum(-2, keepdim=True).sqrt() + p.mean(-1, keepdim=True)
    back = back + m.mean(-2, keepdim=True)
    alone = n.mean(-2).unsqueeze(-1) + p.sum(-2).unsqueeze(-1)
    back = back + m.amax((-2, -1), keepdim=True) + g.amin(-2, keepdim=True)
    back = back + g.amax(-1, keepdim=True) + m.amin(-2, keepdim=True) + p.amax(-1, keepdim=True)
    back = back + n.amin((-2, -1), keepdim=True) + g.max() - g.min()
    back = back + m.amax(-2, keepdim=True) - p.amin(-1, keepdim=True)
    back = back + theta.amax(-2, keepdim=True) - theta.amin(-1, keepdim=True)
    update = back + alone.sum((-2, -1), keepdim=True) + m.mean((-2, -1), keepdim=True) * k
    size = update.square().mean((-2, -1), keepdim=True).sqrt()
    return theta - 0.1 * update / (1 + size), {"P": p, "m": m, "n": n, "d": d, "q": q}


@pytest.mark.parametrize("shape", [(4, 6), (6, 4), (3, 2, 5), (1, 4)])
@pytest.mark.parametrize("backend", ["interpreter", "eager", "auto"])
def test_every_operation_of_an_axis_is_what_it_is_by_hand(
    shape: tuple[int, ...], backend: str
) -> None:
    *stack, rows, cols = shape
    theta, k = randn(1, *shape), min(2, rows)
    expected = theta.clone()
    state = {
        "P": randn(0, *stack, rows, k) * 0,
        "m": randn(0, *stack, k, cols) * 0,
        "n": randn(0, *stack, cols, k) * 0 + 1,
        "d": randn(0, *stack, k, 1) * 0,
        "q": torch.eye(k, dtype=torch.float64).expand(*stack, k, k),
    }
    program = library.read(Source("<text>", OWN_AXES))
    parameter = torch.nn.Parameter(theta.clone())
    optimizer = optdsl.compile(OWN_AXES, backend="eager" if backend == "eager" else "auto")(
        [parameter]
    )
    kept: dict[str, Tensor] = {}
    for t in range(1, 6):
        g = randn(10 + t, *shape)
        expected, state = by_hand(expected, g, state, t)
        if backend == "interpreter":
            kept = kept or interpret.initial_state(program, theta, g, program.defaults)
            done = interpret.step(program, theta, g, kept, program.defaults, t)
            theta, kept = done.parameter, done.state
        else:
            parameter.grad = g
            optimizer.step()
            theta = parameter.detach()
            kept = {x: v for x, v in optimizer.state[parameter].items() if x != "step"}
        torch.testing.assert_close(theta, expected, rtol=1e-10, atol=1e-10)
        assert kept.keys() == state.keys()
        for name, value in state.items():
            assert kept[name].shape == value.shape, name
            torch.testing.assert_close(kept[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("hyper", ["lr", "beta"])
def test_hyper_gradients_are_those_of_autograd(hyper: str) -> None:
    source = Source("<text>", OWN_AXES)
    program = library.read(source)
    derived = compiler.derive(source, {hyper: optdsl.Learn("sgd", lr=0.1)})
    theta, g, weights = randn(1, 4, 5), randn(2, 4, 5), randn(3, 4, 5)
    hypers: dict[str, float | Tensor] = {"lr": 0.1, "beta": 0.7, "rank": 2.0, "gap": 3.0}
    start = interpret.initial_state(program, theta, randn(4, 4, 5), hypers)
    start = interpret.step(program, theta, randn(4, 4, 5), start, hypers, 1).state
    found = interpret.step(derived, theta, g, start, hypers, 2).tangents[hyper]
    x = torch.tensor(hypers[hyper], dtype=torch.float64, requires_grad=True)
    on_tape = interpret.step(program, theta, g, start, hypers | {hyper: x}, 2)
    (expected,) = torch.autograd.grad((on_tape.parameter * weights).sum(), x)
    torch.testing.assert_close((found * weights).sum(), expected, rtol=1e-10, atol=1e-12)


def parameter(*shape: int) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.zeros(shape))
    p.grad = randn(5, *shape).float()
    return p


def test_groups_may_have_axes_of_other_lengths_and_checkpoints_keep_them() -> None:
    cls = optdsl.compile(RULE.replace("LENGTH", "min(rank, rows)"))
    first, second = parameter(4, 5), parameter(4, 5)
    optimizer = cls([{"params": [first]}, {"params": [second], "rank": 3}])
    optimizer.step()
    shapes = [tuple(optimizer.state[p]["m"].shape) for p in (first, second)]
    assert shapes == [(2, 5), (3, 5)]
    again = cls([{"params": [parameter(4, 5)]}, {"params": [parameter(4, 5)]}])
    again.load_state_dict(optimizer.state_dict())
    assert again.param_groups[1]["rank"] == 3
    other = optimizer.state_dict()
    other["param_groups"][1]["rank"] = 2
    with pytest.raises(ValueError, match=r"m has shape \(3, 5\), not \(2, 5\)"):
        again.load_state_dict(other)


def test_a_length_cannot_change_after_the_first_step() -> None:
    p = parameter(4, 5)
    optimizer = optdsl.compile(RULE.replace("LENGTH", "min(rank, rows)"))([p])
    optimizer.step()
    before = p.detach().clone()
    optimizer.param_groups[0]["rank"] = 3
    with pytest.raises(ValueError, match=r"state m .* with k = 3 it would be \(3, 5\)"):
        optimizer.step()
    assert torch.equal(p, before)
    assert optimizer.state[p]["step"] == 1
    # Beyond the number of rows the length is the same.
    optimizer.param_groups[0]["rank"] = 2
    optimizer.step()


@pytest.mark.parametrize(
    ("length", "complaint"),
    [
        ("rows / 3", "the axis k would be 1.33333 long"),
        ("rows - 4", "the axis k would be 0 long"),
        ("rank + rows", "the axis k is 6 long, and the matrix has 4 left singular vectors"),
    ],
)
def test_a_length_must_be_one(length: str, complaint: str) -> None:
    p = parameter(4, 5)
    optimizer = optdsl.compile(RULE.replace("LENGTH", length))([p])
    with pytest.raises(ValueError, match=complaint):
        optimizer.step()
    assert not p.any()


def test_more_vectors_than_columns_and_tensors_without_elements() -> None:
    tall, empty = parameter(6, 2), parameter(0, 3)
    optimizer = optdsl.compile(RULE.replace("LENGTH", "min(4, rows)"))([tall, empty])
    for _ in range(2):
        optimizer.step()
    assert optimizer.state[tall]["m"].shape == (4, 2)
    assert tall.isfinite().all()


def test_a_modifier_does_not_change_a_length(tmp_path: Path) -> None:
    (tmp_path / "projected.opt").write_text(RULE.replace("LENGTH", "min(rank, rows)"))
    (tmp_path / "more.opt").write_text("modifier More of rank\n\nrank = base.rank + 1\n")
    (tmp_path / "both.opt").write_text("optimizer Both = Projected with More\n")
    with pytest.raises(optdsl.SpecError, match="`rank` decides how long the axis `k` is"):
        optdsl.load(tmp_path / "both.opt")
    (tmp_path / "clipped.opt").write_text("optimizer Clipped = Projected(rank = 3) with Clip\n")
    p = parameter(4, 5)
    optimizer = optdsl.load(tmp_path / "clipped.opt")([p])
    optimizer.step()
    assert optimizer.state[p]["m"].shape == (3, 5)


def test_claims_know_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = RULE.replace("LENGTH", "min(rank, rows)") + "\notherwise\n\ntheta' = theta - lr * g\n"
    (tmp_path / "projected.opt").write_text(rule)
    same = rule.replace("Projected", "Same") + "\nrecovers Projected\n"
    (tmp_path / "same.opt").write_text(same)
    (tmp_path / "wrong.opt").write_text(same.replace("min(rank, rows)", "min(1, rows)"))
    assert main(["verify", str(tmp_path / "same.opt")]) == 0
    assert main(["verify", str(tmp_path / "wrong.opt")]) == 1
    assert "1 proved" in capsys.readouterr().out
