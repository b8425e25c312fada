"""Eager steps whose pieces several threads share."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import optdsl
from optdsl.runtime.engines import piece_threads, pieces
from tests.runtime.test_pieces import INTERIOR, hasty_switches, same

SHAPES = [(3000,), (7,), (50, 90), (2, 2), (), (60,), (70,), (411,)]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch uses so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def short_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "_ALONE", 200)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names of the threads that have stepped pieces."""
    names: set[str] = set()
    taken = piece_threads.taken

    def noted(jobs: deque[Any]) -> Iterator[Any]:
        for job in taken(jobs):
            names.add(threading.current_thread().name)
            yield job

    monkeypatch.setattr(piece_threads, "taken", noted)
    return names


def trained(rule: Any, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Parameters and states after some steps, of which one has gradients that are not finite."""
    generator = torch.Generator().manual_seed(0)
    parameters = [
        torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in SHAPES
    ]
    optimizer = rule(parameters, **INTERIOR)
    for step in range(4):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            if step == 2:
                p.grad.view(-1)[-1] = float("inf")
        optimizer.step()
    states = [optimizer.state[p] for p in parameters]
    return [*parameters, *(x for s in states for x in s.values() if isinstance(x, Tensor))]


@pytest.mark.usefixtures("short_pieces")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("learn", [True, False], ids=["learned", "fixed"])
def test_threads_change_no_bit(dtype: torch.dtype, learn: bool, seen: set[str]) -> None:
    rule = optdsl.load("mada", backend="eager", learn=learn)
    with threads(1):
        expected = trained(rule, dtype)
    assert seen == {"MainThread"}
    before = threading.active_count()
    with threads(3), hasty_switches():
        found = trained(rule, dtype)
        assert torch.get_num_threads() == 3
    assert len(seen) > 1
    assert threading.active_count() == before  # None outlives its step.
    assert all(same(x, y) for x, y in zip(found, expected, strict=True))


@pytest.mark.usefixtures("short_pieces")
def test_more_threads_than_python_serves_share_every_operation(seen: set[str]) -> None:
    rule = optdsl.load("mada", backend="eager", learn=False)
    with threads(1):
        expected = trained(rule)
    with threads(piece_threads.MOST + 1):
        found = trained(rule)
    assert seen == {"MainThread"}
    assert all(same(x, y) for x, y in zip(found, expected, strict=True))


class Calls(TorchDispatchMode):
    """Counts what is called."""

    number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.usefixtures("short_pieces")
def test_a_step_that_is_observed_has_one_thread(seen: set[str]) -> None:
    p = torch.nn.Parameter(torch.ones(3000))
    optimizer = optdsl.load("adam", backend="eager")([p])
    p.grad = torch.ones_like(p)
    with threads(3), Calls() as calls:
        optimizer.step()
    assert seen == {"MainThread"}
    assert calls.number >= 15 * 10  # of fifteen pieces


@pytest.mark.usefixtures("short_pieces")
def test_autograd_notices_that_parameters_were_changed() -> None:
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (3000, 3, 5)]
    optimizer = optdsl.load("adam", backend="eager")(parameters)
    for p in parameters:
        p.grad = torch.ones_like(p)
    for p in parameters:
        loss = (p * p).sum()
        with threads(2):
            optimizer.step()
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()  # type: ignore[no-untyped-call]
        loss = (p * p).sum()
        loss.backward()  # type: ignore[no-untyped-call]
    assert not any(x.is_inference() for p in parameters for x in optimizer.state[p].values())


@pytest.mark.parametrize("where", ["MainThread", "optdsl-pieces"])
def test_an_error_of_any_thread_is_raised(where: str) -> None:
    met, done = threading.Barrier(2), []

    def run(jobs: Iterator[int]) -> None:
        for job in jobs:
            if job < 2:
                met.wait()  # Each thread has one of the first two jobs.
                if threading.current_thread().name == where:
                    raise ValueError("a defect")
            done.append(job)

    jobs = deque(range(10_000))
    with threads(2), pytest.raises(ValueError, match="a defect"):
        piece_threads.shared(jobs, run)
    assert not jobs
    assert len(done) < 10_000


def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    done: list[int] = []
    with threads(2):
        piece_threads.shared(deque(range(100)), done.extend)
        assert torch.get_num_threads() == 2
    assert done == list(range(100))
