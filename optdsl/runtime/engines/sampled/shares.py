"""Rows of a call for parts of tensors, where some of their elements are sampled.

To a kernel a part of a tensor is a tensor of its own, whose addresses are those of the part's first
element. States that only sampled elements have are of one dimension, and begin with the first of
these, or they have the shape of the tensor, as in shards.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optdsl.runtime.engines.sampled.choice import Sample


@dataclass(eq=False)
class Segments:
    """Parts of tensors, in order.

    Attributes:
        holders: int64 of shape (segments,), as all others, on the CPU: the tensor of each.
        offsets: its first element there.
        positions: its first element in states that only sampled elements have.
        sizes: the number of its elements.
    """

    holders: Tensor
    offsets: Tensor
    positions: Tensor
    sizes: Tensor

    @functools.cached_property
    def held(self) -> list[int]:
        """The tensors of which there are parts."""
        return sorted(set(self.holders.tolist()))

    @functools.cached_property
    def lengths(self) -> list[int]:
        """The sizes."""
        return list(self.sizes.tolist())


class Shares:
    """How tensors are divided into parts, which depends on their shapes and not on where they lie.

    Attributes:
        weight: what sums over sampled elements of large tensors are multiplied by.
    """

    def __init__(self, samples: Sequence[Sample], compact: Sequence[bool]) -> None:
        """See the class.

        Args:
            samples: the sample of each tensor.
            compact: whether its states for a pending step have sampled elements only.
        """
        self._samples, self._compact = samples, compact
        self.weight = max((s.weight for s in samples), default=1)

    @property
    def alike(self) -> bool:
        """Whether every tensor is taken whole, and its sums count once."""
        return self.weight == 1

    @functools.cached_property
    def small(self) -> Segments:
        """The tensors whose sums count once, each of which is a part."""
        return self._segments(n for n, s in enumerate(self._samples) if s.weight == 1)

    @functools.cached_property
    def sampled(self) -> Segments:
        """The sampled elements of the other tensors."""
        return self._segments(n for n, s in enumerate(self._samples) if s.weight > 1)

    @functools.cached_property
    def stepped(self) -> Segments:
        """All sampled elements."""
        return self._segments(range(len(self._samples)))

    @functools.cached_property
    def others(self) -> Segments:
        """The elements that are not sampled."""
        numbers = range(len(self._samples))
        parts = [(s.other_begins, s.other_begins, s.other_ends) for s in self._samples]
        return _joined(numbers, parts)

    @functools.cached_property
    def gathered(self) -> list[tuple[int, Sample]]:
        """The tensors of which states have sampled elements only, and their samples."""
        both = enumerate(zip(self._samples, self._compact, strict=True))
        return [(n, sample) for n, (sample, compact) in both if compact]

    def _segments(self, numbers: Iterable[int]) -> Segments:
        numbers = list(numbers)
        parts = []
        for n in numbers:
            sample = self._samples[n]
            positions = sample.positions if self._compact[n] else sample.begins
            parts.append((sample.begins, positions, sample.ends))
        return _joined(numbers, parts)


def _joined(numbers: Sequence[int], parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Segments:
    """Parts of several tensors: begins, positions and ends of each."""
    none = torch.empty(0, dtype=torch.int64, device="cpu")
    begins, positions, ends = (torch.cat([none, *(p[k] for p in parts)]) for k in range(3))
    counts = torch.tensor([len(x) for x, _, _ in parts], dtype=torch.int64, device="cpu")
    tensors = torch.tensor(list(numbers), dtype=torch.int64, device="cpu")
    holders = torch.repeat_interleave(tensors, counts)
    return Segments(holders, begins, positions, ends - begins)
