"""Which compiled backends run a program; eager code runs every program."""

from __future__ import annotations

from optdsl.backends.c.passes import runs
from optdsl.backends.interleaved import interleaves
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import compiles, draws, stored

COMPILED = ("c", "triton")


def compiled_backends(program: Program) -> tuple[str, ...]:
    """The backends other than the eager one that run a program of one section.

    Compiled kernels have no norms of tangents, and of tensors that are no matrices no maxima. Those
    of Triton draw nothing, and read and write states as they are computed, and so do those of C
    that read tensors as matrices; the latter have all but what torch computes between them (see
    `optdsl.backends.interleaved`), if that leaves anything.
    """
    if any(x.signal == "cosine" for x in program.learned):
        return ()
    coded = draws(program) or bool(stored(program))
    if of_matrices(program.kind):
        found = not coded and (runs(program) or interleaves(program))
        return ("c",) if found else ()
    if not compiles(program):
        return ()
    return ("c",) if coded else COMPILED
