"""Eager steps piece by piece give the bits of steps of whole tensors."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines import piece_buffers, pieces
from optdsl.runtime.engines.pieces import Pieces
from optdsl.runtime.engines.sampled.pieces import SampledTask

SHAPES = [(1000,), (3,), (5, 7), (), (0,), (130, 2), (399,), (4, 4, 4)]
INTERIOR = {"c": 0.7, "rho": 0.6, "kappa": 0.3, "gamma": 0.8, "weight_decay": 0.1}
EXPRESSIONS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": ("adam", {"weight_decay": 0.1}),
    "radam": ("radam", {}),
    "amsgrad": ("amsgrad", {}),
    "mada": ("mada", {}),
    "mada inside": ("mada", INTERIOR),
    "mada late": ("mada", {**INTERIOR, "weight_decay": 0.0, "beta1": 0.01, "beta2": 0.01}),
    "mada at the other ends": ("mada", {"c": 0.0, "rho": 0.0, "kappa": 1.0, "gamma": 0.0}),
}


class Counted:
    """Counts the tensors that were stepped piece by piece."""

    def __init__(self) -> None:
        self.number = 0
        self._advance, self._advance_samples = Pieces.advance, Pieces.advance_samples

    def advance(self, own: Pieces, works: Sequence[ParameterTask]) -> None:
        self._advance(own, works)
        self.number += len(works)

    def advance_samples(self, own: Pieces, samples: Sequence[SampledTask]) -> None:
        self._advance_samples(own, samples)
        self.number += len(samples)


def run(
    rule: Any, options: dict[str, Any], dtype: torch.dtype, strange: bool
) -> tuple[list[Tensor], list[float]]:
    """Parameters and states after some steps, and the coefficients."""
    generator = torch.Generator().manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES
    ]
    optimizer = rule(parameters, **options)
    for step in range(4):
        for number, p in enumerate(parameters):
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            if (number + step) % 5 == 4:
                p.grad = None  # So that counts of steps differ.
            elif strange and p.numel() > 10 and step > 1:
                special = [float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e38]
                p.grad.view(-1)[:6] = torch.tensor(special).to(dtype)
                p.data.view(-1)[6:9] = torch.tensor([float("inf"), float("nan"), -0.0]).to(dtype)
        optimizer.step()
    found = [p.detach() for p in parameters]
    for p in parameters:
        state = optimizer.state[p]
        found += [state[k] for k in sorted(state) if isinstance(state[k], Tensor)]
    group = optimizer.param_groups[0]
    return found, [v for v in group.values() if isinstance(v, float)]


def same(x: Tensor, y: Tensor) -> bool:
    """Whether tensors have the same bits, but for those of NaN."""
    if x.dtype is not y.dtype or x.shape != y.shape:
        return False
    equal = (x == y) & (torch.signbit(x) == torch.signbit(y))
    return bool((equal | (x.isnan() & y.isnan())).all())


CASES = [(name, torch.float32) for name in EXPRESSIONS]
CASES += [("mada inside", torch.bfloat16), ("mada inside", torch.float64)]


@pytest.mark.parametrize(("name", "dtype"), CASES, ids=str)
def test_the_same_bits(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_ALONE", 400)
    monkeypatch.setattr(pieces, "_EACH", 400)
    monkeypatch.setattr(pieces, "_THREADS", 1)
    expression, options = EXPRESSIONS[name]
    divided = Pieces.divided
    rule = optdsl.load(expression, backend="eager")
    counted = Counted()
    for strange in (False, True):
        monkeypatch.setattr(Pieces, "divided", divided)
        monkeypatch.setattr(Pieces, "advance", lambda own, works: counted.advance(own, works))
        found, moved = run(rule, options, dtype, strange)
        # Without pieces, tensors are stepped whole, one after the other.
        monkeypatch.setattr(Pieces, "divided", lambda own, works: ([], works))
        expected, wanted = run(rule, options, dtype, strange)
        assert all(same(x, y) for x, y in zip(found, expected, strict=True))
        assert str(moved) == str(wanted)  # NaN is no reason to differ.
    # All but the empty tensor, and those without gradients.
    assert counted.number == 2 * 23


# Pieces of the sample are blocks that lie together, single blocks of 1024, and parts of blocks.
@pytest.mark.parametrize("length", [pieces._SAMPLED, 1024, 400])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.usefixtures("few_cells")
def test_the_same_bits_where_a_sample_is_learned_from(
    dtype: torch.dtype, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pieces, "_SAMPLED", length)
    how = optdsl.Learn("sgd", lr=1e-2, sample=2)
    learn = {"rho": how, "gamma": how}
    rule = optdsl.load("mada", learn=learn, backend="eager")
    monkeypatch.setattr(f"{__name__}.SHAPES", [(3000,), (7,), (50, 90), (2, 2)])
    counted = Counted()
    monkeypatch.setattr(Pieces, "advance", lambda own, works: counted.advance(own, works))
    by_samples = counted.advance_samples
    monkeypatch.setattr(Pieces, "advance_samples", lambda own, tasks: by_samples(own, tasks))
    found, moved = run(rule, INTERIOR, dtype, strange=False)
    # In three of four steps both small tensors; of the large ones copies, and they themselves.
    assert counted.number == 6 + 2 * 7
    monkeypatch.setattr(Pieces, "divided", lambda own, works: ([], works))
    expected, wanted = run(rule, INTERIOR, dtype, strange=False)
    assert len(found) == len(expected)
    assert all(same(x, y) for x, y in zip(found, expected, strict=True))
    assert moved == wanted


def test_overlapping_and_strided_tensors_are_stepped_as_they_were() -> None:
    memory = torch.randn(60)
    starts = [memory[:40].clone(), memory[20:].clone()]
    plain, parts = [memory[:40], memory[20:]], [s.clone() for s in starts]
    image = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    rule = optdsl.load("adam", backend="eager")
    both = rule([torch.nn.Parameter(x) for x in plain], lr=0.1)
    for group in both.param_groups:
        for p in group["params"]:
            p.grad = torch.ones(40)
    both.step()
    # The second step of what they share reads what the first has written.
    first = parts[0] - 0.1
    expected = parts[1] - 0.1
    expected[:20] = first[20:] - 0.1
    torch.testing.assert_close(memory, torch.cat([first[:20], expected]), rtol=1e-6, atol=1e-6)
    strided, compact = torch.nn.Parameter(image.clone()), torch.nn.Parameter(image.contiguous())
    gradient = torch.randn(2, 3, 4, 4)
    for p in (strided, compact):
        optimizer = rule([p], lr=0.1)
        p.grad = gradient.clone()
        optimizer.step()
    assert torch.equal(strided, compact)


@contextmanager
def hasty_switches() -> Iterator[None]:
    """Threads take turns a thousand times as often as they do by default."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(before / 1000)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def test_optimizers_of_a_class_may_be_stepped_in_several_threads() -> None:
    rule = optdsl.load("mada", backend="eager", learn=False)

    def trained(seed: int) -> list[Tensor]:
        torch.set_num_threads(1)  # It is of a thread, and in it pieces are of other lengths.
        generator = torch.Generator().manual_seed(seed)
        parameters = [
            torch.nn.Parameter(torch.randn(n, generator=generator)) for n in (100, 60_000, 300)
        ]
        optimizer = rule(parameters, **INTERIOR)
        for _ in range(10):
            for p in parameters:
                p.grad = torch.randn(p.shape, generator=generator)
            optimizer.step()
        return parameters

    alone = list(map(trained, range(3)))
    with hasty_switches(), ThreadPoolExecutor(3) as pool:
        together = list(pool.map(trained, range(3)))
    for expected, found in zip(alone, together, strict=True):
        assert all(map(torch.equal, expected, found))


def test_steps_in_inference_mode_leave_nothing_behind() -> None:
    rule = optdsl.load("adam", backend="eager")
    # Small tensors are copied together, and the large one is cut.
    for mode in (torch.inference_mode, torch.no_grad):
        with mode():
            parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3, 60_000, 5)]
            optimizer = rule(parameters, lr=0.1)
            for p in parameters:
                p.grad = torch.ones_like(p)
            optimizer.step()
            assert all(torch.allclose(p, torch.full_like(p, 0.9)) for p in parameters)


def test_layouts_of_small_tensors_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(piece_buffers, "_PACKS", 2)
    rule = optdsl.load("adam", backend="eager")
    shapes = [(2,), (3,), (4,)]
    parameters = [torch.nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = rule(parameters, lr=0.1)
    for absent in (0, 1, 2, None, 0):
        for number, p in enumerate(parameters):
            p.grad = None if number == absent else torch.ones_like(p)
        optimizer.step()
    for p, steps in zip(parameters, (3, 4, 4), strict=True):
        torch.testing.assert_close(p.detach(), torch.full_like(p, 1 - 0.1 * steps))


@pytest.mark.parametrize("order", ["overlapped", "exact"])
@pytest.mark.parametrize("shape", [(), (1,), (5,)])
def test_a_gradient_of_another_shape_changes_nothing(order: str, shape: tuple[int, ...]) -> None:
    learn = {"rho": optdsl.Learn("sgd", lr=1e-2, sample=2)}
    rule = optdsl.load("mada", learn=learn, order=order, backend="eager")
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3, 3000, 5)]
    optimizer = rule(parameters, **INTERIOR)
    for _ in range(2):
        for p in parameters:
            p.grad = torch.ones_like(p)
        optimizer.step()
    before = [p.detach().clone() for p in parameters]
    before += [x.clone() for p in parameters for x in optimizer.state[p].values()]
    rho = optimizer.param_groups[0]["rho"]
    assert parameters[1].grad is not None
    parameters[1].grad.data = torch.ones(shape)
    with pytest.raises(RuntimeError, match="gradient has shape"):
        optimizer.step()
    after = [p.detach() for p in parameters]
    after += [x for p in parameters for x in optimizer.state[p].values()]
    assert all(map(torch.equal, before, after))
    assert optimizer.param_groups[0]["rho"] == rho


def test_nothing_is_learned_where_a_state_has_another_shape() -> None:
    rule = optdsl.load("mada", order="exact", backend="eager")
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3, 12)]
    optimizer = rule(parameters, **INTERIOR)
    for number in range(2):
        if number:
            parameters[1].grad = None
            parameters[1].data = torch.ones(3, 4)
        for p in parameters:
            p.grad = torch.ones_like(p)
        before = dict(optimizer.param_groups[0])
        if not number:
            optimizer.step()
            continue
        with pytest.raises(RuntimeError, match="has shape"):
            optimizer.step()
        assert before == optimizer.param_groups[0]
    assert torch.equal(parameters[1].detach(), torch.ones(3, 4))
