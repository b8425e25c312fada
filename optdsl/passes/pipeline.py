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
    forward_names,  # first: it lets equal equations under two names become one
    forward_barriers,  # as early, for the same reason
    fold_constants,  # before simplify, which looks for literals
    simplify,  # leaves operations behind that nothing uses any more
    eliminate_dead,  # last: it sweeps up after the others
)


# Differentiation is cheaper where equal values are one, and needs the barriers.
PREPARATION = tuple(rewrite for rewrite in PIPELINE if rewrite is not forward_barriers)


def run_passes(program: Program, passes: tuple[Pass, ...] = PIPELINE) -> Program:
    """The program after all passes, verified after each."""
    for rewrite in passes:
        program = verify(rewrite(program))
    return program
