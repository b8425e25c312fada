"""Over the choices of blocks, the mean of the estimates is the hyper-gradient of every element."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from torch import nn

import optdsl
from optdsl import Learn
from optdsl.runtime.engines.sampled import tensors
from optdsl.runtime.engines.sampled.choice import Sample, sample_of

pytestmark = pytest.mark.usefixtures("few_cells")
BLOCK = 1024


@functools.cache
def sampling_sgd() -> type[Any]:
    learn = {"lr": Learn("sgd", lr=0, bounds=(0, 1), sample=2)}
    return optdsl.load("sgd", learn=learn, backend="eager")


def seeded_estimate(monkeypatch: pytest.MonkeyPatch, choose: Any) -> float:
    monkeypatch.setattr(tensors, "sample_of", choose)
    generator = torch.Generator().manual_seed(11)
    p = nn.Parameter(torch.zeros(16 * BLOCK + 100, dtype=torch.float64))
    opt = sampling_sgd()([p], lr=0.1)
    shared = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    for _ in range(2):
        p.grad = shared + torch.randn(p.shape, generator=generator, dtype=torch.float64)
        opt.step()
    return float(opt.metrics()["hypergradient/lr"])


def test_the_estimate_is_unbiased(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over seeds within its standard error, and over all choices of three cells exactly."""
    every = lambda shape, k, place=None: sample_of(shape, 1)  # noqa: E731
    full = seeded_estimate(monkeypatch, every)
    found = torch.tensor([
        seeded_estimate(monkeypatch, functools.partial(sample_of, seed=seed))
        for seed in range(60)
    ], dtype=torch.float64)  # fmt: skip
    error = float(found.std()) / math.sqrt(len(found))
    assert 0 < error < 0.05 * abs(full)
    assert abs(float(found.mean()) - full) < 3.5 * error
    # Every choice of a block of each of three cells, and all of their elements.
    total = []
    for choice in itertools.product(range(2), repeat=3):
        total.append(seeded_estimate(monkeypatch, functools.partial(_of_blocks, choice)))
    first = seeded_estimate(monkeypatch, _first_cells)
    assert sum(total) / len(total) == pytest.approx(first, rel=1e-12)


def _of_blocks(choice: tuple[int, ...], shape: Any, k: int, place: Any = None) -> Sample:
    begins = [(2 * cell + number) * BLOCK for cell, number in enumerate(choice)]
    return _made(shape, begins, k)


def _first_cells(shape: Any, k: int, place: Any = None) -> Sample:
    return _made(shape, [n * BLOCK for n in range(6)], 1)


def _made(shape: Any, begins: list[int], weight: int) -> Sample:
    first = torch.tensor(begins)
    none = torch.empty(0, dtype=torch.int64)
    return Sample(weight, math.prod(shape), BLOCK * len(begins), first, first + BLOCK, none, none)
