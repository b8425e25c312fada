"""The tensors of a call, column by column, and whether they lie as the kernels expect it.

This is most of the time of a step where tensors are small. `map` calls functions that are not
Python's own without any Python in between, and what was seen before is not looked at again.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.engines import Known, Work

_DTYPE, _SHAPE, _IS_CPU = attrgetter("dtype"), attrgetter("shape"), attrgetter("is_cpu")
_BYTES = attrgetter("nbytes")
# What is known from the call before.
_SEEN, _TABLE = "seen", "table"


class Layout(NamedTuple):
    """What the kernels expect.

    Attributes:
        dtype: that of parameters and gradients.
        compute: that of states.
        states: the names of the states.
        scalars: those that have one number per tensor.
    """

    dtype: torch.dtype
    compute: torch.dtype
    states: tuple[str, ...]
    scalars: frozenset[str]


class Column(NamedTuple):
    """The tensors of one buffer, their addresses, and how many elements they should have."""

    tensors: Sequence[Tensor]
    addresses: list[int]
    sizes: list[int]

    def seen(self, before: Column | None) -> bool:
        """Whether these are the tensors of another column, and lie where they lay."""
        return (
            before is not None
            and self.addresses == before.addresses
            and self.sizes == before.sizes
            and all(map(operator.is_, self.tensors, before.tensors))
        )


class Columns:
    """The columns of works: parameters, gradients, states.

    Attributes:
        parameters, gradients, states, hypers: the fields of the works.
        sizes: the number of elements of each parameter.
    """

    def __init__(self, works: Sequence[Work], layout: Layout) -> None:
        self.parameters, self.gradients, self.states, self.hypers = zip(*works, strict=True)
        self.sizes = list(map(Tensor.numel, self.parameters))
        self._layout = layout
        self._columns = {
            "theta": self._column(self.parameters),
            "g": self._column(self.gradients),
        }
        one = [1] * len(works)
        for name in layout.states:
            sizes = one if name in layout.scalars else self.sizes
            self._columns[name] = self._column([state[name] for state in self.states], sizes)

    def _column(self, tensors: Sequence[Tensor], sizes: list[int] | None = None) -> Column:
        return Column(tensors, list(map(Tensor.data_ptr, tensors)), sizes or self.sizes)

    def plain(self, known: Known) -> bool:
        """Whether one index serves a parameter, its gradient and its states, and all is at hand.

        Args:
            known: columns that were plain at the call before, by the identity of the first tensor;
                replaced by those of this one.
        """
        before = known.pop(_SEEN, {})
        theta, gradient, *states = self._columns.values()
        same = _seen(theta, before)
        if not (
            all(map(Tensor.is_contiguous, theta.tensors))
            and all(map(Tensor.is_contiguous, gradient.tensors))
            and list(map(Tensor.numel, gradient.tensors)) == self.sizes
            and set(map(_DTYPE, gradient.tensors)) == {self._layout.dtype}
            and all(map(_IS_CPU, gradient.tensors))
            and not any(map(Tensor.is_neg, gradient.tensors))
            and not any(map(Tensor.is_neg, theta.tensors))
        ):
            return False
        compute = {self._layout.compute}
        width = self._layout.compute.itemsize
        sizes = {id(self.sizes): [width * size for size in self.sizes]}
        for name, column in zip(self._layout.states, states, strict=True):
            seen = _seen(column, before)
            scalar = name in self._layout.scalars
            if not (seen and same) and not scalar and not self._shaped(column):
                return False
            # What could have been put into a tensor that was seen is looked at every time.
            size = sizes.get(id(column.sizes), [width] * len(column.sizes))
            if list(map(_BYTES, column.tensors)) != size:
                return False
            if not all(map(Tensor.is_contiguous, column.tensors)):
                return False
            if not seen and not (
                set(map(_DTYPE, column.tensors)) == compute and all(map(_IS_CPU, column.tensors))
            ):
                return False
        known[_SEEN] = {id(column.tensors[0]): column for column in (theta, *states)}
        return True

    def _shaped(self, column: Column) -> bool:
        """Whether states have the shapes of their parameters, which may have got others."""
        return list(map(_SHAPE, column.tensors)) == list(map(_SHAPE, self.parameters))

    def table(
        self, rows: Sequence[int], states: Sequence[str], slots: int, known: Known
    ) -> array[int] | None:
        """Sizes, rows and addresses as the kernels take them; None where there is no memory.

        Args:
            rows: the row of hyperparameters of each tensor.
            states: the states that the kernel takes, in order.
            slots: the number of addresses that it has room for.
            known: has the table of the call before, and gets this one.
        """
        width = 2 + slots
        theta, gradient, *kept = (self._columns[name].addresses for name in ("theta", "g", *states))
        fixed = [self.sizes, rows, theta, *kept]
        before: tuple[list[Sequence[int]], array[int]] | None = known.get(_TABLE)
        if before is not None and before[0] == fixed and all(gradient):
            # Only gradients have moved.
            before[1][3::width] = array("q", gradient)
            return before[1]
        columns = [theta, gradient, *kept]
        if not all(map(all, columns)) and any(
            size and not all(addresses)
            for size, *addresses in zip(self.sizes, *columns, strict=True)
        ):
            return None
        table = array("q", bytes(8 * width * len(self.sizes)))
        for number, column in enumerate((self.sizes, rows, *columns)):
            table[number::width] = array("q", column)
        known[_TABLE] = fixed, table
        return table


def _seen(column: Column, before: dict[int, Column]) -> bool:
    return column.seen(before.get(id(column.tensors[0])))
