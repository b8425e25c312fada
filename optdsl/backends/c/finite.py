"""Kernels for finite numbers only, with fewer operations on elements."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

from optdsl.backends.c.collect import collect
from optdsl.ir.ops import DRAWS
from optdsl.schedule import Kernel, Result, make_kernel


@dataclass(frozen=True)
class FiniteKernel(Kernel):
    """A kernel that replaces another one where all numbers are finite.

    Attributes:
        written: the results that the other kernel writes, which this one writes, too.
    """

    written: frozenset[str] = frozenset()

    @cached_property
    def stored(self) -> tuple[Result, ...]:
        """The results that are written."""
        return tuple(r for r in self.results if r.name in self.written)


def finite(kernel: Kernel) -> FiniteKernel | None:
    """The same kernel for finite numbers only; see `optdsl.backends.c.collect`.

    None if it would not be faster, or if the kernel has reductions.
    """
    operations = kernel.program.operations
    means = any(operations[v].opcode == "mix" for v in kernel.loops[-1].body)
    if len(kernel.loops) > 1 or kernel.loops[0].scalars or not (means or kernel.dots):
        return None
    drawn = [o.attribute for o in map(operations.__getitem__, kernel.body) if o.opcode in DRAWS]
    if len(set(drawn)) < len(drawn):
        return None  # names would not tell which of the same name is which in the other kernel
    program = collect(kernel.program)
    new = dict(zip(kernel.program.results, program.results, strict=True))
    results, dots = (
        tuple(replace(r, value=new[r.value]) for r in found)
        for found in (kernel.results, kernel.dots)
    )
    made = make_kernel(kernel.name, program, results, dots)
    written = frozenset(r.name for r in kernel.stored)
    found = FiniteKernel(
        made.name, program, made.uniform, made.body, results, dots, written=written
    )
    # The check for finite numbers is of the values that are read, so both must read the same.
    return found if found.read == kernel.read else None
