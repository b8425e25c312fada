"""The passes of a kernel over the elements of a matrix, and what is computed between them.

Each pass but the last ends with reductions of elements: along rows, along columns, or of all. What
extends along one axis only, and numbers of a matrix, are computed between passes, reductions of
them included. As in `optdsl.schedule`, values of an earlier pass are computed again where a later
one needs them.
"""

from __future__ import annotations

from dataclasses import dataclass

from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value, upstream
from optdsl.ir.types import AXES, Extent, Type
from optdsl.schedule import Kernel

# What a reduction gives: numbers for each row, for each column, of a matrix, or of a stack.
ROWS, COLS, MATRIX, STACK = "rows", "cols", "matrix", "stack"


@dataclass(frozen=True)
class Reduction:
    """A reduction.

    Attributes:
        kind: "sum", "mean", "max" or "min".
        of: the axes of what is reduced, of one matrix.
        gives: `ROWS`, `COLS`, `MATRIX` or `STACK`.
    """

    kind: str
    of: tuple[str, ...]
    gives: str


def reduction(program: Program, value: Value) -> Reduction | None:
    """The reduction that a value is; None for another value.

    Raises:
        NotImplementedError: of a value of axes that are no axis of the parameter.
    """
    operation = program.operations[value]
    if TABLE[operation.opcode].stage not in {Stage.REDUCTION, Stage.ALONG}:
        return None
    kind, _, along = operation.opcode.partition("_")
    of = program.type(operation.arguments[0]).spans
    # Of a square matrix, the two axes are one by name.
    if len(set(of)) < len(of) or not set(of) <= set(AXES) or of == AXES[::-1]:
        raise NotImplementedError(operation.opcode)
    if along == "tensor":
        return Reduction(kind, of, STACK)
    if not of:
        raise NotImplementedError(operation.opcode)
    gone = {"first": of[:1], "last": of[-1:], "rows": ("rows",), "cols": ("cols",)}.get(along, of)
    left = tuple(axis for axis in of if axis not in gone)
    return Reduction(kind, of, left[0] if left else MATRIX)


def inlined(kind: Type) -> bool:
    """Whether a value is spelled where it is used: conditions that are not numbers of a matrix."""
    return kind.condition and kind.extent in {Extent.AXES, Extent.TENSOR}


def elementwise(operation: Operation) -> bool:
    """Whether a value has one number for each element."""
    return operation.type.extent is Extent.TENSOR


@dataclass(frozen=True)
class Pass:
    """One pass over the elements.

    Attributes:
        before: numbers of a matrix, and values of one axis, that are computed first, in order.
        body: what is computed for each element, in order, and the conditions that it reads.
        reductions: those of elements with which it ends.
    """

    before: tuple[Value, ...]
    body: tuple[Value, ...]
    reductions: tuple[Value, ...]


def passes(kernel: Kernel) -> tuple[Pass, ...]:
    """The passes of a kernel whose results are written by the last one."""
    program, operations = kernel.program, kernel.program.operations
    level: dict[Value, int] = {}
    for value in kernel.body:
        known = [a for a in operations[value].arguments if a in level]
        level[value] = max((level[a] for a in known), default=0) + _ends(program, value)
    ends = [v for v in kernel.body if _ends(program, v)]
    small = [
        v for v in kernel.body if not elementwise(operations[v]) and not inlined(program.type(v))
    ]
    count = max((level[v] for v in kernel.body), default=0) + 1
    written = [r.value for r in kernel.stored if r.type.extent is Extent.TENSOR]
    found = []
    for number in range(count):
        own = tuple(v for v in ends if level[v] == number + 1)
        roots = [operations[v].arguments[0] for v in own]
        roots += written if number == count - 1 else []
        behind = upstream(operations, roots, {*small, *kernel.uniform})
        kept = {*small, *kernel.uniform}
        body = tuple(v for v in behind if v not in kept)
        before = tuple(v for v in small if level[v] == number and v not in ends)
        found.append(Pass(before, body, own))
    return tuple(found)


def _ends(program: Program, value: Value) -> bool:
    """Whether a value is a reduction of elements."""
    found = reduction(program, value)
    return found is not None and len(found.of) == len(AXES)


def runs(program: Program) -> bool:
    """Whether programs of matrices can be cut into passes: they have no products in them.

    A value of other axes than rows and columns, such as a square matrix of rows, comes from a
    product or goes into one.
    """
    values = program.needed((*program.initial_values, *program.step_values))
    return all(runs_value(program, value) for value in values)


def runs_value(program: Program, value: Value) -> bool:
    """Whether a value can be computed in a pass, or between passes."""
    operation = program.operations[value]
    stage, kind = TABLE[operation.opcode].stage, operation.type
    known = stage in _STAGES or operation.opcode in {"length", *RESTATED}
    if not known or not set(kind.axes) <= set(AXES) or len(kind.axes) > 1:
        return False
    try:
        reduction(program, value)
    except NotImplementedError:
        return False
    return True


# Operations on matrices that leave each number as it is, at each index of the result. Values are
# kept in the precision of a step, which is allowed for those that might be rounded to bfloat16.
RESTATED = frozenset({"spread", "bfloat16", "float32"})
_STAGES = {
    Stage.LITERAL, Stage.HOST, Stage.BUFFER, Stage.LENGTH, Stage.ELEMENTWISE, Stage.REDUCTION,
    Stage.ALONG,
}  # fmt: skip
