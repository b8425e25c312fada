"""The tensors of a call, column by column, and whether they lie as the kernels expect it.

This is most of the time of a step where tensors are small. Where nothing has changed since the
call before but where tensors lie, one look of torch's at all of them says so: the guards with which
it protects compiled code, which compare class, dispatch keys (device, layout, negative bit among
them), dtype, shape and strides.
"""

from __future__ import annotations

import functools
import operator
from array import array
from collections.abc import Callable, Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.core.tasks import ParameterTask, StepCache
from optdsl.runtime.engines import overlaps

try:
    from torch._C._dynamo import guards
except ImportError:  # not a public name; without it every call looks at everything
    guards = None  # type: ignore[assignment]

_DTYPE, _SHAPE, _DEVICE = attrgetter("dtype"), attrgetter("shape"), attrgetter("device")
# What is known from the call before.
_WATCH, _TABLE = "watch", "table"
# No dimension may change. Without these words the class does not raise, but crashes.
_STATIC = {"dynamic_dims_sizes": None, "dynamic_dims_strides": None}


class Layout(NamedTuple):
    """What the kernels expect.

    Attributes:
        dtype: that of parameters and gradients.
        compute: that of states.
        device: that of all of them.
        states: the names of the states.
        scalars: those that have one number per tensor.
    """

    dtype: torch.dtype
    compute: torch.dtype
    device: torch.device
    states: tuple[str, ...]
    scalars: frozenset[str]


class _Watch(NamedTuple):
    """Says whether tensors look as those did that were plain, and how many elements those had."""

    unchanged: Callable[..., bool]
    many: int
    sizes: list[int]


class TensorTable:
    """The columns of works: parameters, gradients, states.

    Attributes:
        parameters, gradients, states: the fields of the works.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        layout: Layout,
    ) -> None:
        self.parameters, self.gradients, self.states = parameters, gradients, states
        self._layout = layout
        self._columns: dict[str, Sequence[Tensor]] = {
            "theta": self.parameters,
            "g": self.gradients,
        }
        for name in layout.states:
            self._columns[name] = [state[name] for state in self.states]
        self._addresses = {
            name: list(map(Tensor.data_ptr, tensors)) for name, tensors in self._columns.items()
        }

    @classmethod
    def of(cls, works: Sequence[ParameterTask], layout: Layout) -> TensorTable:
        """Those of works."""
        parameters, gradients, states, _ = zip(*works, strict=True)
        return cls(parameters, gradients, states, layout)

    @property
    def fields(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[dict[str, Any]]]:
        """Parameters, gradients and states."""
        return self.parameters, self.gradients, self.states

    @functools.cached_property
    def sizes(self) -> list[int]:
        """The number of elements of each parameter."""
        return list(map(Tensor.numel, self.parameters))

    def plain(self, known: StepCache) -> bool:
        """Whether one index serves a parameter, its gradient and its states, and all is at hand.

        Args:
            known: what was found at the call before; replaced by what is found at this one.
        """
        if self.watched(known):
            return True
        known.pop(_WATCH, None)
        tensors = self._tensors()
        if not self._is_plain(tensors):
            return False
        known[_WATCH] = _watch(tensors, self.sizes)
        return True

    def watched(self, known: StepCache) -> bool:
        """Whether they look as those did that were plain at the call before."""
        watch: _Watch | None = known.get(_WATCH)
        if watch is None:
            return False
        tensors = self._tensors()
        if watch.many != len(tensors) or not watch.unchanged(*tensors):
            return False
        self.sizes = watch.sizes
        return True

    def apart(self, known: StepCache) -> bool:
        """Whether what a step writes overlaps with nothing else; only for what is plain.

        Args:
            known: what was found at the calls before; receives what is found at this one.
        """
        columns = self.addresses_of(("theta", *self._layout.states))
        own = next((w for w in overlaps.seen(known) if w.columns == columns), None)
        if own is None:
            here, there = self._layout.dtype.itemsize, self._layout.compute.itemsize
            gradients = [size * here for size in self.sizes]
            states = [size * there for size in self.sizes]
            one = [there] * len(states)
            scalars = self._layout.scalars
            lengths = [one if name in scalars else states for name in self._layout.states]
            own = overlaps.written(columns, [gradients, *lengths], gradients)
            if own is None:
                return False
            overlaps.remember(known, own)
        # Lists that are the same ones are equal at a glance.
        self._addresses |= dict(zip(("theta", *self._layout.states), own.columns, strict=True))
        return not overlaps.meets(own, self._addresses["g"])

    def _tensors(self) -> list[Tensor]:
        return list(chain.from_iterable(self._columns.values()))

    def _is_plain(self, tensors: list[Tensor]) -> bool:
        dtype, compute, device, names, scalars = self._layout
        shapes = list(map(_SHAPE, self.parameters))
        numbers = [torch.Size()] * len(shapes)
        return (
            set(map(_DEVICE, tensors)) == {device}
            and all(map(Tensor.is_contiguous, tensors))
            and not any(map(Tensor.is_neg, tensors))
            and set(map(_DTYPE, self.parameters)) == set(map(_DTYPE, self.gradients)) == {dtype}
            and list(map(Tensor.numel, self.gradients)) == self.sizes
            and all(map(operator.or_, self._addresses["g"], map(operator.not_, self.sizes)))
            and all(set(map(_DTYPE, self._columns[name])) == {compute} for name in names)
            and all(
                list(map(_SHAPE, self._columns[name])) == (numbers if name in scalars else shapes)
                for name in names
            )
        )

    def addresses_of(self, names: Sequence[str]) -> list[list[int]]:
        """The addresses of the parameters ("theta"), the gradients ("g"), or states."""
        return [self._addresses[name] for name in names]

    def table(
        self, rows: Sequence[int], states: Sequence[str], slots: int, known: StepCache
    ) -> array[int] | None:
        """Sizes, rows and addresses as the kernels take them; None where there is no memory.

        Args:
            rows: the row of hyperparameters of each tensor.
            states: the states that the kernel takes, in order.
            slots: the number of addresses that it has room for.
            known: has the table of the call before, and gets this one.
        """
        width = 2 + slots
        theta, gradient, *kept = self.addresses_of(("theta", "g", *states))
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


def _watch(tensors: list[Tensor], sizes: list[int]) -> _Watch | None:
    """What watches tensors; None where torch does not help."""
    try:
        check: Any = guards.TensorGuards(*tensors, **_STATIC).check
        # One that is there twice is not told from one that has become another.
        return _Watch(check, len(tensors), sizes) if check(*tensors) else None
    except Exception:  # whatever a name that is not public may do in another version
        return None
