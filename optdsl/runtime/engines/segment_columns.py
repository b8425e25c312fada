"""The columns of a call for parts of tensors; see `optdsl.runtime.engines.sampled.shares`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.engines import overlaps
from optdsl.runtime.engines.sampled.shares import Segments
from optdsl.runtime.engines.tensor_table import TensorTable


@dataclass
class _Kept:
    """What is kept of the parts of an entry point.

    Attributes:
        segments: of the last call.
        fixed: the rows, and the addresses of tensors but for gradients.
        tables: the last tables with these, the newest first, and the addresses of gradients.
        lists: by name, the addresses of tensors and those of their parts.
        rows: the rows of tensors and of parts.
    """

    segments: Segments | None = None
    fixed: list[Sequence[int]] = field(default_factory=list)
    tables: list[tuple[Sequence[int], array[int]]] = field(default_factory=list)
    lists: dict[str, tuple[list[int], list[int]]] = field(default_factory=dict)
    rows: tuple[list[int], list[int]] = ([], [])


class SegmentColumns:
    """The columns of a call for parts of tensors; it serves as `TensorTable` does.

    What has not changed since the call before is not made again.
    """

    def __init__(self, tensors: TensorTable, segments: Segments, known: StepCache) -> None:
        """See the class.

        Args:
            tensors: the tensors.
            segments: their parts.
            known: has what was made at the call before.
        """
        self._tensors, self._segments = tensors, segments
        self._kept = known.get(_Kept)
        if self._kept.segments is not segments:
            known.put(_Kept(segments))
            self._kept = known.get(_Kept)

    @property
    def sizes(self) -> list[int]:
        """The number of elements of each part."""
        return self._segments.lengths

    def spread(self, numbers: Sequence[int]) -> Sequence[int]:
        """A number for each part, from one for each tensor."""
        before, found = self._kept.rows
        if before != numbers or len(found) != len(self.sizes):
            found = self._of_parts(numbers).tolist()
            self._kept.rows = list(numbers), found
        return found

    def addresses_of(self, names: Sequence[str]) -> list[list[int]]:
        """As `TensorTable.addresses_of`, of the parts."""
        found = []
        for name, bases in zip(names, self._tensors.addresses_of(names), strict=True):
            before, addresses = self._kept.lists.get(name, ([], []))
            if before != bases or len(addresses) != len(self.sizes):
                addresses = self._addresses(name, bases).tolist()
                self._kept.lists[name] = bases, addresses
            found.append(addresses)
        return found

    def table(
        self,
        rows: Sequence[int],
        states: Sequence[str],
        slots: int,
        known: StepCache,
        origins: Sequence[int] | None = None,
    ) -> array[int] | None:
        """As `TensorTable.table`, with a row for each part."""
        names = ("theta", "g", *states)
        bases, kept = self._tensors.addresses_of(names), self._kept
        gradients = bases[1]
        fixed = [rows, bases[0], *bases[2:], *([] if origins is None else [origins])]
        if kept.fixed != fixed:
            kept.fixed, kept.tables = fixed, []
        for known_gradients, table in kept.tables:
            if known_gradients == gradients:
                return table
        if not all(addresses[n] for addresses in bases for n in self._segments.held):
            return None
        if len(kept.tables) < overlaps.STEPS:
            made = self._made(names, bases, rows, 2 + slots, origins)
        else:
            # Only gradients have moved, and nothing reads the oldest table any more.
            _, made = kept.tables.pop()
            width = len(made) // len(self.sizes)
            of_gradients = torch.frombuffer(made, dtype=torch.int64).view(-1, width)[:, 3]
            of_gradients.copy_(self._addresses("g", gradients))
        kept.tables.insert(0, (gradients, made))
        return made

    def _made(
        self,
        names: Sequence[str],
        bases: Sequence[Sequence[int]],
        rows: Sequence[int],
        width: int,
        origins: Sequence[int] | None,
    ) -> array[int]:
        width += origins is not None
        made = array("q", bytes(8 * width * len(self.sizes)))
        table = torch.frombuffer(made, dtype=torch.int64).view(-1, width)
        table[:, 0] = self._segments.sizes
        table[:, 1] = self._of_parts(rows)
        for place, (name, addresses) in enumerate(zip(names, bases, strict=True)):
            table[:, 2 + place] = self._addresses(name, addresses)
        if origins is not None:
            table[:, width - 1] = self._of_parts(origins)
        return made

    def _of_parts(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device="cpu")[self._segments.holders]

    def _addresses(self, name: str, bases: Sequence[int]) -> Tensor:
        """The addresses of the parts, int64, from those of the tensors."""
        width, sampled = self._tensors.stride(name)
        places = self._segments.positions if sampled else self._segments.offsets
        return self._of_parts(bases) + places * width
