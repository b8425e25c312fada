"""Numbers that each parameter owns, such as its count of steps, for many parameters at once.

Every parameter has a tensor of its own, which is updated in place, as with torch. So that a step
does not handle them one by one, those that are made together lie side by side in one memory, and
are read and written there as a matrix; on the host, as bytes, which are interpreted only where
somebody else has changed them. Tensors that lie elsewhere are handled as they are.
"""

from __future__ import annotations

import ctypes
import itertools
import operator
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor

# Tensors in more memories than this are read and written one by one.
_MEMORIES = 8


def made(rows: Tensor) -> list[Tensor]:
    """Tensors for the states of several parameters.

    Args:
        rows: of shape (parameters,) for numbers of shape (), or (parameters, width).

    Returns:
        Tensors that have the rows' memory.
    """
    return list(rows.unbind(0))


def counts(number: int) -> list[Tensor]:
    """The counts of parameters that have taken no step: float64, shape (), on the CPU."""
    return made(torch.zeros(number, dtype=torch.float64, device="cpu"))


def number_of(x: Any) -> float:
    """The value of a number; 0 for a tensor without values (meta, or under FakeTensorMode)."""
    return 0.0 if without_values(x) else float(x)


def without_values(x: Any) -> bool:
    """Whether a tensor has no values: a meta tensor, or a fake one. Imports nothing."""
    return isinstance(x, Tensor) and (x.is_meta or is_fake(x))


def is_fake(x: Any) -> bool:
    """Whether a tensor is one of `FakeTensorMode`; imports nothing."""
    module = sys.modules.get("torch._subclasses.fake_tensor")
    return module is not None and isinstance(x, module.FakeTensor)


def separated(states: Iterable[dict[str, Any]], keys: Sequence[str]) -> None:
    """Give each state a tensor of its own where several share one, as older versions saved them."""
    seen: set[int] = set()
    for state in states:
        for key in keys:
            x = state.get(key)
            if type(x) is Tensor and not without_values(x) and x.numel():
                if x.data_ptr() in seen:
                    x = state[key] = x.clone()
                seen.add(x.data_ptr())


@dataclass(frozen=True)
class _Memory:
    """Tensors in one memory.

    Attributes:
        matrix: their numbers, a row each, where they lie at equal distances; else None.
        flat: the whole memory.
        index: where in it their numbers are, a row each.
        places: which of the tensors they are.
    """

    matrix: Tensor | None
    flat: Tensor
    index: Tensor
    places: Tensor

    def read(self) -> Tensor:
        return self.flat[self.index] if self.matrix is None else self.matrix

    def write(self, rows: Tensor) -> None:
        if self.matrix is None:
            self.flat[self.index] = rows
        else:
            self.matrix.copy_(rows)


class Owned:
    """The numbers of some tensors, all of one shape: () or (width,).

    Attributes:
        tensors: the tensors.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        """Find out where they lie."""
        self.tensors = list(tensors)
        self._addresses = list(map(Tensor.data_ptr, tensors))
        self._memories = _memories(self.tensors)
        self._length = _length(self._memories)
        # The bytes that were last read or written, and what they were found to be.
        self._bytes = b""
        self._rows: tuple[list[list[float]], list[int]] | None = None
        self._numbers: list[float] | None = None

    @classmethod
    def of(cls, tensors: Sequence[Tensor], before: Owned | None) -> Owned:
        """The numbers of tensors: `before` again where it is of the same ones."""
        return before if before is not None and before._are(tensors) else cls(tensors)

    def _are(self, tensors: Sequence[Tensor]) -> bool:
        """Whether the tensors are these and lie where they did (`share_memory_` moves them)."""
        return (
            len(tensors) == len(self.tensors)
            and all(map(operator.is_, tensors, self.tensors))
            and list(map(Tensor.data_ptr, tensors)) == self._addresses
        )

    def rows(self) -> tuple[list[list[float]], list[int]]:
        """The different rows of numbers, and which of them each tensor has."""
        if self._length and self._look() and self._rows is not None:
            return self._rows
        self._rows = self._found_rows()
        return self._rows

    def _found_rows(self) -> tuple[list[list[float]], list[int]]:
        if self._memories is None:
            found = [x.reshape(-1).tolist() for x in self.tensors]
        else:
            matrix = self._matrix(self._memories)
            if len(matrix) > 1 and bool((matrix == matrix[0]).all()):
                return [matrix[0].tolist()], [0] * len(matrix)
            found = matrix.tolist()
        numbers: dict[tuple[float, ...], int] = {}
        places = [numbers.setdefault(tuple(row), len(numbers)) for row in found]
        return list(map(list, numbers)), places

    def numbers(self) -> list[float]:
        """The number of each tensor of shape (), or the first one of shape (width,)."""
        if self._length and self._look() and self._numbers is not None:
            return self._numbers
        if self._memories is None:
            return [float(x[0] if x.ndim else x) for x in self.tensors]
        self._numbers = self._matrix(self._memories)[:, 0].tolist()
        return self._numbers

    def _look(self) -> bool:
        """Whether memory holds the bytes that are known; if not, nothing is known of them."""
        now = ctypes.string_at(self._addresses[0], self._length)
        if now == self._bytes:
            return True
        self._bytes, self._rows, self._numbers = now, None, None
        return False

    def _put(self, values: array[float]) -> None:
        """Write the numbers of all tensors, which lie one after the other."""
        ctypes.memmove(self._addresses[0], values.buffer_info()[0], self._length)
        self._bytes, self._rows, self._numbers = values.tobytes(), None, None

    def write(self, rows: Sequence[Sequence[float]], places: Sequence[int]) -> None:
        """Write rows of numbers into the tensors.

        Args:
            rows: the different ones.
            places: which of them each tensor gets.
        """
        if self._length:
            if len(rows) == 1:
                row = list(map(float, rows[0]))
                self._put(array("d", row) * len(places))
                self._rows = [row], [0] * len(places)
            else:
                self._put(array("d", chain.from_iterable(map(rows.__getitem__, places))))
            return
        values = torch.tensor(rows, dtype=torch.float64, device="cpu")
        if len(values) > 1:
            values = values[torch.tensor(places, device="cpu")]
        if self._memories is not None:
            for memory in self._memories:
                whole = len(values) == 1 or len(self._memories) == 1
                memory.write(values if whole else values[memory.places])
            return
        for x, row in zip(self.tensors, values.expand(len(self.tensors), -1), strict=True):
            x.copy_(row.reshape(x.shape))

    def write_numbers(self, numbers: Sequence[float]) -> None:
        """Write numbers into tensors of shape ()."""
        if self._length:
            self._put(array("d", numbers))
            self._numbers = list(map(float, numbers))
        elif numbers.count(numbers[0]) == len(numbers):
            self.write([[numbers[0]]], [0] * len(numbers))
        else:
            self.write([[x] for x in numbers], range(len(numbers)))

    def _matrix(self, memories: Sequence[_Memory]) -> Tensor:
        if len(memories) == 1:
            return memories[0].read()
        matrix = torch.cat([memory.read() for memory in memories])
        return matrix[torch.cat([memory.places for memory in memories]).argsort()]


def _memories(tensors: Sequence[Tensor]) -> list[_Memory] | None:
    """Where tensors lie; None where they are not all alike, or in too many memories."""
    first = tensors[0]
    for x in tensors:
        plain = type(x) is Tensor and x.layout is torch.strided and not x.is_neg()
        if not plain or x.dtype is not torch.float64 or x.device != first.device:
            return None
        if x.shape != first.shape or not x.is_contiguous():
            return None
    places: dict[int, list[int]] = {}
    for number, x in enumerate(tensors):
        places.setdefault(x.untyped_storage().data_ptr(), []).append(number)
        if len(places) > _MEMORIES:
            return None
    return [_memory([tensors[n] for n in numbers], numbers) for numbers in places.values()]


def _length(memories: Sequence[_Memory] | None) -> int:
    """The number of bytes of tensors that lie one after the other in the host's memory.

    0 where they do not, and are read and written by torch.
    """
    matrix = memories[0].matrix if memories is not None and len(memories) == 1 else None
    if matrix is None or matrix.device.type != "cpu" or not matrix.is_contiguous():
        return 0
    return matrix.nbytes


def _memory(tensors: Sequence[Tensor], places: Sequence[int]) -> _Memory:
    first, width = tensors[0], max(tensors[0].numel(), 1)
    storage = first.untyped_storage()
    flat = first.new_empty(0).set_(storage, 0, (storage.nbytes() // first.element_size(),))  # type: ignore[call-overload]
    offsets = [x.storage_offset() for x in tensors]
    apart = offsets[1] - offsets[0] if len(offsets) > 1 else width
    matrix = None
    if apart >= width and all(b - a == apart for a, b in itertools.pairwise(offsets)):
        matrix = flat.as_strided((len(offsets), width), (apart, 1), offsets[0])
    index = torch.tensor([[offset + k for k in range(width)] for offset in offsets], device="cpu")
    return _Memory(matrix, flat, index.to(first.device), torch.tensor(list(places), device="cpu"))
