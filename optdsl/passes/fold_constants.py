"""Compute operations on literals, in the double precision in which the host would.

Only uniform values fold: a literal meets a tensor in the tensor's own precision.
"""

from __future__ import annotations

from optdsl.ir import host
from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.rewrite import rewrite


def fold_constants(program: Program) -> Program:
    """The program with every operation on literals replaced by its result."""
    return rewrite(program, _fold)


def _fold(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
    if not arguments or operation.opcode not in host.APPLY:
        return None
    operations = [builder[a] for a in arguments]
    if any(o.opcode != "constant" for o in operations):
        return None
    result = host.APPLY[operation.opcode](*(o.attribute for o in operations))
    # NaN has no spelling as a literal and compares unequal to itself: leave it to run time.
    return None if result != result else builder.constant(result)
