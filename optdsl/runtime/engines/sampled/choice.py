"""Which elements of a tensor are in the sample that estimates hyper-gradients.

The choice is by the index of an element in the whole tensor, in row-major order, so that it is the
same for every backend, every memory layout, every cut of a tensor into shards, and after a resume.
A tensor is divided into cells of ``k`` blocks of `BLOCK` elements, the last of which may be
shorter, and of each cell one block is taken: that of the number ``mix(cell) mod k``. A tensor of
fewer than `CELLS` full cells is taken whole. Sums over the sample are multiplied by its weight,
``k``. Over all choices of the blocks, which are alike likely, the mean of the weighted sum is the
sum over all elements, since every block, a short one too, is taken in one of ``k`` cases.

The integer mix is the output function of SplitMix64 (Steele, Lea, Flood, "Fast splittable
pseudorandom number generators", OOPSLA 2014), at the state ``seed + (cell + 1) * GOLDEN``.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from optdsl.runtime.core.tasks import Place

# So many elements that follow one another are chosen together. In single precision a block of 1024
# has parts of two pages in most tensors, and one of 2048 of three, so that looking up addresses
# takes less.
BLOCK = 2048
# So many full cells has a tensor that is not taken whole. The choice is made once, so that the
# error of a few blocks would stay, as another rate of learning, where a sum over many blocks errs
# little; and the sums of a tensor as small as this cost little.
CELLS = 16

_WORD, _SIGN = 2**64, 2**63
_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_SHIFTS = (30, 27, 31)
# So many choices are kept for the calls to come.
_KEPT = 4096


@dataclass(frozen=True)
class Sample:
    """The sampled elements of a tensor, or of a shard of one.

    Attributes:
        weight: what sums over them are multiplied by.
        size: the number of elements of the tensor or the shard.
        count: how many of them are sampled.
        begins, ends: int64 of shape (segments,), on the CPU: the sampled elements, as ranges of
            row-major indices in the tensor or the shard, in order, none of them empty and no two of
            them adjacent.
        other_begins, other_ends: the same for the elements that are not sampled.
    """

    weight: int
    size: int
    count: int
    begins: Tensor
    ends: Tensor
    other_begins: Tensor
    other_ends: Tensor

    @property
    def whole(self) -> bool:
        """Whether every element is sampled, as in a small tensor."""
        return self.count == self.size

    @functools.cached_property
    def positions(self) -> Tensor:
        """int64 of shape (segments,): how many sampled elements come before each segment."""
        lengths = self.ends - self.begins
        return lengths.cumsum(0) - lengths

    @functools.cached_property
    def _indices(self) -> dict[torch.device, Tensor]:
        return {}

    def index(self, device: torch.device) -> Tensor:
        """int64 of shape (count,): the row-major indices of the sampled elements, in order."""
        if device not in self._indices:
            # What is kept must have values, whatever mode is on meanwhile.
            with _disable_current_modes():
                lengths = self.ends - self.begins
                first = torch.repeat_interleave(self.begins - self.positions, lengths)
                index = first + torch.arange(self.count, dtype=torch.int64, device="cpu")
                self._indices[device] = index.to(device)
        return self._indices[device]


_known: dict[tuple[tuple[int, ...], int, Place | None, int], Sample] = {}


def sample_of(shape: Sequence[int], k: int, place: Place | None = None, seed: int = 0) -> Sample:
    """The sample of a tensor, or the part of it that a shard has.

    Args:
        shape: that of the tensor or the shard.
        k: one element of so many is sampled, of large tensors.
        place: where the shard is in the whole tensor; None for a tensor that is all there is.
        seed: of the choice; the same for all ranks.
    """
    key = tuple(shape), k, place, seed
    found = _known.get(key)
    if found is None:
        # What is kept must have values, whatever mode is on meanwhile.
        with _disable_current_modes():
            found = _sample(*key)
        while len(_known) >= _KEPT:
            del _known[next(iter(_known))]
        _known[key] = found
    return found


def smallest(k: int) -> int:
    """How many elements a tensor has at least that is not taken whole."""
    return CELLS * k * BLOCK


def chosen(cells: Tensor, k: int, seed: int = 0) -> Tensor:
    """The number of the block that is taken of each cell, in [0, k).

    Args:
        cells: int64, the numbers of cells.
        k: how many blocks a cell has.
        seed: of the choice.
    """
    x = (cells + 1) * _signed(_GOLDEN) + _signed(seed % _WORD)
    for shift, factor in zip(_SHIFTS, _FACTORS, strict=False):
        x = (x ^ _shifted(x, shift)) * _signed(factor)
    x = x ^ _shifted(x, _SHIFTS[-1])
    # 63 bits, of which no sign is left.
    return _shifted(x, 1) % k


def _sample(shape: tuple[int, ...], k: int, place: Place | None, seed: int) -> Sample:
    size = math.prod(shape)
    total = size if place is None else math.prod(place.whole)
    empty = _int64([])
    small = total < smallest(k)
    if small or k == 1 or not size:
        weight = 1 if small else k
        every = (_int64([0]), _int64([size])) if size else (empty, empty)
        return Sample(weight, size, size, *every, empty, empty)
    firsts, length = _runs(shape, place)
    # The cells of which each run has a part, and the part that it has of the block that is taken.
    first, last = firsts // (k * BLOCK), (firsts + length - 1) // (k * BLOCK)
    counts = last - first + 1
    run = torch.repeat_interleave(counts)
    cell = torch.arange(len(run), device="cpu") + (first - counts.cumsum(0) + counts)[run]
    begins = (cell * k + chosen(cell, k, seed)) * BLOCK - firsts[run]
    ends = (begins + BLOCK).clamp(max=length)
    begins = begins.clamp(min=0)
    held = begins < ends
    begins, ends = ((x + run * length)[held] for x in (begins, ends))
    # Those that are adjacent are one segment.
    apart = begins[1:] != ends[:-1]
    one = torch.ones(1, dtype=torch.bool, device="cpu")
    if len(begins):
        begins, ends = begins[torch.cat([one, apart])], ends[torch.cat([apart, one])]
    others = torch.cat([_int64([0]), ends]), torch.cat([begins, _int64([size])])
    held = others[0] < others[1]
    count = int((ends - begins).sum())
    return Sample(k, size, count, begins, ends, others[0][held], others[1][held])


def _runs(shape: tuple[int, ...], place: Place | None) -> tuple[Tensor, int]:
    """The index in the whole of the first element of each run, in order, and the runs' length.

    The elements of a run follow one another in the whole tensor as they do in the shard.
    """
    if place is None:
        return _int64([0]), math.prod(shape)
    strides = [math.prod(place.whole[n + 1 :]) for n in range(len(shape))]
    length, dimensions = 1, len(shape)
    # The last dimensions follow one another, up to the first of which the shard has a part.
    while dimensions and length == strides[dimensions - 1]:
        dimensions -= 1
        length *= shape[dimensions]
    firsts = _int64([sum(o * s for o, s in zip(place.offset, strides, strict=True))])
    for own, stride in zip(shape[:dimensions], strides[:dimensions], strict=True):
        along = torch.arange(own, dtype=torch.int64, device="cpu") * stride
        firsts = (firsts.unsqueeze(-1) + along).reshape(-1)
    return firsts, length


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    return x >> bits & (1 << (64 - bits)) - 1


def _signed(word: int) -> int:
    return word - _WORD if word >= _SIGN else word


def _int64(values: Sequence[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device="cpu")
