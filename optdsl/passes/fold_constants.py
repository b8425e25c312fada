"""Computes operations on literals, in double precision as the host would.

Operations on tensors are not folded, since they may be computed in a lower precision.
"""

from __future__ import annotations

from optdsl.ir.builder import Builder
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.rewrite import rewrite


def fold_constants(program: Program) -> Program:
    """The program with every operation on literals replaced by its result."""
    return rewrite(program, _fold)


def _fold(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
    apply = TABLE[operation.opcode].apply
    if apply is None or operation.type.condition:
        return None
    operations = [builder[a] for a in arguments]
    if any(o.opcode != "constant" for o in operations):
        return None
    result = apply(*(o.attribute for o in operations))
    # NaN cannot be written as a literal, and is not equal to itself: it is computed at run time.
    return None if result != result else builder.constant(result)
