"""Values of a program of matrices in Triton, and the functions that their kernels bring along."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.axis_values import AxisValues
from optdsl.backends.tiled_passes import RESTATED
from optdsl.backends.triton.expressions import RESERVED
from optdsl.backends.triton.values import Values
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# What kernels of matrices use besides.
_WORDS = """
    above across apart axis below beside cols down each found in_cols in_rows m n of_all
    of_cols of_rows r row_values col_values part parts some stack to units unknown width
"""
# By the kind of a reduction: its part in the names of functions, what it starts from, and how two
# parts are joined.
_KINDS = {
    "sum": ("values", "0.0", "{} + {}"),
    "mean": ("values", "0.0", "{} + {}"),
    "max": ("largest", '-float("inf")', "larger({}, {})"),
    "min": ("smallest", 'float("inf")', "smaller({}, {})"),
}
# `tl.max` and `tl.min` leave out what is no number.
_EXTREME = '''\
@triton.jit
def end_~(x, axis: tl.constexpr, keep_dims: tl.constexpr):
    """A block reduced along an axis; NaN if one of it is."""
    unknown = tl.max((x != x).to(tl.int32), axis, keep_dims=keep_dims)
    found = tl.#(tl.where(x != x, START, x), axis, keep_dims=keep_dims)
    return tl.where(unknown > 0, float("nan"), found)'''
# `~` is the name. Functions that call others come after them.
_REDUCTIONS = {
    "tile_~": '''\
@triton.jit
def tile_~(x, inside, axis: tl.constexpr):
    """A tile reduced along an axis, which keeps its place, for reductions in double precision."""
    return END(tl.where(inside, x, START), axis, keep_dims=True).to(tl.float64)''',
    "whole_~": '''\
@triton.jit
def whole_~(x, inside):
    """A tile reduced to a number, for reductions in double precision."""
    lines = END(tl.where(inside, x, START), 1, keep_dims=False)
    return END(lines, 0, keep_dims=False).to(tl.float64)''',
    "gathered_~": '''\
@triton.jit
def gathered_~(p, apart, start, stop, BLOCK: tl.constexpr):
    """The numbers from start to stop reduced, always in the same order; they lie so far apart."""
    x = tl.full((BLOCK,), START, tl.float64)
    for begin in range(start, stop, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        y = tl.load(p + i * apart, mask=i < stop, other=START).to(tl.float64)
        x = JOINED
    return END(x, 0, keep_dims=False)''',
    "layered_~": '''\
@triton.jit
def layered_~(p, apart, count, inside):
    """Rows of numbers below each other, joined in order; they lie so far apart."""
    x = tl.load(p, mask=inside, other=0.0)
    for k in range(1, count):
        y = tl.load(p + k * apart, mask=inside, other=0.0)
        x = JOINED
    return x''',
}


def _spelled(text: str, kind: str) -> str:
    name, begun, _ = _KINDS[kind]
    end = "tl.sum" if kind == "sum" else f"end_{name}"
    marks = {"~": name, "START": begun, "JOINED": joined(kind, "x", "y"), "END": end, "#": kind}
    for mark, own in marks.items():
        text = text.replace(mark, own)
    return text


def joined(kind: str, x: str, y: str) -> str:
    """Two parts of a reduction as one."""
    return _KINDS[kind][2].format(x, y)


def named(function: str, kind: str) -> str:
    """The name of a function for a kind of reductions."""
    return f"{function}_{_KINDS[kind][0]}"


def start(kind: str) -> str:
    """What a reduction starts from."""
    return _KINDS[kind][1]


HELPERS = {named("end", kind): _spelled(_EXTREME, kind) for kind in ("max", "min")} | {
    name.replace("~", _KINDS[kind][0]): _spelled(text, kind)
    for kind in ("sum", "max", "min")
    for name, text in _REDUCTIONS.items()
}


class MatrixValues(AxisValues, Values):
    """The values of one kernel; see `Values` and `AxisValues`."""

    _SHARING = frozenset({Extent.TENSOR, Extent.AXES, Extent.SCALAR})
    _RESERVED = RESERVED | HELPERS.keys() | frozenset(_WORDS.split())

    def __init__(self, kernel: Kernel, real: str, buffers: Sequence[str]) -> None:
        """Name everything, as `Values` does."""
        super().__init__(kernel, real, buffers)
        self.lay_out()

    @property
    def arithmetic(self) -> str:
        """See `AxisValues`."""
        return self.real

    def array(self, value: Value, matrix: str = "m") -> str:
        """Where the array of a value of one axis lies, of a matrix."""
        axis = self.axis(value)
        place = self.arrays[axis].index(value)
        return f"{axis[:-1]}_values + ({place} * stack + {matrix}) * {axis}"

    def _expression(self, operation: Operation, kind: str) -> str:
        if operation.opcode in RESTATED:
            return self.word(operation.arguments[0], kind)
        return super()._expression(operation, kind)
