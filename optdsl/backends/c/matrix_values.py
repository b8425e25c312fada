"""Values of a program of matrices in C: those of one axis lie in arrays."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from optdsl.backends.c.expressions import RESERVED
from optdsl.backends.c.passes import RESTATED, inlined
from optdsl.backends.c.storage import Storage
from optdsl.backends.c.values import Values
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# What functions of matrices use besides.
_WORDS = """
    across array col_values down failed fill grid high layout left line of_all of_cols of_rows
    row_values shape tiles tiling to top unit units WIDE wide
"""
_HELPERS = frozenset(
    f"{function}_{of}"
    for function in ("add", "fold", "folded", "gather", "line_of", "spaced", "total_of")
    for of in ("values", "largest", "smallest")
)


class MatrixValues(Values):
    """The values of one kernel; see `Values`.

    Attributes:
        arrays: the values of one axis that lie in arrays, by axis, in the order of the arrays.
    """

    _RESERVED = RESERVED | _HELPERS | frozenset(_WORDS.split())

    def __init__(self, kernel: Kernel, storage: Storage, buffers: Sequence[str]) -> None:
        """Name everything, as `Values` does."""
        super().__init__(kernel, storage, buffers)
        stored = [v for v in kernel.body if self.extent(v) is Extent.AXES and not self.inline(v)]
        self.arrays = {
            axis: [v for v in stored if self.program.type(v).axes == (axis,)]
            for axis in ("rows", "cols")
        }

    def inline(self, value: Value) -> bool:
        """Whether a value is spelled where it is used; see `Values`."""
        return inlined(self.program.type(value))

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
        named = [a for v in values for a in self._read_by_name(v, "real")]
        known = {*self.arrays["rows"], *self.arrays["cols"]} - set(values)
        return [v for v in dict.fromkeys([*named, *extra]) if v in known]

    def axis(self, value: Value) -> str:
        """The axis of a value of one axis."""
        (axis,) = self.program.type(value).axes
        return axis

    def array(self, value: Value, matrix: str = "m") -> str:
        """The array of a value of one axis, of a matrix."""
        axis = self.axis(value)
        place = self.arrays[axis].index(value)
        return f"{axis[:-1]}_values + ({place} * x->stack + {matrix}) * x->{axis}"

    def behind(self, value: Value) -> list[Value]:
        """A value, after the conditions that are spelled in it."""
        found = []
        for argument in self.operation(value).arguments:
            found += self.behind(argument) if self.inline(argument) else []
        return list(dict.fromkeys([*found, value]))

    def _expression(self, value: Value, kind: str) -> str:
        operation = self.operation(value)
        if operation.opcode in RESTATED:
            return self.word(operation.arguments[0], kind)
        return super()._expression(value, kind)
