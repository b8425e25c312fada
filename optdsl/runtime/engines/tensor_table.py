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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines import overlaps

try:
    from torch._C._dynamo import guards
except ImportError:  # not a public name; without it every call looks at everything
    guards = None  # type: ignore[assignment]

_DTYPE, _SHAPE, _DEVICE = attrgetter("dtype"), attrgetter("shape"), attrgetter("device")
# No dimension may change. The class crashes the process, and raises nothing, without these two.
_STATIC = {"dynamic_dims_sizes": None, "dynamic_dims_strides": None}


class Layout(NamedTuple):
    """What the kernels expect.

    Attributes:
        dtype: that of parameters and gradients.
        device: that of all of them.
        states: the names of the states.
        kept: the dtype of each.
        scalars: those that have one number per tensor.
    """

    dtype: torch.dtype
    device: torch.device
    states: tuple[str, ...]
    kept: tuple[torch.dtype, ...]
    scalars: frozenset[str]


class _Watch(NamedTuple):
    """The tensors of a call that were plain, as torch's guards describe them.

    Attributes:
        unchanged: says whether tensors have the same classes, dtypes, shapes and so on.
        many: how many tensors there were.
        sizes: the number of elements of each parameter.
    """

    unchanged: Callable[..., bool]
    many: int
    sizes: list[int]


@dataclass
class _Seen:
    """What is kept of the tensors of an entry point.

    Attributes:
        watch: of the last call, if its tensors were plain.
        fixed: the columns of the last table that do not change when gradients move.
        table: the last table.
    """

    watch: _Watch | None = None
    fixed: list[Sequence[int]] = field(default_factory=list)
    table: array[int] = field(default_factory=lambda: array("q"))


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
            **dict(_columns(states, layout.states)),
        }
        self._addresses = {
            name: list(map(Tensor.data_ptr, tensors)) for name, tensors in self._columns.items()
        }

    @classmethod
    def of(cls, works: Sequence[ParameterTask], layout: Layout) -> TensorTable:
        """Those of works."""
        parameters, gradients, states, *_ = zip(*works, strict=True)
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
        seen = known.get(_Seen)
        seen.watch = None
        tensors = self._tensors()
        if not self._is_plain(tensors):
            return False
        seen.watch = _watch(tensors, self.sizes)
        return True

    def watched(self, known: StepCache) -> bool:
        """Whether they look as those did that were plain at the call before."""
        watch = known.get(_Seen).watch
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
        own = next((w for w in known.get(overlaps.Seen) if w.columns == columns), None)
        if own is None:
            gradients = [size * self._layout.dtype.itemsize for size in self.sizes]
            names, kept, scalars = self._layout.states, self._layout.kept, self._layout.scalars
            widths = {dtype.itemsize for dtype in kept}
            states = {width: [size * width for size in self.sizes] for width in widths}
            one = {width: [width] * len(gradients) for width in widths}
            lengths = [
                (one if name in scalars else states)[dtype.itemsize]
                for name, dtype in zip(names, kept, strict=True)
            ]
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
        dtype, device, names, kept, scalars = self._layout
        shapes = list(map(_SHAPE, self.parameters))
        numbers = [torch.Size()] * len(shapes)
        return (
            set(map(_DEVICE, tensors)) == {device}
            and all(map(Tensor.is_contiguous, tensors))
            and not any(map(Tensor.is_neg, tensors))
            and set(map(_DTYPE, self.parameters)) == set(map(_DTYPE, self.gradients)) == {dtype}
            and list(map(Tensor.numel, self.gradients)) == self.sizes
            and all(map(operator.or_, self._addresses["g"], map(operator.not_, self.sizes)))
            and all(
                set(map(_DTYPE, self._columns[name])) == {own}
                for name, own in zip(names, kept, strict=True)
            )
            and all(
                list(map(_SHAPE, self._columns[name])) == (numbers if name in scalars else shapes)
                for name in names
            )
        )

    def column(self, name: str) -> Sequence[Tensor]:
        """The tensors of a state, as they were when this was made."""
        return self._columns[name]

    def addresses_of(self, names: Sequence[str]) -> list[list[int]]:
        """The addresses of the parameters ("theta"), the gradients ("g"), or states."""
        return [self._addresses[name] for name in names]

    def table(
        self,
        rows: Sequence[int],
        states: Sequence[str],
        slots: int,
        known: StepCache,
        origins: Sequence[int] | None = None,
    ) -> array[int] | None:
        """Sizes, rows and addresses as the kernels take them; None where there is no memory.

        Args:
            rows: the row of hyperparameters of each tensor.
            states: the states that the kernel takes, in order.
            slots: the number of addresses that it has room for.
            known: has the table of the call before, and gets this one.
            origins: the addresses of the origins of random numbers, if the kernels draw some.
        """
        width = 2 + slots + (origins is not None)
        theta, gradient, *kept = self.addresses_of(("theta", "g", *states))
        fixed = [self.sizes, rows, theta, *kept, *([] if origins is None else [origins])]
        seen = known.get(_Seen)
        if seen.fixed == fixed and all(gradient):
            # Only gradients have moved.
            seen.table[3::width] = array("q", gradient)
            return seen.table
        columns = [theta, gradient, *kept]
        if not all(map(all, columns)) and any(
            size and not all(addresses)
            for size, *addresses in zip(self.sizes, *columns, strict=True)
        ):
            return None
        table = array("q", bytes(8 * width * len(self.sizes)))
        for number, column in enumerate((self.sizes, rows, *columns)):
            table[number::width] = array("q", column)
        if origins is not None:
            table[width - 1 :: width] = array("q", origins)
        seen.fixed, seen.table = fixed, table
        return table


def _columns(
    states: Iterable[dict[str, Any]], names: Sequence[str]
) -> Iterable[tuple[str, Sequence[Tensor]]]:
    """The tensors of each state."""
    if len(names) < 2:  # for one name, `itemgetter` gives no tuples
        return [(name, [state[name] for state in states]) for name in names]
    return zip(names, zip(*map(itemgetter(*names), states), strict=True), strict=True)


def _watch(tensors: list[Tensor], sizes: list[int]) -> _Watch | None:
    """What watches tensors; None where torch does not help."""
    try:
        check: Any = guards.TensorGuards(*tensors, **_STATIC).check
        # One that is there twice is not told from one that has become another.
        return _Watch(check, len(tensors), sizes) if check(*tensors) else None
    except Exception:  # whatever a name that is not public may do in another version
        return None
