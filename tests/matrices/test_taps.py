"""`taps`: the number of positions of a kernel, in steps, sums, conditions, lengths and claims."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import interpret
from optdsl.cli import main
from optdsl.diagnostics import Source
from optdsl.specifications import library
from tests.ejecting.helpers import ejected

RULE = """
optimizer Kernels
  "no paper: a test"

hyper lr   = 0.1 in [0, inf)
hyper beta = 0.5 in [0, 1)

total  = sum(g^2 / positions over all)
theta' = theta - lr * update / sqrt(total)

for KIND

axis k = min(taps, rows)

state n : k * cols = 0

positions = taps
n'        = where(taps > 2, ema(n, transpose(singular_vectors(g, k)) @ g, beta), n)
update    = where(taps > 2, g / taps + cols / (rows * taps) + norm(n'), sign(g) * taps)

otherwise

positions = 1
update    = g
"""
# Some of one matrix, of which the positions of a kernel alone differ.
SHAPES = [(4, 27), (4, 9, 3), (4, 3, 9), (4, 3, 3, 3), (4, 2, 2, 1), (5,)]
STEPS = 3


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def gradients(shapes: list[tuple[int, ...]], step: int) -> list[Tensor]:
    return [randn(100 * step + n, *shape) for n, shape in enumerate(shapes)]


def by_hand(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    """The steps of `RULE` for flattened matrices, in another spelling."""
    held = [randn(n, *shape) for n, shape in enumerate(shapes)]
    kept: dict[int, Tensor] = {}
    for step in range(STEPS):
        moved, total = [], 0.0
        for number, g in enumerate(gradients(shapes, step)):
            positions = math.prod(g.shape[2:])
            total += float(g.square().sum()) / positions
            if g.ndim < 2:
                moved.append(g)
                continue
            m = g.flatten(1)
            rows, cols = m.shape
            n = kept.get(number, torch.zeros(min(rows, positions), cols, dtype=g.dtype))
            if positions > 2:
                u = torch.linalg.svd(m).U[:, : len(n)]
                n = 0.5 * n + 0.5 * u.T @ m
                update = m / positions + cols / rows / positions + n.norm()
            else:
                update = m.sign() * positions
            kept[number] = n
            moved.append(update.reshape(g.shape))
        held = [p - 0.1 * x / math.sqrt(total) for p, x in zip(held, moved, strict=True)]
    return held


def trained(cls: Any, shapes: list[tuple[int, ...]]) -> tuple[list[Tensor], Any]:
    held = [nn.Parameter(randn(n, *shape)) for n, shape in enumerate(shapes)]
    optimizer = cls(held)
    for step in range(STEPS):
        for p, g in zip(held, gradients(shapes, step), strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in held], [optimizer.state[p] for p in held]


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_steps_with_taps_are_those_by_hand(backend: str) -> None:
    cls = optdsl.compile(RULE.replace("KIND", "flattened matrices"), backend=backend)
    found, states = trained(cls, SHAPES)
    torch.testing.assert_close(found, by_hand(SHAPES), rtol=0, atol=1e-12)
    kept = [tuple(state["n"].shape) if "n" in state else () for state in states]
    assert kept == [(), (3, 27), (4, 27), (4, 27), (), ()]


def test_an_ejected_file_counts_positions() -> None:
    cls = optdsl.compile(RULE.replace("KIND", "flattened matrices"), backend="eager")
    # Matrices of equal shapes, which could be stepped as one stack.
    shapes = [*SHAPES, *[(3, 4)] * 4]
    found, _ = trained(ejected(cls), shapes)
    torch.testing.assert_close(found, by_hand(shapes), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["stacked convolutions", "wide flattened convolutions"])
def test_the_interpreter_counts_positions_alike(kind: str) -> None:
    rule = RULE.replace("KIND", kind)
    (found,), _ = trained(optdsl.compile(rule), [(7, 3, 2, 2)])
    program = library.read(Source("<text>", rule))
    theta, state = randn(0, 7, 3, 2, 2), dict[str, Tensor]()
    for step in range(STEPS):
        (g,) = gradients([(7, 3, 2, 2)], step)
        state = state or interpret.initial_state(program, theta, g, program.defaults)
        after = interpret.step(program, theta, g, state, program.defaults, step + 1)
        theta, state = after.parameter, after.state
    torch.testing.assert_close(found, theta, rtol=1e-12, atol=1e-12)


CLAIM = """
optimizer Claimed
  "no paper: a test"

hyper lr    = 0.1 in [0, inf)
hyper power = 1   in [0, 1]

theta' = theta - lr * update

for flattened matrices

update = g / taps^power

otherwise

update = g

recovers SGD(momentum = 0) at power = POWER
"""


def test_claims_are_tried_with_kernels_of_more_than_one_position(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "claimed.opt"
    path.write_text(CLAIM.replace("POWER", "0"))
    assert main(["verify", str(path)]) == 0
    path.write_text(CLAIM.replace("POWER", "1"))
    assert main(["verify", str(path)]) == 1
    assert ".reshape(3, 1, 2)" in capsys.readouterr().out
