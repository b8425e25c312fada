"""Which rank works on which whole tensor, so that all have about as much to do."""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence

from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program
from optdsl.ir.sections import of_matrices, read_as
from optdsl.ir.types import Type

# How many products of square matrices of the same size a factorization takes as long as.
_FACTORIZATION = 20


def owners(program: Program, shapes: Sequence[Sequence[int]], ranks: int) -> tuple[int, ...]:
    """The rank that works on each of some tensors; the same on all ranks that ask.

    The tensors are dealt out in the order of their costs, the largest first, each to the rank
    that has the least to do so far.

    Args:
        program: what is done with each of them.
        shapes: their shapes.
        ranks: how many ranks there are.
    """
    costs = [cost(program, shape) for shape in shapes]
    # Of several programs, not all should begin with the same rank.
    first = zlib.crc32(repr((program.kind, list(map(tuple, shapes)))).encode()) % ranks
    loads = [0.0] * ranks
    found = [0] * len(shapes)
    for number in sorted(range(len(shapes)), key=lambda n: -costs[n]):
        rank = min(range(ranks), key=lambda r: (loads[r], (r - first) % ranks))
        found[number] = rank
        loads[rank] += costs[number]
    return tuple(found)


def cost(program: Program, shape: Sequence[int]) -> float:
    """About how long a step of a tensor takes, in multiplications; 1 for one without elements.

    Products and factorizations of matrices are counted, those of both branches of a condition
    included; elementwise operations count as one.

    Args:
        program: of one section.
        shape: of the tensor.
    """
    total = 1.0 + math.prod(shape)
    if not of_matrices(program.kind) or not math.prod(shape):
        return total
    *stack, rows, cols = read_as(program.kind, shape)
    # An axis that the rule declares is short; how long it is depends on hyperparameters.
    lengths = {"rows": float(rows), "cols": float(cols)}
    lengths |= {name: float(min(rows, cols)) for name, _ in program.axes}
    each = sum(_cost(program, operation, lengths) for operation in program.operations)
    return total + math.prod(stack) * each


def _cost(program: Program, operation: Operation, lengths: dict[str, float]) -> float:
    row = TABLE[operation.opcode]
    types = [program.operations[argument].type for argument in operation.arguments]
    if row.stage is Stage.FACTORIZATION:
        return _FACTORIZATION * math.prod(_lengths(types[0], lengths)) ** 1.5
    if row.stage is Stage.PRODUCT and row.arity == 2:
        first, second = (_lengths(of, lengths) for of in types)
        return math.prod(first) * math.prod(second[-1:])
    return 0.0


def _lengths(of: Type, lengths: dict[str, float]) -> list[float]:
    return [lengths[axis] for axis in of.spans]
