"""Which rules step a stack of matrices as they step each of its matrices, and which stacks pay.

Emitted code of matrices reads stacks as well, so that a step of many small ones is one call of each
operation. Larger ones gain nothing on a CPU: of Muon's steps, those of 16 by 16 in a stack take 0.2
of the time, those of 64 by 128 0.8, and those of 128 by 128 1.1, for batched products are slower
there than as many single ones.
"""

from __future__ import annotations

from optdsl.ir.program import Program
from optdsl.ir.sections import WIDE, of_matrices
from optdsl.ir.storage import draws, stored

# Matrices of at most so many elements are stacked, where there are at least so many of them.
ELEMENTS, FEWEST = 64 * 128, 4


def stackable(program: Program) -> bool:
    """Whether a step of a stack is that of each of its matrices.

    It is not where a number is of a whole tensor, which may be a stack itself.
    """
    whole = {o.opcode for o in program.operations if o.opcode.endswith("_tensor")}
    scalars = any(not s.type.spans for s in program.states)
    # Each draws for itself, and is stored for itself.
    apart = draws(program) or bool(stored(program))
    # Matrices of a stack are not turned one by one.
    apart = apart or WIDE in program.kind.split()
    return of_matrices(program.kind) and not (whole or scalars or apart)
