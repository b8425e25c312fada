"""Which compiled backends run a program; eager code runs every program."""

from __future__ import annotations

from optdsl.backends.tiled_passes import runs
from optdsl.ir.program import Program
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import compiles, draws, stored
from optdsl.plan.sampling import gathers_traces

COMPILED = ("c", "triton")


def compiled_backends(program: Program) -> tuple[str, ...]:
    """The backends other than the eager one that run a program of one section.

    Compiled kernels have no norms of tangents, no sampled tangents with a horizon where elements
    have to do with each other, and of tensors that are no matrices no maxima. Those
    of Triton draw nothing, and read and write states as they are computed, and so do those of C
    that read tensors as matrices; the latter have all but what torch computes between them (see
    `optdsl.backends.interleaved`), if that leaves anything.
    Those of Triton that read tensors as matrices have no products and no factorizations.
    """
    if any(x.signal == "cosine" for x in program.learned) or gathers_traces(program):
        return ()
    coded = draws(program) or bool(stored(program))
    if of_matrices(program.kind):
        # A warm start of a rule of elements does without the emitters.
        from optdsl.backends.interleaved import interleaves

        if coded:
            return ()
        return COMPILED if runs(program) else ("c",) if interleaves(program) else ()
    if not compiles(program):
        return ()
    return ("c",) if coded else COMPILED


def chosen_backends(program: Program) -> tuple[str, ...]:
    """Those of them that `backend="auto"` chooses, each on its own devices.

    Triton's kernels of matrices have been measured on no GPU, and are there for who asks for them.
    """
    found = compiled_backends(program)
    return tuple(b for b in found if not (b == "triton" and of_matrices(program.kind)))
