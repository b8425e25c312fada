"""Random numbers on tensors; `optdsl.ir.draws` says what they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optdsl.ir.draws import MULTIPLIERS, ROUNDS, SHIFT, UNIT, WEYL, WORD, counted, key_of

# So many blocks of four words are made at a time.
_BLOCKS = 1 << 18


@dataclass(frozen=True)
class Draws:
    """What a step draws for one tensor; emitted code calls it.

    Attributes:
        seed: that of the optimizer.
        tensor: the number of the tensor in its optimizer, from 0.
        whole: of a shard, the shape of the whole tensor; None where a tensor is all there is.
        offset: of a shard, where it begins in each dimension.
    """

    seed: int
    tensor: int
    whole: tuple[int, ...] | None = None
    offset: tuple[int, ...] = ()

    def normal(
        self, name: str, counter: float, like: Tensor, shape: Sequence[int] | None = None
    ) -> Tensor:
        """Normal numbers of mean 0 and variance 1, the largest of size 5.77.

        Args:
            name: the name under which they are drawn.
            counter: a finite number, of whose whole part 64 bits count.
            like: a tensor of the dtype and on the device that they get.
            shape: their shape, that of `like` by default.

        Raises:
            ValueError: for a counter that is no finite number.
        """
        return self._drawn("normal", name, counter, like, shape)

    def rademacher(
        self, name: str, counter: float, like: Tensor, shape: Sequence[int] | None = None
    ) -> Tensor:
        """-1 or 1 with equal probability; see `normal`."""
        return self._drawn("rademacher", name, counter, like, shape)

    def uniform(
        self, name: str, counter: float, like: Tensor, shape: Sequence[int] | None = None
    ) -> Tensor:
        """Multiples of 2^-24 in [0, 1); see `normal`."""
        return self._drawn("uniform", name, counter, like, shape)

    def _drawn(
        self,
        distribution: str,
        name: str,
        counter: float,
        like: Tensor,
        shape: Sequence[int] | None,
    ) -> Tensor:
        size = torch.Size(like.shape if shape is None else shape)
        key = key_of(self.seed, name, self.tensor)
        count = size.numel()
        low, high = counted(counter)
        index = self._index(size, like) if shape is None and self.whole is not None else None
        if index is None:
            parts = []
            for first in range(0, -(-count // 4), _BLOCKS):
                last = min(first + _BLOCKS, -(-count // 4))
                blocks = torch.arange(first, last, dtype=torch.int64, device=like.device)
                words = _philox(blocks, low, high, key)
                parts.append(_FROM_WORDS[distribution](words, like.dtype).reshape(-1))
            found = torch.cat(parts) if parts else like.new_empty(0)
            return found[:count].reshape(size)
        # Each element by itself: it need not be beside those that share its words.
        words = _philox(index // 4, low, high, key)
        every = _FROM_WORDS[distribution](words, like.dtype)
        return every.gather(-1, (index % 4).unsqueeze(-1)).reshape(size)

    def _index(self, size: torch.Size, like: Tensor) -> Tensor:
        """The index in the whole tensor of each element of a shard."""
        assert self.whole is not None
        index = torch.zeros((), dtype=torch.int64, device=like.device)
        for place, (begin, own) in enumerate(zip(self.offset, size, strict=True)):
            along = torch.arange(begin, begin + own, dtype=torch.int64, device=like.device)
            index = index.unsqueeze(-1) + along * math.prod(self.whole[place + 1 :])
        return index.reshape(-1)


def _philox(blocks: Tensor, low: int, high: int, key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four words for each block, as whole numbers of 64 bits; see `optdsl.ir.draws.philox`."""
    a, b = blocks & WORD, blocks >> 32 & WORD
    c, d = torch.full_like(a, low), torch.full_like(a, high)
    first, second = key
    for _ in range(ROUNDS):
        # The 64 bits of the products are right, whatever they are as signed numbers.
        left, right = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b = (right >> 32 & WORD) ^ b ^ first, right & WORD
        c, d = (left >> 32 & WORD) ^ d ^ second, left & WORD
        first, second = (first + WEYL[0]) & WORD, (second + WEYL[1]) & WORD
    return a, b, c, d


def _unit(word: Tensor, dtype: torch.dtype, more: int = 0) -> Tensor:
    return ((word >> SHIFT) + more).to(dtype) * UNIT


def _normal(words: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    found = []
    for first, second in (words[:2], words[2:]):
        radius = torch.sqrt(-2 * torch.log(_unit(first, dtype, more=1)))
        angle = 2 * math.pi * _unit(second, dtype)
        found += [radius * torch.cos(angle), radius * torch.sin(angle)]
    return torch.stack(found, dim=-1)


def _rademacher(words: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    return 1 - 2 * (torch.stack(words, dim=-1) >> 31).to(dtype)


def _uniform(words: tuple[Tensor, ...], dtype: torch.dtype) -> Tensor:
    return _unit(torch.stack(words, dim=-1), dtype)


_FROM_WORDS = {"normal": _normal, "rademacher": _rademacher, "uniform": _uniform}
