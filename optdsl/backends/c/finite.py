"""Kernels for finite numbers only, with fewer operations on elements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from optdsl.backends.c.basis import Basis, find_basis
from optdsl.backends.c.collect import collected
from optdsl.backends.c.storage import Storage
from optdsl.backends.c.values import Values
from optdsl.ir.ops import DRAWS
from optdsl.ir.program import Tangent, Value, upstream
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Loop, Result


@dataclass(frozen=True)
class FiniteKernel(Kernel):
    """A kernel that replaces loops of another one where all numbers are finite.

    The other kernel says which loops there are, and computes the numbers of a tensor that it has
    itself. This one adds the coefficients that are made of them.

    Attributes:
        written: the results that the other kernel writes, which this one writes, too.
        known: the values that are numbers of a tensor in the other kernel, with those there.
        ends: for each loop, the reductions at its end.
        left: the loops that are not replaced.
        basis: the products that are added up in place of the other kernel's dot products; their
            factors are the `dots` of this one. None if the other one has no dot products.
    """

    written: frozenset[str] = frozenset()
    known: Mapping[Value, Value] = field(default_factory=dict)
    ends: tuple[tuple[Value, ...], ...] = ((),)
    left: frozenset[int] = frozenset()
    basis: Basis | None = None

    @cached_property
    def stored(self) -> tuple[Result, ...]:
        """The results that are written."""
        return tuple(r for r in self.results if r.name in self.written)

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """Those of the other kernel; they have no body where they are not replaced."""
        operations = self.program.operations
        scalars = {v for v in self.body if self.program.type(v).extent is Extent.SCALAR}
        computed = set(self.known)
        found = []
        for number, ends in enumerate(self.ends):
            last = number == len(self.ends) - 1
            roots = [r.value for r in (*self.stored, *self.dots)] if last else []
            roots += [operations[v].arguments[0] for v in ends]
            behind = upstream(operations, roots if number not in self.left else (), scalars)
            needed = upstream(operations, scalars.intersection(behind), self.known)
            between = tuple(v for v in needed if v in scalars and v not in computed)
            computed.update(between)
            body = tuple(v for v in behind if self.program.type(v).extent is Extent.TENSOR)
            found.append(Loop(between, body, ends))
        return tuple(found)

    @cached_property
    def coefficients(self) -> tuple[Value, ...]:
        """The numbers of a tensor that the other kernel does not have."""
        return tuple(v for loop in self.loops for v in loop.scalars)


class FiniteValues(Values):
    """The values of a kernel for finite numbers, next to those of the kernel that it replaces."""

    kernel: FiniteKernel
    _SIGN = "sign_of_number"

    def __init__(
        self, kernel: FiniteKernel, storage: Storage, buffers: Sequence[str], others: Values
    ) -> None:
        """Name everything, as `Values` does; `others` are those of the other kernel."""
        super().__init__(kernel, storage, buffers)
        self._others = others

    def position(self, value: Value) -> int:
        """Coefficients are stored behind the numbers of the other kernel."""
        known, others = self.kernel.known, self._others
        if value in known:
            return others.position(known[value])
        return len(others.scalars) + self.kernel.coefficients.index(value)


def finite(kernel: Kernel, double: bool = False) -> FiniteKernel | None:
    """The same kernel for finite numbers only; see `optdsl.backends.c.collect`.

    A loop is replaced if that makes it faster: if it has means, or if something is learned. With
    `double`, for a step in double precision, the tangents themselves are computed: whoever asks for
    that precision wants them to be accurate where the parts of a sum cancel, too. So they are where
    numbers of a tensor are among their factors.

    Returns:
        None if no loop is replaced.
    """
    operations = kernel.program.operations
    means = [any(operations[v].opcode == "mix" for v in loop.body) for loop in kernel.loops]
    if not (kernel.dots or any(means)):
        return None
    drawn = [o.attribute for o in map(operations.__getitem__, kernel.body) if o.opcode in DRAWS]
    if len(set(drawn)) < len(drawn):
        return None  # names would not tell which of the same name is which in the other kernel
    program, others = collected(kernel.program)
    new = dict(zip(kernel.program.results, program.results, strict=True))
    results, dots = (
        tuple(replace(r, value=new[r.value]) for r in found)
        for found in (kernel.results, kernel.dots)
    )
    scalars = [v for v in kernel.body if kernel.program.type(v).extent is Extent.SCALAR]
    simple = len(kernel.loops) == 1 and not scalars
    basis = None
    if dots:
        asked = [d.value for d in dots]
        whole = double or not simple
        program, basis = find_basis(program, [r.value for r in results], asked, whole)
        if simple:
            # Without the tangents, values are parts of fewer sums: more factors can be collected.
            kept = (*basis.factors, *basis.coefficients)
            parts = tuple(Tangent(str(n), value) for n, value in enumerate(kept))
            before = replace(program, tangents=parts)
            program, others = collected(before)
            new = dict(zip(before.results, program.results, strict=True))
            basis = basis.renamed(new)
            results = tuple(replace(r, value=new[r.value]) for r in results)
        dots = tuple(Result("", v, program.type(v)) for v in basis.factors)
    ends = tuple(tuple(others[v] for v in loop.reductions) for loop in kernel.loops)
    roots = (*(r.value for r in (*results, *dots)), *(v for end in ends for v in end))
    roots += basis.coefficients if basis else ()
    types = {v: program.type(v).extent for v in program.needed(roots)}
    made = FiniteKernel(
        kernel.name,
        program,
        tuple(v for v, extent in types.items() if extent is Extent.UNIFORM),
        tuple(v for v, extent in types.items() if extent is not Extent.UNIFORM),
        results,
        dots,
        written=frozenset(r.name for r in kernel.stored),
        # Of two that have become one, the one that is computed first.
        known={others[v]: v for v in reversed(scalars)},
        ends=ends,
        basis=basis,
    )
    # The check for finite numbers is of the values that are read, so both must read the same.
    same = [made.reads_in(a) == kernel.reads_in(b)
            for a, b in zip(made.loops, kernel.loops, strict=True)]  # fmt: skip
    left = {k for k, mean in enumerate(means) if not (same[k] and (mean or kernel.dots))}
    if any(dot.type.extent is Extent.SCALAR for dot in dots):
        left.add(len(means) - 1)  # what is the same for a whole tensor has no row
    return replace(made, left=frozenset(left)) if len(left) < len(means) else None
