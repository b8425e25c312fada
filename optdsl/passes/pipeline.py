"""The passes that every program goes through, in order, with the reason beside each."""

from __future__ import annotations

from collections.abc import Callable

from optdsl.ir.program import Program
from optdsl.ir.verify import verify
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.fold_constants import fold_constants
from optdsl.passes.forward_names import forward_barriers, forward_names
from optdsl.passes.simplify import simplify

Pass = Callable[[Program], Program]

# All of them keep every bit of every result.
PIPELINE: tuple[Pass, ...] = (
    forward_names,  # first, so that equal equations with different names become one value
    forward_barriers,  # early, for the same reason
    fold_constants,  # before simplify, which looks for literals
    simplify,  # leaves unused operations behind
    eliminate_dead,  # last, to remove unused operations
)


# The passes before differentiation, which needs the barriers, and is cheaper on fewer operations.
PREPARATION = tuple(rewrite for rewrite in PIPELINE if rewrite is not forward_barriers)


def run_passes(program: Program, passes: tuple[Pass, ...] = PIPELINE) -> Program:
    """The program after all passes, verified after each."""
    for rewrite in passes:
        program = verify(rewrite(program))
    return program
