"""Choices of which only one side is computed: where a condition on the host decides about work.

A product or a factorization of matrices is not done for nothing, such as the roots of Shampoo at
the steps between two refreshes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# Where a value is computed: in the function itself, or on a side of a choice (1 or 2).
# Sides are places among the arguments of the choice.
Region = tuple[Value, int] | None
ROOT: Region = None

_WORK = {"matmul"}


class Printer(Protocol):
    """What knows which values are numbers of the host."""

    def extent(self, value: Value) -> Extent:
        """How far a value extends in the emitted code."""


def branches(
    kernel: Kernel,
    printer: Printer,
    works: Callable[[Kernel, Value], bool] | None = None,
    means: Collection[Value] = (),
) -> dict[Region, list[Value]]:
    """The values of a kernel by the region in which they are computed, in order.

    A choice is one of regions if its condition is on the host and a side has work of its own.

    Args:
        kernel: the kernel.
        printer: knows the numbers of the host.
        works: whether a value is work that is not done for nothing; by default products and
            factorizations of matrices.
        means: means by weights on the host, of which a part without weight is not computed; the
            region of a part has the part's place among the arguments.
    """
    works = works or _works
    operations = kernel.program.operations
    choices = {
        v
        for v in kernel.body
        if operations[v].opcode == "where"
        and printer.extent(operations[v].arguments[0]) is Extent.UNIFORM
        and printer.extent(v) is not Extent.UNIFORM
    } | set(means)
    while True:
        regions = _regions(kernel, choices)
        worked = {r for v, r in regions.items() if r is not None and works(kernel, v)}
        needed = set[Value]()
        region: Region
        for region in worked:
            while region is not None:
                needed.add(region[0])
                region = regions[region[0]]
        if needed == choices:
            break
        choices = needed
    found: dict[Region, list[Value]] = {ROOT: []}
    for choice in choices:
        found |= {(choice, place): [] for place in range(1, len(operations[choice].arguments))}
    for value in kernel.values:
        found[regions[value]].append(value)
    return found


def _works(kernel: Kernel, value: Value) -> bool:
    opcode = kernel.program.operations[value].opcode
    return opcode in _WORK or TABLE[opcode].stage is Stage.FACTORIZATION


def _regions(kernel: Kernel, choices: set[Value]) -> dict[Value, Region]:
    """The innermost region that holds every use of each value."""
    operations = kernel.program.operations
    found: dict[Value, Region] = {r.value: ROOT for r in (*kernel.results, *kernel.dots)}
    # Shapes are made of lengths, wherever they are needed.
    found |= {length: ROOT for _, length in kernel.program.axes}
    seen = set(found)

    def chain(region: Region) -> list[Region]:
        """A region and those around it, the outermost first."""
        around = [region]
        while around[-1] is not None:
            around.append(found[around[-1][0]])
        return around[::-1]

    for value in reversed(kernel.values):
        own = found[value]
        for position, argument in enumerate(operations[value].arguments):
            place = (value, position) if value in choices and position else own
            if argument in seen:
                common = [
                    a for a, b in zip(chain(found[argument]), chain(place), strict=False) if a == b
                ]
                place = common[-1]
            seen.add(argument)
            found[argument] = place
    return found
