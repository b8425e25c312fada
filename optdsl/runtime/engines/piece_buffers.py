"""Memory that steps of pieces use and that belongs to none of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Memory for so many lengths of pieces is kept.
_LENGTHS = 8
# So many layouts of small tensors are kept: another one comes with each set of those that have a
# gradient.
_PACKS = 64

# What yields pieces, given memory for copies; it goes on when a step of the last one is done.
Job = Callable[["Buffers"], Iterator[Sequence[Tensor]]]
# The memory of copies, and, for each of them, its parts.
Packed = tuple[Sequence[Tensor], list[list[Tensor]]]


class Buffers:
    """Memory for one thread at a time.

    Attributes:
        between: for values in between, by dtype, number and length.
        copies: for copies of small tensors.
        packs: how small tensors were last laid out there.
        samples: for copies of sampled elements.
    """

    def __init__(self) -> None:
        """There is none yet."""
        self.between: dict[tuple[torch.dtype, int, int], Sequence[Tensor]] = {}
        self.copies: Tensor | None = None
        self.packs: dict[Any, Packed] = {}
        self.samples: Tensor | None = None

    def like(self, piece: Tensor, number: int) -> Sequence[Tensor]:
        """Memory for values in between.

        Args:
            piece: whose number of elements it has.
            number: of values.
        """
        if piece.device.type != "cpu":
            return piece.new_empty((number, len(piece))).unbind()
        key = piece.dtype, number, len(piece)
        if key not in self.between:
            if len(self.between) > _LENGTHS:
                self.between.clear()
            # What is kept must serve outside an inference mode, too.
            with torch.inference_mode(False):
                self.between[key] = piece.new_empty((number, len(piece))).unbind()
        return self.between[key]

    def sampled(self, number: int, size: int, dtype: torch.dtype, least: int) -> Sequence[Tensor]:
        """Memory for copies of sampled elements, on the CPU.

        Args:
            number: of tensors that they belong to.
            size: how many elements of each.
            dtype: of the copies.
            least: there is memory for so many elements of each, at least.
        """
        own = self.samples
        if own is None or own.dtype is not dtype or own.shape[0] < number or own.shape[1] < size:
            with torch.inference_mode(False):
                own = self.samples = torch.empty(
                    (number, max(size, least)), dtype=dtype, device="cpu"
                )
        return own[:number, :size].unbind()

    def packed(self, columns: list[list[Tensor]], dtype: torch.dtype, least: int) -> Packed:
        """Memory for copies of small tensors, and the parts of it that have their shapes.

        Args:
            columns: tensors of the same shapes each.
            dtype: of the copies.
            least: there is memory for so many elements of each column, at least.
        """
        shapes, device = tuple(x.shape for x in columns[0]), columns[0][0].device
        key = shapes, dtype, device
        if key not in self.packs:
            with torch.inference_mode(False):
                self.packs[key] = self._pack(shapes, (len(columns), dtype, device), least)
        return self.packs[key]

    def _pack(
        self,
        shapes: Sequence[torch.Size],
        kind: tuple[int, torch.dtype, torch.device],
        least: int,
    ) -> Packed:
        number, dtype, device = kind
        sizes = [shape.numel() for shape in shapes]
        wanted = number, max(sum(sizes), least)
        copies = self.copies
        if copies is None or (copies.shape, copies.dtype, copies.device) != (wanted, dtype, device):
            self.packs.clear()
            copies = self.copies = torch.empty(wanted, dtype=dtype, device=device)
        elif len(self.packs) >= _PACKS:
            self.packs.clear()
        flat = copies[:, : sum(sizes)].unbind()
        parts = [
            [x.view(s) for x, s in zip(row.split_with_sizes(sizes), shapes, strict=True)]
            for row in flat
        ]
        return flat, parts


class Pool:
    """Buffers for as many threads as want some at the same time."""

    def __init__(self) -> None:
        """There are none yet."""
        self._unused: list[Buffers] = []

    @contextmanager
    def buffers(self) -> Iterator[Buffers]:
        """Those that nobody else has meanwhile."""
        try:
            found = self._unused.pop()
        except IndexError:
            found = Buffers()
        try:
            yield found
        finally:
            self._unused.append(found)
