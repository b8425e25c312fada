"""Values of a program of matrices under their names: those of one axis lie in arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from optdsl.backends.named import NamedValues
from optdsl.backends.tiled_passes import COLS, ROWS, Pass, Reduction, inlined, reduction
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Result


class AxisValues(NamedValues):
    """What the values of one axis add to `NamedValues`, in each language."""

    def lay_out(self) -> None:
        """Give each value of one axis its array."""
        found = [v for v in self.kernel.body if self.extent(v) is Extent.AXES]
        stored = [v for v in found if not inlined(self.program.type(v))]
        self._arrays = {axis: [v for v in stored if self.axis(v) == axis] for axis in (ROWS, COLS)}

    @property
    def arrays(self) -> dict[str, list[Value]]:
        """The values of one axis that lie in arrays, by axis, in the order of the arrays."""
        return self._arrays

    @property
    def arithmetic(self) -> str:
        """What the language calls the arithmetic of elements."""
        raise NotImplementedError

    def asked(
        self,
        values: Sequence[Value],
        extra: Iterable[Value],
        kind: str,
        own: Collection[Value] | None = None,
    ) -> list[Value]:
        """The numbers of a matrix, and uniform ones, that are read; see `NamedValues.asked`."""
        found = super().asked(values, extra, kind, own)
        return [v for v in found if self.extent(v) is not Extent.AXES]

    def along(self, values: Sequence[Value], extra: Iterable[Value] = ()) -> list[Value]:
        """The values of one axis that a computation reads from arrays, each once.

        Args:
            values: what is computed.
            extra: what is used besides.
        """
        named = [a for v in values for a in self._read_by_name(v, self.arithmetic)]
        known = {*self.arrays[ROWS], *self.arrays[COLS]} - set(values)
        return [v for v in dict.fromkeys([*named, *extra]) if v in known]

    def axis(self, value: Value) -> str:
        """The axis of a value of one axis."""
        (axis,) = self.program.type(value).axes
        return axis

    def behind(self, value: Value) -> list[Value]:
        """A value, after the conditions of its axis that no array holds."""
        found = []
        for argument in self.operation(value).arguments:
            found += self.behind(argument) if inlined(self.program.type(argument)) else []
        return list(dict.fromkeys([*found, value]))


Values = TypeVar("Values", bound=AxisValues)


@dataclass(frozen=True)
class KernelPass(Generic[Values]):
    """One pass of a kernel, in a language.

    Attributes:
        values: the values of the kernel.
        number: which of its passes it is.
        own: the pass.
        last: whether it writes results.
    """

    values: Values
    number: int
    own: Pass
    last: bool

    @cached_property
    def stored(self) -> tuple[Result, ...]:
        """The results that it writes to memory."""
        results = self.values.kernel.stored if self.last else ()
        return tuple(r for r in results if r.type.extent is Extent.TENSOR)

    @cached_property
    def reductions(self) -> tuple[tuple[Value, Reduction], ...]:
        """What it reduces, by the values that are the results."""
        found = ((v, reduction(self.values.program, v)) for v in self.own.reductions)
        return tuple((v, r) for v, r in found if r is not None)
