"""Values of a program of matrices in C: those of one axis lie in arrays."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.axis_values import AxisValues
from optdsl.backends.c.expressions import RESERVED
from optdsl.backends.c.storage import Storage
from optdsl.backends.c.values import Values
from optdsl.backends.tiled_passes import RESTATED, inlined
from optdsl.ir.program import Value
from optdsl.schedule import Kernel

# What functions of matrices use besides.
_WORDS = """
    across array col_values down failed fill grid high layout left line mixed_evenly of_all
    of_cols of_rows row_values shape tiles tiling to top unit units WIDE wide
"""
_HELPERS = frozenset(
    f"{function}_{of}"
    for function in ("add", "fold", "folded", "gather", "line_of", "spaced", "total_of")
    for of in ("values", "largest", "smallest")
)


class MatrixValues(AxisValues, Values):
    """The values of one kernel; see `Values` and `AxisValues`."""

    _RESERVED = RESERVED | _HELPERS | frozenset(_WORDS.split())
    _MIXED = "mixed_evenly"

    def __init__(self, kernel: Kernel, storage: Storage, buffers: Sequence[str]) -> None:
        """Name everything, as `Values` does."""
        super().__init__(kernel, storage, buffers)
        self.lay_out()

    @property
    def arithmetic(self) -> str:
        """See `AxisValues`."""
        return "real"

    def inline(self, value: Value) -> bool:
        """Whether a value is spelled where it is used; see `Values`."""
        return inlined(self.program.type(value))

    def array(self, value: Value, matrix: str = "m") -> str:
        """The array of a value of one axis, of a matrix."""
        axis = self.axis(value)
        place = self.arrays[axis].index(value)
        return f"{axis[:-1]}_values + ({place} * x->stack + {matrix}) * x->{axis}"

    def _expression(self, value: Value, kind: str) -> str:
        operation = self.operation(value)
        if operation.opcode in RESTATED:
            return self.word(operation.arguments[0], kind)
        return super()._expression(value, kind)
