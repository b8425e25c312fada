"""The operations: one row each, with typing, derivative, range, laws and meaning.

A new operation needs a row here, and code in the interpreter and in each backend; a test fails
until all are there. `optdsl.ir.laws` explains the laws; a row without one of them is an error at
import.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from optdsl.ir import derivatives, host, intervals, laws, signatures
from optdsl.ir.derivatives import Derivative
from optdsl.ir.domain import ANYTHING, Interval
from optdsl.ir.laws import Laws, Stage
from optdsl.ir.signatures import Infer
from optdsl.ir.types import AXES, SCALAR, TENSOR, UNIFORM, along

if TYPE_CHECKING:
    from optdsl.ir.program import Operation, Operations, Value

Range = Callable[..., Interval]

# The arity of an operation that takes any number of pairs.
ANY = -1


@dataclass(frozen=True)
class Row:
    """What the compiler knows about an operation.

    Attributes:
        opcode: its name.
        arity: how many arguments it takes, or `ANY`.
        infer: the type of the result from those of the arguments.
        derivative: the tangent of the result.
        interval: the range of the result from those of the arguments.
        apply: the operation on Python floats; a reduction takes a sequence of them. None for a
            leaf, which has no arguments, and for what is computed from matrices.
        laws: what holds for it.
        meaning: what it is, for readers.
        attribute: the type of the attribute that it takes, if it takes one.
        function: the name by which the language calls it, if it is called like a function.
        declared: whether its type is given, as that of a leaf is, and not inferred; its arguments
            are uniform numbers then.
        of_equal: for a reduction, the opcode that computes its result if all elements are equal,
            from their number and that element; "" if the element itself is the result.
        turned: for an operation that names one of its axes, the opcode that does the same to
            transposed arguments.
        combined: of a total, the opcode that makes one of those of two sets of tensors.
        compiled: whether backends that compile kernels have it, beside those for its stage.
    """

    opcode: str
    arity: int
    infer: Infer
    derivative: Derivative
    interval: Range
    apply: Callable[..., float] | None
    laws: Laws
    meaning: str
    attribute: type | None = None
    function: str | None = None
    declared: bool = False
    of_equal: str | None = None
    turned: str = ""
    compiled: bool = True
    combined: str = ""

    @property
    def leaf(self) -> bool:
        """Whether the operation has no arguments, so that its type is given, not inferred."""
        return self.arity == 0

    @property
    def stage(self) -> Stage:
        """Where in a step it is done."""
        return self.laws.stage


_COUNT = Interval(1.0, float("inf"), False, True)

# --- laws that several rows share -----------------------------------------------------------------

_FUNCTION = Laws(
    stage=Stage.ELEMENTWISE, alias=False, smooth=True, initial=True, replayable=True,
    commutative=False, rational=False, additive=False, affine=laws.never, shows=laws.none,
    selects=False, integral=False, compares=False, jumps=False, bounded=laws.never, price=1,
)  # fmt: skip
_SELECTION = replace(_FUNCTION, selects=True, integral=True)
_ALIAS = replace(_SELECTION, alias=True, shows=laws.every, bounded=laws.always, price=0)
_ARITHMETIC = replace(_FUNCTION, rational=True, affine=laws.always, shows=laws.every)
_SUM = replace(_ARITHMETIC, additive=True, integral=True, bounded=laws.always)
_FLAT = replace(_FUNCTION, bounded=laws.always)
_CHOICE = replace(_SELECTION, smooth=False)
_EXTREMUM = replace(_CHOICE, commutative=True, compares=True)
_COMPARISON = replace(_FUNCTION, integral=True, compares=True, jumps=True)
_REDUCTION = replace(_FUNCTION, stage=Stage.REDUCTION, smooth=False, replayable=False)
_ALONG = replace(_REDUCTION, stage=Stage.ALONG)
_PRODUCT = replace(_REDUCTION, stage=Stage.PRODUCT)
_FACTORIZATION = replace(_REDUCTION, stage=Stage.FACTORIZATION)


def _leaf(stage: Stage, replayable: bool, rational: bool = False, initial: bool = True) -> Laws:
    return replace(
        _FUNCTION, stage=stage, replayable=replayable, rational=rational, initial=initial, price=0
    )


def _itself(x: float) -> float:
    return x


def _chosen(condition: float, x: float, y: float) -> float:
    return x if condition else y


# What an axis, or the place of one, is in a transposed matrix.
_TURNED = {"rows": "cols", "cols": "rows", "first": "last", "last": "first"}


# --- the table ------------------------------------------------------------------------------------

_ROWS = (
    # Leaves. Their tangents are seeded by differentiation, their extents may be narrowed.
    Row("constant", 0, signatures.leaf(UNIFORM), derivatives.zero, lambda: ANYTHING, None,
        _leaf(Stage.LITERAL, True, rational=True), "a literal", attribute=float),
    Row("hyper", 0, signatures.leaf(UNIFORM), derivatives.zero, lambda: ANYTHING, None,
        _leaf(Stage.HOST, True, rational=True), "a hyperparameter", attribute=str),
    Row("step", 0, signatures.leaf(UNIFORM), derivatives.zero, lambda: _COUNT, None,
        _leaf(Stage.HOST, True, initial=False), "t, the step, from 1"),
    Row("gradient", 0, signatures.leaf(TENSOR), derivatives.zero, lambda: ANYTHING, None,
        _leaf(Stage.BUFFER, False), "g"),
    Row("parameter", 0, signatures.leaf(TENSOR), derivatives.zero, lambda: ANYTHING, None,
        _leaf(Stage.BUFFER, False), "theta, before the step"),
    Row("state", 0, signatures.leaf(TENSOR), derivatives.zero, lambda: ANYTHING, None,
        _leaf(Stage.BUFFER, False, initial=False), "a state, before the step", attribute=str),
    Row("size", 0, signatures.leaf(SCALAR), derivatives.zero, lambda: _COUNT, None,
        _leaf(Stage.LENGTH, False), "the number of elements of theta"),
    Row("given", 0, signatures.leaf(UNIFORM), derivatives.zero, lambda: Interval(0.0, 1.0), None,
        _leaf(Stage.INPUT, False, initial=False), "1 where an input is given to the step, else 0",
        attribute=str),
    # Names and barriers.
    Row("define", 1, signatures.same, derivatives.identity, lambda x: x, _itself,
        replace(_ALIAS, affine=laws.always),
        "the value itself, under the name of an equation, so that a blend can rebind it",
        attribute=str),
    Row("stop_gradient", 1, signatures.same, derivatives.zero, lambda x: x, _itself, _ALIAS,
        "the value itself, a constant to differentiation", function="stop_gradient"),
    # Draws. The largest normal number is that of the smallest uniform one, 2^-24.
    Row("draw", 1, signatures.leaf(TENSOR), derivatives.zero, lambda x: Interval(-6.0, 6.0), None,
        replace(_FLAT, stage=Stage.DRAW, replayable=False, jumps=True, price=60),
        "random numbers: the distribution and the name, drawn at a counter", attribute=str,
        declared=True),
    # Arithmetic.
    Row("neg", 1, signatures.elementwise, derivatives.negation, intervals.negate, operator.neg,
        replace(_ARITHMETIC, bounded=laws.always, selects=True, integral=True), "-x"),
    Row("add", 2, signatures.elementwise, derivatives.addition, intervals.add, operator.add,
        replace(_SUM, commutative=True), "x + y"),
    Row("sub", 2, signatures.elementwise, derivatives.subtraction, intervals.subtract,
        operator.sub, _SUM, "x - y"),
    Row("mul", 2, signatures.elementwise, derivatives.product, intervals.multiply, operator.mul,
        replace(_ARITHMETIC, commutative=True, integral=True,
                affine=lambda varies: not all(varies), bounded=any),
        "x * y"),
    Row("div", 2, signatures.elementwise, derivatives.quotient, intervals.divide, host.divide,
        replace(_ARITHMETIC, affine=lambda varies: not varies[1], shows=laws.first, price=10),
        "x / y"),
    Row("pow", 2, signatures.elementwise, derivatives.power, intervals.power, host.power,
        replace(_FUNCTION, shows=laws.base, price=50), "x^y"),
    Row("mix", ANY, signatures.elementwise, derivatives.weighted_mean,
        lambda *x: functools.reduce(intervals.union, x[1::2]), host.mixed,
        replace(_FUNCTION, additive=True, affine=lambda varies: not any(varies[0::2])),
        "the mean of x, y, ... by weights w, v, ... that sum to one, from w, x, v, y, ...; what "
        "weighs nothing takes no part, and equal parts have that value as their mean"),
    # Functions.
    Row("sqrt", 1, signatures.elementwise, derivatives.square_root, intervals.square_root,
        host.square_root, replace(_FUNCTION, shows=laws.every, price=10), "square root",
        function="sqrt"),
    Row("exp", 1, signatures.elementwise, derivatives.exponential, intervals.exponential,
        host.exponential, replace(_FUNCTION, price=20), "exponential", function="exp"),
    Row("log", 1, signatures.elementwise, derivatives.logarithm, intervals.logarithm,
        host.logarithm, replace(_FUNCTION, shows=laws.every, price=20), "natural logarithm",
        function="log"),
    Row("tanh", 1, signatures.elementwise, derivatives.hyperbolic_tangent,
        lambda x: Interval(-1.0, 1.0), math.tanh, replace(_FLAT, price=25), "hyperbolic tangent",
        function="tanh"),
    Row("cos", 1, signatures.elementwise, derivatives.cosine, lambda x: Interval(-1.0, 1.0),
        host.cosine, replace(_FLAT, shows=laws.every, price=25), "cosine", function="cos"),
    Row("sin", 1, signatures.elementwise, derivatives.sine, lambda x: Interval(-1.0, 1.0),
        host.sine, replace(_FLAT, shows=laws.every, price=25), "sine", function="sin"),
    Row("floor", 1, signatures.elementwise, derivatives.zero, intervals.floor, host.floored,
        replace(_FLAT, shows=laws.every, integral=True, jumps=True),
        "the largest whole number up to x", function="floor"),
    Row("abs", 1, signatures.elementwise, derivatives.absolute, intervals.absolute, abs,
        replace(_SELECTION, shows=laws.every), "|x|", function="abs"),
    Row("sign", 1, signatures.elementwise, derivatives.zero, intervals.sign, host.signum,
        replace(_FLAT, integral=True, jumps=True), "-1, 0 or 1; NaN stays NaN",
        function="sign"),
    Row("max", 2, signatures.elementwise, derivatives.extremum("ge"), intervals.maximum,
        host.maximum, _EXTREMUM, "the larger; NaN if either is", function="max"),
    Row("min", 2, signatures.elementwise, derivatives.extremum("le"), intervals.minimum,
        host.minimum, _EXTREMUM, "the smaller; NaN if either is", function="min"),
    Row("where", 3, signatures.choice, derivatives.choice,
        lambda c, x, y: intervals.union(x, y), _chosen, _CHOICE,
        "x where the condition holds, else y", function="where"),
    # Conditions.
    *(Row(opcode, 2, signatures.comparison, derivatives.zero, lambda x, y: ANYTHING, compare,
          replace(_COMPARISON, commutative=commutes), meaning)
      for opcode, compare, commutes, meaning in (
        ("lt", operator.lt, False, "x < y"), ("le", operator.le, False, "x <= y"),
        ("gt", operator.gt, False, "x > y"), ("ge", operator.ge, False, "x >= y"),
        ("eq", operator.eq, True, "x == y"), ("ne", operator.ne, True, "x != y"))),
    # Reductions over the elements of a tensor.
    Row("sum", 1, signatures.reduction, derivatives.total, lambda x: ANYTHING, host.total,
        _REDUCTION, "sum", function="sum", of_equal="mul"),
    Row("mean", 1, signatures.reduction, derivatives.average, lambda x: x, host.average,
        _REDUCTION, "arithmetic mean", function="mean", of_equal=""),
    Row("sum_all", 1, signatures.total, derivatives.total_of_all, lambda x: ANYTHING,
        host.total_of_all, replace(_REDUCTION, stage=Stage.TOTAL),
        "sum over all tensors, those of the sections in whose programs it is by its name",
        attribute=str, combined="add"),
    Row("max_all", 1, signatures.total, derivatives.largest_of_all, lambda x: ANYTHING,
        host.largest_of_all, replace(_REDUCTION, stage=Stage.TOTAL),
        "the largest number of all tensors, as sum_all is their sum; -inf of none, NaN if one is",
        attribute=str, combined="max"),
    # Matrices. They have no meaning on single numbers, and so no `apply`.
    Row("length", 0, signatures.leaf(SCALAR), derivatives.zero, lambda: _COUNT, None,
        _leaf(Stage.SHAPE, False), "the number of rows, of columns, or of positions of a kernel",
        attribute=str),
    Row("section", 0, signatures.leaf(SCALAR), derivatives.zero, lambda: ANYTHING, None,
        _leaf(Stage.SHAPE, False), "the number of the section that holds for a tensor, from 0"),
    Row("indices", 0, signatures.leaf(SCALAR), derivatives.zero, lambda: Interval(0.0, math.inf),
        None, _leaf(Stage.SHAPE, False), "the number of each index of a declared axis, from 0"),
    Row("identity", 0, signatures.leaf(along(("rows", "rows"))), derivatives.zero,
        lambda: Interval(0.0, 1.0), None, _leaf(Stage.SHAPE, False), "the identity matrix"),
    *(Row(f"{opcode}_{axis}", 1, signatures.reduction_along(axis), derivative, interval, None,
          _ALONG, f"{meaning} over {axis}", turned=f"{opcode}_{_TURNED[axis]}")
      for axis in AXES
      for opcode, derivative, interval, meaning in (
        ("sum", derivatives.total_along(axis), lambda x: ANYTHING, "sum"),
        ("mean", derivatives.average_along(axis), lambda x: x, "arithmetic mean"))),
    *(Row(f"{opcode}_{which}", 1, signatures.reduction_of(place), derivative, interval, None,
          _ALONG, f"{meaning} over the {which} axis", turned=f"{opcode}_{_TURNED[which]}")
      for which, place in (("first", 0), ("last", -1))
      for opcode, derivative, interval, meaning in (
        ("sum", derivatives.reduced("sum", place), lambda x: ANYTHING, "sum"),
        ("mean", derivatives.reduced("mean", place), lambda x: x, "arithmetic mean"))),
    *(Row(f"{opcode}_tensor", 1, signatures.reduction, derivative, interval, None, _ALONG,
          f"{meaning} over all matrices of a stack")
      for opcode, derivative, interval, meaning in (
        ("sum", derivatives.of_stack("sum"), lambda x: ANYTHING, "sum"),
        ("mean", derivatives.of_stack("mean"), lambda x: x, "arithmetic mean"))),
    *(Row(f"{opcode}_{which}", 1, infer, derivatives.extremum_along(which), lambda x: x, None,
          _ALONG, f"the {meaning} number {where}; NaN if one is",
          turned=f"{opcode}_{_TURNED.get(which, which)}")
      for opcode, meaning in (("max", "largest"), ("min", "smallest"))
      for which, infer, where in (
        ("tensor", signatures.reduction, "of all matrices of a stack"),
        *((axis, signatures.reduction_along(axis), f"along {axis}") for axis in AXES),
        ("first", signatures.reduction_of(0), "along the first axis"),
        ("last", signatures.reduction_of(-1), "along the last axis"))),
    *(Row(f"{opcode}_matrix", 1, signatures.reduction, derivatives.extremum_along("matrix"),
          lambda x: x, functools.partial(functools.reduce, larger), _REDUCTION,
          f"the {meaning} number of a tensor, or of a matrix; NaN if one is", of_equal="",
          compiled=False)
      for opcode, meaning, larger in (
        ("max", "largest", host.maximum), ("min", "smallest", host.minimum))),
    Row("spread", 2, signatures.spread, derivatives.spread, lambda x, y: x, None, _PRODUCT,
        "the value x at each index of y"),
    Row("matmul", 2, signatures.product, derivatives.matrix_product, lambda x, y: ANYTHING, None,
        _PRODUCT, "the matrix product x @ y"),
    Row("transpose", 1, signatures.transposition, derivatives.linear("transpose"), lambda x: x,
        None, _PRODUCT, "rows as columns", function="transpose"),
    *(Row(f"diagonal_{axis}", 1, signatures.diagonal(axis), derivatives.linear(f"diagonal_{axis}"),
          lambda x: x, None, _PRODUCT, f"the diagonal of a matrix of {axis} by {axis}",
          turned=f"diagonal_{_TURNED[axis]}")
      for axis in AXES),
    Row("diagonal_own", 1, signatures.own_diagonal, derivatives.linear("diagonal_own"),
        lambda x: x, None, _PRODUCT, "the diagonal of a square matrix of a declared axis"),
    Row("bfloat16", 1, signatures.elementwise, derivatives.identity, lambda x: x, None, _PRODUCT,
        "x, of which products may be taken in bfloat16", function="bfloat16"),
    Row("float32", 1, signatures.elementwise, derivatives.identity, lambda x: x, None, _PRODUCT,
        "x, in the precision of the step again", function="float32"),
    Row("eigenvectors", 1, signatures.square, derivatives.held,
        lambda x: Interval(-1.0, 1.0), None, _FACTORIZATION,
        "the eigenvectors of a symmetric matrix as columns, that of the largest eigenvalue first",
        function="eigenvectors"),
    Row("singular_vectors", 2, signatures.vectors, derivatives.held,
        lambda x, y: Interval(-1.0, 1.0), None, _FACTORIZATION,
        "the left singular vectors of a matrix as columns, those of the largest singular values "
        "first, as many as there are indices y", function="singular_vectors"),
    Row("inverse_root", 2, signatures.square_and_number, derivatives.held,
        lambda x, y: ANYTHING, None, _FACTORIZATION,
        "x^(-1 / y) of a symmetric positive matrix", function="inverse_root"),
    Row("qr", 2, signatures.ordered, derivatives.held, lambda x, y: Interval(-1.0, 1.0),
        None, _FACTORIZATION,
        "the columns of x made orthonormal one after the other, the one of the largest y first",
        function="qr"),
)  # fmt: skip

TABLE = {row.opcode: row for row in _ROWS}
# The operations without arguments, which are given or read from memory.
LEAVES = frozenset(row.opcode for row in _ROWS if row.leaf)
# The operations that know rows and columns; the others mean something on single numbers, too.
OF_MATRICES = frozenset(row.opcode for row in _ROWS if row.stage.of_matrices)
# The operations that are computed between kernels, and not in one; see `optdsl.passes.totals`.
TOTALS = frozenset(row.opcode for row in _ROWS if row.stage in {Stage.TOTAL, Stage.INPUT})
# By the opcode that combines the parts of a total, the part of what adds nothing to it.
NEUTRAL = {"add": 0.0, "max": -math.inf}
# The operations that draw random numbers.
DRAWS = frozenset(row.opcode for row in _ROWS if row.stage is Stage.DRAW)
# The operations that only PyTorch code has, beside those of matrices and those that draw.
UNCOMPILED = frozenset(row.opcode for row in _ROWS if not row.compiled)
# The operations on Python floats: comparisons, and those that make a number of numbers.
COMPARE: dict[str, Callable[..., Any]] = {
    row.opcode: row.apply
    for row in _ROWS
    if row.apply is not None and row.infer is signatures.comparison
}
APPLY: dict[str, Callable[..., float]] = {
    row.opcode: row.apply
    for row in _ROWS
    if row.apply is not None and row.infer in {signatures.elementwise, signatures.same}
}


def laws_of(operation: Operation) -> Laws:
    """The laws of an operation."""
    return TABLE[operation.opcode].laws


def price(operation: Operation) -> int:
    """What an operation takes for each element for which it is done, in additions."""
    row = TABLE[operation.opcode]
    return row.laws.price * (len(operation.arguments) if row.arity == ANY else 1)


def stages(operations: Iterable[Operation]) -> set[Stage]:
    """Where in a step some operations are done."""
    return {TABLE[operation.opcode].stage for operation in operations}


def unaliased(operations: Operations, value: Value) -> Value:
    """The value behind `define` and `stop_gradient`, if it is one of these."""
    while laws_of(operations[value]).alias:
        (value,) = operations[value].arguments
    return value


FUNCTIONS = {row.function: row for row in _ROWS if row.function}
OPERATORS = {
    "+": "add", "-": "sub", "*": "mul", "/": "div", "^": "pow", "@": "matmul",
    "<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne",
}  # fmt: skip
