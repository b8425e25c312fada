"""Rules of the library beside the bytes that a step of theirs moves by its plan.

The rules are those whose elements are updated by themselves, and those that sum over tensors. The
plan tells what a step reads in each of its passes over the elements and what it writes; a pass over
a tensor that is still in a cache reads less from memory than that.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contestants import RULE, WORD, Traffic
from benchmarks.heat import run as heat
from optdsl.compiler import derive, parts
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.types import Extent
from optdsl.plan import plans
from optdsl.report import library
from optdsl.schedule import Kernel, Loop, Role, cheapest, schedule
from optdsl.specifications.sources import open_source

ELEMENTWISE = "elementwise"
KINDS = (ELEMENTWISE, "norms")


def rules() -> dict[str, Any]:
    """The rules that are measured: "rules", from their names to their kinds, one of `KINDS`."""
    return {"rules": {row.name: row.kind for row in library.rows() if row.kind in KINDS}}


def traffic(rule: str) -> Traffic:
    """Words per parameter that all passes of a step of a rule move, if nothing is learned."""
    reads = writes = 0
    for _, program in parts(derive(open_source(rule), learn=False)):
        kernel = schedule(cheapest(plans(program, rounded=False)))[Role.STEP]
        reads += sum(_read(kernel, loop) for loop in kernel.loops)
        writes += sum(result.type.extent is Extent.TENSOR for result in kernel.stored)
    return Traffic(reads, writes)


def _read(kernel: Kernel, loop: Loop) -> int:
    """How many tensors a pass reads."""
    operations = (kernel.program.operations[value] for value in loop.body)
    return len(
        {(o.opcode, o.attribute) for o in operations if TABLE[o.opcode].stage is Stage.BUFFER}
    )


def run(rule: str, size: str, **options: Any) -> dict[str, Any]:
    """Times a rule beside copying and scaling.

    Args:
        rule: of the library.
        size: one of `SIZES` that streams from memory.
        **options: the other arguments of `benchmarks.heat.run`.

    Returns:
        what that returns, and "bytes": those that a step moves for each parameter.
    """
    return {**heat(size, [RULE + rule], **options), "bytes": WORD * sum(traffic(rule))}
