"""The choice of a sample, against the definition element by element."""

from __future__ import annotations

import math

import pytest
import torch

from optdsl.runtime.core.tasks import Place
from optdsl.runtime.engines.sampled.choice import BLOCK, CELLS, Sample, chosen, sample_of, smallest

WORD = 2**64


def mixed(cell: int, seed: int) -> int:
    """SplitMix64 on Python's integers."""
    x = (seed + (cell + 1) * 0x9E3779B97F4A7C15) % WORD
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) % WORD
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) % WORD
    return (x ^ (x >> 31)) >> 1


def mask(size: int, k: int, seed: int = 0) -> torch.Tensor:
    """Which elements of a whole tensor are sampled."""
    if size < CELLS * k * BLOCK:
        return torch.ones(size, dtype=torch.bool)
    blocks = [mixed(b // k, seed) % k == b % k for b in range(-(-size // BLOCK))]
    return torch.tensor(blocks).repeat_interleave(BLOCK)[:size]


def check(sample: Sample, expected: torch.Tensor) -> None:
    """Compare a sample with a mask of its elements."""
    index = expected.nonzero().reshape(-1)
    assert (sample.size, sample.count) == (expected.numel(), index.numel())
    assert torch.equal(sample.index(torch.device("cpu")), index)
    assert torch.equal(sample.positions, torch.searchsorted(index, sample.begins))
    found = torch.zeros_like(expected)
    for begin, end in zip(sample.begins, sample.ends, strict=True):
        assert begin < end
        found[begin:end] = True
    assert torch.equal(found, expected)
    for begin, end in zip(sample.other_begins, sample.other_ends, strict=True):
        assert begin < end
        found[begin:end] = True
    assert found.all()


@pytest.mark.parametrize("seed", [0, 1, WORD - 1])
@pytest.mark.parametrize("k", [1, 2, 8, 13])
def test_whole_tensors(k: int, seed: int) -> None:
    least = 16 * k * BLOCK
    assert smallest(k) == least
    sizes = [0, 1, k * BLOCK, least - 1, least, least + 1, 261 * BLOCK + 77, 300 * BLOCK]
    for size in sizes:
        sample = sample_of((size,), k, seed=seed)
        check(sample, mask(size, k, seed))
        assert sample.weight == (1 if size < least else k)
        assert sample.whole == (k == 1 or size < least)


def test_one_block_of_each_full_cell() -> None:
    size = 1_000_000
    sample = sample_of((1000, 1000), 8)
    cells = size // (8 * BLOCK)
    assert cells * BLOCK <= sample.count <= (cells + 1) * BLOCK
    # No two choices hang together: each number of a block is taken about as often.
    counts = torch.bincount(chosen(torch.arange(80_000), 8), minlength=8)
    assert (counts - 10_000).abs().max() < 5 * math.sqrt(80_000 * 7 / 64)


@pytest.mark.parametrize("shape", [(64, 40, 30), (1000, 91), (70_001,)])
@pytest.mark.parametrize("dimension", [0, 1, 2])
def test_shards_have_their_part_of_the_whole_choice(shape: tuple[int, ...], dimension: int) -> None:
    if dimension >= len(shape):
        return
    k = 2
    whole = mask(math.prod(shape), k, 0).reshape(shape)
    begin = 0
    for part in whole.tensor_split(3, dimension):
        offset = [0] * len(shape)
        offset[dimension] = begin
        begin += part.shape[dimension]
        check(sample_of(part.shape, k, Place(shape, tuple(offset))), part.reshape(-1))
    # A part in two dimensions, and one of nothing.
    cut = tuple(slice(n // 3, n // 2) for n in shape)
    place = Place(shape, tuple(n // 3 for n in shape))
    check(sample_of(whole[cut].shape, k, place), whole[cut].reshape(-1))
    nothing = (0, *shape[1:])
    check(sample_of(nothing, k, Place(shape, (shape[0],) + (0,) * (len(shape) - 1))),
          torch.ones(0, dtype=torch.bool))  # fmt: skip
