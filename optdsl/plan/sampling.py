"""What a step is for elements from which no hyper-gradient is estimated.

Hyper-gradients may be estimated from a sample of the elements (`optdsl.ir.program.Learned.sample`).
Elements outside it take the plain step, and nothing is kept of it. Where elements have nothing to
do with each other, the step of a sampled element needs no other element.
"""

from __future__ import annotations

from dataclasses import replace

from optdsl.ir.laws import Stage
from optdsl.ir.ops import stages
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import draws, stored
from optdsl.ir.types import Extent
from optdsl.ir.verify import verify
from optdsl.passes.pipeline import run_passes


def elementwise(program: Program) -> bool:
    """Whether a step of some elements of a tensor is what it is within the tensor, to the bit.

    It is not where elements are summed or multiplied as matrices, where a number is of a tensor,
    or where what is drawn or stored depends on an element's place.
    """
    found = stages(program.operations)
    if Stage.LENGTH in found or any(stage.mixes or stage.of_matrices for stage in found):
        return False
    values = program.needed(program.step_values)
    kinds = {program.type(v).extent for v in values} | {s.type.extent for s in program.states}
    apart = draws(program) or bool(stored(program)) or of_matrices(program.kind)
    return kinds <= {Extent.TENSOR, Extent.UNIFORM} and not apart


def gathers_traces(program: Program) -> bool:
    """Whether steps of whole tensors would need decaying tangents of the sampled elements only."""
    traced = any(x.horizon for x in program.learned)
    return traced and program.sample > 1 and not elementwise(program)


def plain(program: Program) -> Program:
    """The step without its tangents."""
    return run_passes(verify(replace(program, tangents=(), learned=())))
