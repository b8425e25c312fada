"""Compute operations on literals, in the double precision in which the host would.

Only uniform values fold: a literal meets a tensor in the tensor's own precision.
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
    # NaN has no spelling as a literal and compares unequal to itself: leave it to run time.
    return None if result != result else builder.constant(result)
