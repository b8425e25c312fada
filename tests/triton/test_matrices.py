"""Kernels of matrices in Triton against the interpreter in float64 and eager code."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import interpret
from optdsl.backends.capabilities import chosen_backends, compiled_backends
from optdsl.runtime.engines import launch_arguments
from optdsl.runtime.engines.eager import EagerEngine
from optdsl.runtime.engines.triton_matrices import TritonMatrixEngine, tile_of
from tests.c import rules, test_matrices as in_c
from tests.c.test_matrices import EVERY_REDUCTION

pytest.importorskip("triton")

DEVICE = rules.device("triton")
# Interpreted kernels are slow. Each shape is cut in another way: the first into tiles beside each
# other and below those of one program.
SHAPES: list[tuple[int, ...]] = [(70, 130), (2, 37), (40, 1), (0, 3)]
STACK: list[tuple[int, ...]] = [(2, 1, 3, 4)]


def stepped(
    rule: str, backend: str, dtype: torch.dtype, shapes: list[tuple[int, ...]], steps: int = 2
) -> tuple[list[nn.Parameter], Any, list[list[Tensor]]]:
    """As for kernels in C, on the device of Triton's kernels."""
    return in_c.stepped(rule, backend, dtype, shapes, steps, DEVICE)


def engine_of(optimizer: Any, parameter: Tensor) -> Any:
    return optimizer.compiled.parts.of(parameter, optimizer.param_groups[0]).of(parameter)


@pytest.mark.parametrize(
    ("rule", "shapes"),
    [
        (EVERY_REDUCTION, [*STACK, (0, 3)]),
        ("adafactor", SHAPES[:1]),
        ("came", SHAPES[1:2]),
        *(
            pytest.param(rule, [*SHAPES, *STACK], marks=pytest.mark.exhaustive)
            for rule in ("adafactor", "came", EVERY_REDUCTION)
        ),
        *(
            pytest.param(rule, SHAPES, marks=pytest.mark.exhaustive)
            for rule in ("mars", "adamw with row_floor")
        ),
    ],
)
def test_steps_are_the_interpreters(rule: str, shapes: list[tuple[int, ...]]) -> None:
    parameters, optimizer, given = stepped(rule, "triton", torch.float64, shapes)
    program = optimizer.compiled.program
    start, _, _ = stepped(rule, "triton", torch.float64, shapes, steps=0)
    for number, (p, theta) in enumerate(zip(parameters, start, strict=True)):
        assert type(engine_of(optimizer, p)) is TritonMatrixEngine
        if not p.numel():
            continue
        x, kept = theta.detach().cpu(), dict[str, Tensor]()
        for t, g in enumerate((step[number] for step in given), start=1):
            hypers = program.defaults
            kept = kept or interpret.initial_state(program, x, g, hypers)
            done = interpret.step(program, x, g, kept, hypers, t)
            x, kept = done.parameter, done.state
        torch.testing.assert_close(p.detach().cpu(), x, rtol=1e-11, atol=1e-12)
        assert kept.keys() == optimizer.state[p].keys() - {"step"}
        for name, value in kept.items():
            own = optimizer.state[p][name].cpu()
            torch.testing.assert_close(own, value, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        ("adafactor", torch.float32),
        ("adafactor", torch.bfloat16),
        (EVERY_REDUCTION, torch.float32),
        pytest.param(EVERY_REDUCTION, torch.bfloat16, marks=pytest.mark.exhaustive),
        pytest.param(EVERY_REDUCTION, torch.float16, marks=pytest.mark.exhaustive),
    ],
)
def test_steps_are_those_of_eager_code_up_to_rounding(rule: str, dtype: torch.dtype) -> None:
    (x,), own, _ = stepped(rule, "triton", dtype, SHAPES[1:2], 1)
    (y,), others, _ = stepped(rule, "eager", dtype, SHAPES[1:2], 1)
    # Triton's interpreter cuts off the bits of a float32 that a bfloat16 lacks.
    unit = torch.finfo(dtype).eps
    size = y.detach().abs().max().item()
    torch.testing.assert_close(x.detach(), y.detach(), rtol=2 * unit, atol=unit * size)
    for name, value in others.state[y].items():
        assert own.state[x][name].dtype is value.dtype
        size = value.abs().max().item()
        torch.testing.assert_close(own.state[x][name], value, rtol=1e-5, atol=3e-6 * size)


def test_a_step_is_the_same_from_run_to_run_and_is_resumed_to_the_bit() -> None:
    shapes: list[tuple[int, ...]] = [(66, 7)]
    first, _, _ = stepped("came", "triton", torch.float32, shapes, 1)
    second, optimizer, _ = stepped("came", "triton", torch.float32, shapes, 1)
    for x, y in zip(first, second, strict=True):
        assert torch.equal(x, y)
    copies = [nn.Parameter(p.detach().clone()) for p in second]
    resumed = optdsl.load("came", backend="triton")(copies)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, q in zip(second, copies, strict=True):
        p.grad, q.grad = p.detach().cos(), q.detach().cos()
    optimizer.step()
    resumed.step()
    for p, q in zip(second, copies, strict=True):
        assert torch.equal(p, q)
        for name, value in optimizer.state[p].items():
            assert torch.equal(resumed.state[q][name], value)


def test_what_is_not_finite_stays_where_eager_code_has_it() -> None:
    x = torch.randn(6, 50, generator=torch.Generator().manual_seed(0))
    x[2, 3], x[4, 7] = torch.nan, torch.inf
    found = []
    for backend in ("triton", "eager"):
        p = nn.Parameter(torch.ones(6, 50, device=DEVICE))
        optimizer = in_c.loaded(EVERY_REDUCTION, backend)([p])
        p.grad = x.clone().to(DEVICE)
        optimizer.step()
        found.append((p.detach(), optimizer.state[p]))
    assert torch.equal(found[0][0].isfinite(), found[1][0].isfinite())
    for name, value in found[1][1].items():
        assert torch.equal(found[0][1][name].isnan(), value.isnan()), name


def test_coefficients_are_learned_as_by_eager_code() -> None:
    learn = {"lr": optdsl.Learn("sgd", lr=1e-3)}
    found = []
    for backend in ("triton", "eager"):
        generator = torch.Generator().manual_seed(0)
        p = nn.Parameter(in_c.randn(generator, (3, 5), torch.float64).to(DEVICE))
        optimizer = optdsl.load("adafactor", backend=backend, learn=learn)([p])
        for _ in range(2):
            p.grad = in_c.randn(generator, (3, 5), torch.float64).to(DEVICE) + p.detach()
            optimizer.step()
        found.append((optimizer.param_groups[0]["lr"], p.detach()))
    assert found[0][0] != 0.01
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-10)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-10, atol=1e-12)


def test_products_and_what_nobody_asked_for_are_eager_code() -> None:
    p = nn.Parameter(torch.zeros(3, 4, device=DEVICE))
    muon = optdsl.load("muon", backend="triton")([p])
    assert type(engine_of(muon, p)) is EagerEngine
    optimizer = optdsl.load("adafactor")([p])
    program = optimizer.compiled.parts.of(p, optimizer.param_groups[0]).program
    assert "triton" in compiled_backends(program)
    assert "triton" not in chosen_backends(program)
    assert type(engine_of(optimizer, p)) is not TritonMatrixEngine


def test_steps_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    p = nn.Parameter(torch.ones(3, 4, device=DEVICE))
    optimizer = optdsl.load("adafactor", backend="triton")([p])
    p.grad = torch.ones_like(p)
    monkeypatch.setattr(launch_arguments, "captured", lambda device: True)
    with pytest.raises(RuntimeError, match="cannot be captured"):
        optimizer.step()
    assert torch.equal(p, torch.ones_like(p))


@pytest.mark.parametrize("shape", [(1, 9000), (2, 3), (3, 16), (64, 17), (768, 3072)])
def test_tiles_have_a_number_of_elements_that_is_a_power_of_two(shape: tuple[int, int]) -> None:
    high, wide = tile_of(*shape, 2048, 128)
    assert high * wide == 2048
    assert high.bit_count() == wide.bit_count() == 1
