"""Kernels of matrices in Triton: passes over tiles, and what is computed between them.

A program has some tiles below each other, and its own parts of all reductions, which another kernel
joins in the order of the tiles, in double precision: the result is the same from run to run. A call
is for one tensor, a matrix or a stack of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from optdsl.backends.base import EntryPoint, entry_point
from optdsl.backends.tiled_passes import COLS, ROWS, passes
from optdsl.backends.triton.expressions import HELPERS
from optdsl.backends.triton.functions import REAL, uniform_function
from optdsl.backends.triton.layout import wrapped
from optdsl.backends.triton.matrices.between import between
from optdsl.backends.triton.matrices.passes import HALF_HERE, MatrixPass
from optdsl.backends.triton.matrices.values import HELPERS as OF_MATRICES, MatrixValues
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Role

# The tiles of a program, the elements of a tile, its usual width, and numbers taken at a time.
TALL, ELEMENTS, WIDE, BLOCK, THREADS = 4, 2048, 128, 512, 128
# All functions that texts bring along; those that call others come after them.
KNOWN = HELPERS | OF_MATRICES


@dataclass(frozen=True)
class MatrixFunctions:
    """The functions of one kernel.

    Attributes:
        entry: the host's function, which launches the others.
        widths: how many uniform values a row has; how many numbers, values of rows and values of
            columns a matrix; and how many reductions for each row, for each column and of all there
            are at a time.
        text: all of it.
    """

    entry: EntryPoint
    widths: tuple[int, ...]
    text: str


def functions_of(kernels: Mapping[str, Kernel], dtype: str) -> list[MatrixFunctions]:
    """The functions of the kernels that steps of matrices call.

    Args:
        kernels: by name.
        dtype: of `optdsl.backends.base.DTYPES`.
    """
    return [matrix_functions(kernels[n], dtype) for n in (Role.INITIALIZE, Role.STEP)]


def matrix_functions(kernel: Kernel, dtype: str) -> MatrixFunctions:
    """The functions of a kernel, which writes each result to the memory of its own state."""
    kernel = replace(kernel, rotates=False)
    entry = entry_point(kernel, takes_step=True)
    values = MatrixValues(kernel, REAL.get(dtype, "tl.float32"), ("theta", "g", *entry.states))
    found = passes(kernel)
    made = [
        MatrixPass(values, number, own, number == len(found) - 1, f"tl.{dtype}")
        for number, own in enumerate(found)
    ]
    beside = [r for r in kernel.stored if r.type.extent is not Extent.TENSOR]
    texts: list[str] = []
    calls: list[str] = []
    for step in made:
        for k, one in enumerate(between(values, step.own.before, beside if step.last else ())):
            name = f"{kernel.name}_between{step.number}_{k}"
            texts.append(one.text(name))
            calls += one.call(name)
        texts += step.texts()
        calls += step.call()
    row = ["t", *(h.name for h in kernel.program.hypers)]
    uniform = uniform_function(values, row)
    lines = ['"""Launch it for a tensor, whose uniform values may be ready."""']
    if uniform:
        call = f"{kernel.name}_uniforms[(1,)](c.given, c.uniforms, num_warps=1, **OPTIONS)"
        lines += ["if not c.ready:", f"    {call}"]
    parameters = ", ".join(["c", *map(values.buffer, ("theta", "g", *entry.states))])
    host = [*wrapped(f"def {kernel.name}({parameters}):"), *(f"    {x}" for x in (*lines, *calls))]
    count = len(values.places)
    text = "\n\n\n".join([*([uniform] if uniform else []), *texts, "\n".join(host)])
    sums = zip(*(step.sums for step in made), strict=True)
    arrays = (len(values.arrays[axis]) for axis in (ROWS, COLS))
    widths = (2 * count, len(values.scalars), *arrays, *map(max, sums))
    return MatrixFunctions(entry, widths, text.replace(HALF_HERE, str(count)))
