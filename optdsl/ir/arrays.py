"""Small stacks of matrices of Python floats: what trials of rules of matrices compute with.

The meaning of every operation is that of `optdsl.matrices`, which needs torch. An operation between
a number and an array, or between arrays with a length of 1 where the other one is longer,
broadcasts.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product, repeat
from types import MappingProxyType
from typing import Any

from optdsl.ir import draws, host
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation
from optdsl.ir.sections import value_shape
from optdsl.ir.types import TAPS, Type

# How many matrices, of how many rows and columns.
Shape = tuple[int, int, int]
Rows = list[list[float]]

_EPSILON = 2.0**-52
# A sweep of rotations squares what is left beside the diagonal, once that is small.
_SWEEPS = 60


@dataclass(frozen=True, slots=True)
class Array:
    """A stack of matrices: its shape, and its numbers, row after row and matrix after matrix."""

    shape: Shape
    numbers: tuple[float, ...]

    @property
    def matrices(self) -> list[Rows]:
        """The matrices as lists of rows."""
        stack, rows, cols = self.shape
        lines = [list(self.numbers[i : i + cols]) for i in range(0, len(self.numbers), cols)]
        return [lines[i : i + rows] for i in range(0, stack * rows, rows)]

    def broadcast(self, shape: Shape) -> tuple[float, ...]:
        """Its numbers where it has another shape."""
        if self.shape == shape:
            return self.numbers
        return tuple(self.numbers[i] for i in _places(self.shape, shape))


@functools.lru_cache(maxsize=256)
def _places(own: Shape, wanted: Shape) -> tuple[int, ...]:
    """For each number of a shape, the place of what is broadcast to it."""
    _, rows, cols = own
    ranges = [range(w) if o == w else repeat(0, w) for o, w in zip(own, wanted, strict=True)]
    return tuple((s * rows + r) * cols + c for s, r, c in product(*ranges))


def stacked(matrices: Sequence[Rows]) -> Array:
    """Matrices of one shape as an array."""
    shape = (len(matrices), len(matrices[0]), len(matrices[0][0]))
    return Array(shape, tuple(x for rows in matrices for row in rows for x in row))


def elements(value: Any) -> tuple[Any, ...]:
    """The numbers of a value of any arithmetic."""
    if isinstance(value, Array):
        return value.numbers
    return value if isinstance(value, tuple) else (value,)


def elementwise(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function of numbers on numbers and arrays."""

    def applied(*x: Any) -> Any:
        shapes = [a.shape for a in x if isinstance(a, Array)]
        if not shapes:
            return function(*x)
        stack, rows, cols = map(max, zip(*shapes, strict=True))
        shape = (stack, rows, cols)
        numbers = (a.broadcast(shape) if isinstance(a, Array) else repeat(a) for a in x)
        return Array(shape, tuple(map(function, *numbers)))

    return applied


# --- shapes ---------------------------------------------------------------------------------------


def of_shape(
    operation: Operation, theta: Array, own: Mapping[str, int] = MappingProxyType({})
) -> Any:
    """The value of a leaf that follows from the shape of the parameter.

    Args:
        operation: the leaf.
        theta: the parameter.
        own: the lengths of the axes that the rule declares, and `taps` if it reads that.
    """
    stack, rows, cols = theta.shape
    if operation.opcode == "indices":
        n = value_shape(operation.type, theta.shape, own)[-2]
        return stacked([[[float(i)] for i in range(n)]] * stack)
    if operation.opcode == "identity":
        n = value_shape(operation.type, theta.shape, own)[-1]
        return stacked([[[float(i == j) for j in range(n)] for i in range(n)]] * stack)
    if operation.attribute == TAPS:
        return float(own[TAPS])
    return float(rows if operation.attribute == "rows" else cols)


def drawn(
    operation: Operation,
    counter: float,
    theta: Array,
    own: Mapping[str, int] = MappingProxyType({}),
) -> Array:
    """Random numbers for a trial: those of the first tensor of an optimizer whose seed is 0."""
    stack, rows, cols = value_shape(operation.type, theta.shape, own)
    attribute, count = str(operation.attribute), stack * rows * cols
    numbers = (draws.number(attribute, counter, index) for index in range(count))
    return Array((stack, rows, cols), tuple(numbers))


def size(theta: Array) -> int:
    """The number of elements of one matrix."""
    return theta.shape[1] * theta.shape[2]


def expanded(
    value: Any, theta: Array, kind: Type, own: Mapping[str, int] = MappingProxyType({})
) -> Array:
    """A value with the shape that its type has; see `of_shape` for the arguments."""
    stack, rows, cols = value_shape(kind, theta.shape, own)
    shape = (stack, rows, cols)
    if isinstance(value, Array):
        return Array(shape, value.broadcast(shape))
    return Array(shape, (value,) * math.prod(shape))


def _spread(x: Any, like: Any) -> Any:
    if not isinstance(like, Array):
        return x
    return Array(like.shape, x.broadcast(like.shape) if isinstance(x, Array) else
                 (x,) * len(like.numbers))  # fmt: skip


# --- reductions -----------------------------------------------------------------------------------

_Reduce = Callable[[Sequence[float]], float]


def _whole(reduce: _Reduce) -> Callable[[Array], Array]:
    return lambda x: stacked([[[reduce([v for row in m for v in row])]] for m in x.matrices])


def _over_rows(reduce: _Reduce) -> Callable[[Array], Array]:
    return lambda x: stacked([[[reduce(c) for c in zip(*m, strict=True)]] for m in x.matrices])


def _over_cols(reduce: _Reduce) -> Callable[[Array], Array]:
    return lambda x: stacked([[[reduce(row)] for row in m] for m in x.matrices])


def _of_stack(reduce: _Reduce) -> Callable[[Array], float]:
    return lambda x: reduce(x.numbers)


def _of_all(x: Any) -> Any:
    """The sum over all tensors, of which there is one here."""
    return host.total(x.numbers) if isinstance(x, Array) else x


def _largest_of_all(x: Any) -> Any:
    """The largest number of all tensors, of which there is one here."""
    return host.largest_of_all(x.numbers) if isinstance(x, Array) else x


# --- products and factorizations ------------------------------------------------------------------


def _transposed(x: Rows) -> Rows:
    return [list(column) for column in zip(*x, strict=True)]


def _times(x: Rows, y: Rows) -> Rows:
    columns = _transposed(y)
    return [[sum(map(float.__mul__, row, column)) for column in columns] for row in x]


def _matmul(x: Array, y: Array) -> Array:
    left, right = x.matrices, y.matrices
    number = max(len(left), len(right))
    return stacked([_times(left[i % len(left)], right[i % len(right)]) for i in range(number)])


def _each(function: Callable[[Rows], Rows]) -> Callable[[Array], Array]:
    return lambda x: stacked([function(m) for m in x.matrices])


def _symmetric(s: Rows) -> tuple[list[float], Rows]:
    """The eigenvalues of a symmetric matrix, the largest first, and the eigenvectors as columns.

    These are the rotations of Jacobi (1846), sweep after sweep. As in LAPACK, what stands above
    the diagonal is not read.
    """
    n = len(s)
    a = [[s[max(i, j)][min(i, j)] for j in range(n)] for i in range(n)]
    q = [[float(i == j) for j in range(n)] for i in range(n)]
    if not all(math.isfinite(x) for row in a for x in row):
        return [math.nan] * n, [[math.nan] * n for _ in range(n)]
    pairs = [(i, j) for j in range(n) for i in range(j)]
    for _ in range(_SWEEPS):
        if all(abs(a[i][j]) <= 1e-300 for i, j in pairs):
            break
        for i, j in pairs:
            _rotate(a, q, i, j)
    order = sorted(range(n), key=lambda k: -a[k][k])
    return [a[k][k] for k in order], [[row[k] for k in order] for row in q]


def _rotate(a: Rows, q: Rows, i: int, j: int) -> None:
    """Rotate the rows and columns i and j of a matrix so that its element there becomes zero."""
    if a[i][j] == 0:
        return
    ratio = (a[j][j] - a[i][i]) / (2 * a[i][j])
    tangent = math.copysign(1.0, ratio) / (abs(ratio) + math.hypot(ratio, 1.0))
    cosine = 1 / math.hypot(tangent, 1.0)
    sine = tangent * cosine
    for row in (*a, *q):
        row[i], row[j] = cosine * row[i] - sine * row[j], sine * row[i] + cosine * row[j]
    left, right = a[i], a[j]
    a[i] = [cosine * x - sine * y for x, y in zip(left, right, strict=True)]
    a[j] = [sine * x + cosine * y for x, y in zip(left, right, strict=True)]
    a[i][j] = a[j][i] = 0.0


def _singular_vectors(x: Array, indices: Array) -> Array:
    """The eigenvectors of x times its transpose, as many as there are indices."""
    count = indices.shape[1]
    squares = (_times(m, _transposed(m)) for m in x.matrices)
    return stacked([[row[:count] for row in _symmetric(s)[1]] for s in squares])


def _inverse_root(s: Rows, p: float) -> Rows:
    values, q = _symmetric(s)
    # Eigenvalues that rounding may have made of zero.
    least = values[0] * len(s) * _EPSILON
    powers = [host.power(host.maximum(x, least), host.divide(-1.0, p)) for x in values]
    scaled = [[x * power for x, power in zip(row, powers, strict=True)] for row in q]
    return _times(scaled, _transposed(q))


def _inverse_roots(s: Array, p: float) -> Array:
    return stacked([_inverse_root(m, p) for m in s.matrices])


def _orthonormal(x: Rows, order: Sequence[float]) -> Rows:
    columns, done = _transposed(x), list[int]()
    for k in sorted(range(len(columns)), key=lambda i: -order[i]):
        for _ in range(2):  # once more, against what rounding left
            parts = [sum(map(float.__mul__, columns[i], columns[k])) for i in done]
            for i, part in zip(done, parts, strict=True):
                columns[k] = [v - part * u for v, u in zip(columns[k], columns[i], strict=True)]
        length = host.square_root(sum(v * v for v in columns[k]))
        columns[k] = [host.divide(v, length) for v in columns[k]]
        done.append(k)
    return _transposed(columns)


def _qr(x: Array, order: Array) -> Array:
    flat = [[v for row in m for v in row] for m in order.matrices]
    return stacked([_orthonormal(m, o) for m, o in zip(x.matrices, flat, strict=True)])


FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        row.opcode: elementwise(row.apply)
        for row in TABLE.values()
        if row.apply is not None and row.stage is Stage.ELEMENTWISE
    },
    **{
        f"{opcode}{over}": make(reduce)
        for opcode, reduce in (("sum", host.total), ("mean", host.average))
        for over, make in (
            ("", _whole), ("_rows", _over_rows), ("_cols", _over_cols), ("_tensor", _of_stack),
            ("_first", _over_rows), ("_last", _over_cols),
        )
    },
    **{
        f"{opcode}_{over}": make(functools.partial(functools.reduce, larger))
        for opcode, larger in (("max", host.maximum), ("min", host.minimum))
        for over, make in (
            ("matrix", _whole), ("rows", _over_rows), ("cols", _over_cols), ("tensor", _of_stack),
            ("first", _over_rows), ("last", _over_cols),
        )
    },
    "sum_all": _of_all,
    "max_all": _largest_of_all,
    "spread": _spread,
    "matmul": _matmul,
    "transpose": _each(_transposed),
    "diagonal_rows": _each(lambda m: [[row[i]] for i, row in enumerate(m)]),
    "diagonal_cols": _each(lambda m: [[row[i] for i, row in enumerate(m)]]),
    "diagonal_own": _each(lambda m: [[row[i]] for i, row in enumerate(m)]),
    "bfloat16": lambda x: x,
    "float32": lambda x: x,
    "eigenvectors": _each(lambda m: _symmetric(m)[1]),
    "singular_vectors": _singular_vectors,
    "inverse_root": _inverse_roots,
    "qr": _qr,
}  # fmt: skip
