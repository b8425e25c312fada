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
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import attrgetter, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask, Place
from optdsl.runtime.engines import overlaps
from optdsl.runtime.engines.sampled.choice import Sample, sample_of
from optdsl.runtime.engines.sampled.shares import Shares

try:
    from torch._C._dynamo import guards
except ImportError:  # not a public name; without it every call looks at everything
    guards = None  # type: ignore[assignment]

_DTYPE, _SHAPE, _DEVICE = attrgetter("dtype"), attrgetter("shape"), attrgetter("device")
_NBYTES = attrgetter("nbytes")
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
        sample: one in so many elements of large tensors is sampled.
        sampled: the states that only sampled elements need.
    """

    dtype: torch.dtype
    device: torch.device
    states: tuple[str, ...]
    kept: tuple[torch.dtype, ...]
    scalars: frozenset[str]
    sample: int = 1
    sampled: frozenset[str] = frozenset()


class _Watch(NamedTuple):
    """The tensors of a call that were plain, as torch's guards describe them.

    Attributes:
        unchanged: says whether tensors have the same classes, dtypes, shapes and so on.
        many: how many tensors there were.
        sizes: the number of elements of each parameter.
        places: where shards are in their whole tensors.
        shares: the parts of tensors, where elements are sampled.
    """

    unchanged: Callable[..., bool]
    many: int
    sizes: list[int]
    places: Sequence[Place | None]
    shares: Shares | None


class _Table(NamedTuple):
    """A table of a call before.

    Attributes:
        fixed: the columns that do not change when gradients move.
        table: the table.
    """

    fixed: list[Sequence[int]]
    table: array[int]


@dataclass
class _Seen:
    """What is kept of the tensors of an entry point.

    Attributes:
        watch: of the last call, if its tensors were plain.
        tables: of the last calls, the last one first; states that exchange their memory are soon
            back where they were.
    """

    watch: _Watch | None = None
    tables: list[_Table] = field(default_factory=list)


class TensorTable:
    """The columns of works: parameters, gradients, states.

    Attributes:
        parameters, gradients, states, places: the fields of the works.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        states: Sequence[dict[str, Any]],
        layout: Layout,
        places: Sequence[Place | None] = (),
    ) -> None:
        self.parameters, self.gradients, self.states = parameters, gradients, states
        self.places = places
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
        parameters, gradients, states, _, _, places = zip(*works, strict=True)
        return cls(parameters, gradients, states, layout, places)

    @property
    def fields(self) -> tuple[Sequence[Tensor], Sequence[Tensor], Sequence[dict[str, Any]]]:
        """Parameters, gradients and states."""
        return self.parameters, self.gradients, self.states

    @functools.cached_property
    def sizes(self) -> list[int]:
        """The number of elements of each parameter."""
        return list(map(Tensor.numel, self.parameters))

    @functools.cached_property
    def samples(self) -> list[Sample]:
        """The sampled elements of each parameter."""
        places = self.places or [None] * len(self.parameters)
        k = self._layout.sample
        return [sample_of(p.shape, k, x) for p, x in zip(self.parameters, places, strict=True)]

    @functools.cached_property
    def shares(self) -> Shares | None:
        """The parts of the tensors; None where every element has its part in sums."""
        if self._layout.sample == 1:
            return None
        name = next(iter(self._layout.sampled), "theta")
        kept = map(Tensor.numel, self._columns[name])
        return Shares(self.samples, list(map(operator.ne, kept, self.sizes)))

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
        seen.watch = _watch(tensors, self)
        return True

    def watched(self, known: StepCache) -> bool:
        """Whether they look as those did that were plain at the call before."""
        watch = known.get(_Seen).watch
        if watch is None:
            return False
        tensors = self._tensors()
        same = watch.places == self.places
        if watch.many != len(tensors) or not same or not watch.unchanged(*tensors):
            return False
        self.sizes, self.shares = watch.sizes, watch.shares
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
                list(map(_NBYTES, self._columns[name]))
                if name in self._layout.sampled
                else (one if name in scalars else states)[dtype.itemsize]
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
        dtype, device, names, kept, scalars, sample, sampled = self._layout
        shapes = list(map(_SHAPE, self.parameters))
        numbers = [torch.Size()] * len(shapes)
        of_sample = self._shapes_of_samples(shapes) if sample > 1 and sampled else shapes
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
                list(map(_SHAPE, self._columns[name]))
                == (numbers if name in scalars else of_sample if name in sampled else shapes)
                for name in names
            )
        )

    def _shapes_of_samples(self, shapes: Sequence[torch.Size]) -> list[torch.Size]:
        """The shapes of the states that only sampled elements need."""
        first = self._columns[next(iter(self._layout.sampled))]
        return [
            shape if state.shape == shape else torch.Size([sample.count])
            for state, shape, sample in zip(first, shapes, self.samples, strict=True)
        ]

    def kept_of(self, number: int) -> list[tuple[str, Tensor]]:
        """The states of a tensor that only sampled elements need, by name."""
        return [(name, self._columns[name][number]) for name in sorted(self._layout.sampled)]

    def part(self, numbers: Sequence[int], others: Mapping[str, Tensor]) -> TensorTable:
        """The columns of some of the tensors.

        Args:
            numbers: of the tensors.
            others: states that one tensor has instead of its own.
        """
        parameters = [self.parameters[n] for n in numbers]
        gradients = [self.gradients[n] for n in numbers]
        states = [{**self.states[n], **others} for n in numbers]
        places = [self.places[n] for n in numbers] if self.places else ()
        return TensorTable(parameters, gradients, states, self._layout, places)

    def stride(self, name: str) -> tuple[int, bool]:
        """How far an element of a column is from the next, in bytes, and whether it is sampled."""
        if name in {"theta", "g"}:
            return self._layout.dtype.itemsize, False
        if name in self._layout.scalars:
            return 0, False
        number = self._layout.states.index(name)
        return self._layout.kept[number].itemsize, name in self._layout.sampled

    def column(self, name: str) -> Sequence[Tensor]:
        """The tensors of a state, as they were when this was made."""
        return self._columns[name]

    def exchanged(self, buffers: Mapping[str, str]) -> TensorTable:
        """The same after a call, which lets states be in the memory of others; see `EntryPoint`."""
        if not buffers:
            return self
        found = self._copy()
        found._columns = self._columns | {x: self._columns[y] for x, y in buffers.items()}
        found._addresses = self._addresses | {x: self._addresses[y] for x, y in buffers.items()}
        return found

    def _copy(self) -> TensorTable:
        found = TensorTable.__new__(TensorTable)
        found.__dict__.update(self.__dict__)
        return found

    def with_gradients(self, gradients: Sequence[Tensor], addresses: list[int]) -> TensorTable:
        """The same with other gradients, which are as plain as these.

        Args:
            gradients: the gradients.
            addresses: where they lie.
        """
        found = self._copy()
        found.gradients = gradients
        found._columns = self._columns | {"g": gradients}
        found._addresses = self._addresses | {"g": addresses}
        return found

    def addresses_of(self, names: Sequence[str]) -> list[list[int]]:
        """The addresses of the parameters ("theta"), the gradients ("g"), or states."""
        return [self._addresses[name] for name in names]

    def spread(self, numbers: Sequence[int]) -> Sequence[int]:
        """A number for each row of a call, from one for each tensor."""
        return numbers

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
            known: has the tables of the calls before, and gets this one.
            origins: the addresses of the origins of random numbers, if the kernels draw some.
        """
        width = 2 + slots + (origins is not None)
        theta, gradient, *kept = self.addresses_of(("theta", "g", *states))
        fixed = [self.sizes, rows, theta, *kept, *([] if origins is None else [origins])]
        seen = known.get(_Seen)
        before = next((table for table in seen.tables if table.fixed == fixed), None)
        if before is not None and all(gradient):
            # Only gradients have moved.
            before.table[3::width] = array("q", gradient)
            return before.table
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
        seen.tables = [_Table(fixed, table), *seen.tables[: overlaps.STEPS - 1]]
        return table


def _columns(
    states: Iterable[dict[str, Any]], names: Sequence[str]
) -> Iterable[tuple[str, Sequence[Tensor]]]:
    """The tensors of each state."""
    if len(names) < 2:  # for one name, `itemgetter` gives no tuples
        return [(name, [state[name] for state in states]) for name in names]
    return zip(names, zip(*map(itemgetter(*names), states), strict=True), strict=True)


def _watch(tensors: list[Tensor], own: TensorTable) -> _Watch | None:
    """What watches tensors; None where torch does not help."""
    try:
        check: Any = guards.TensorGuards(*tensors, **_STATIC).check
        # One that is there twice is not told from one that has become another.
        if not check(*tensors):
            return None
        return _Watch(check, len(tensors), own.sizes, own.places, own.shares)
    except Exception:  # whatever a name that is not public may do in another version
        return None
