"""What kernels of matrices take, and how they are launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from optdsl.backends.triton.layout import wrapped

# Counts, for which no other kernel is compiled; the columns are `width` parts of `UNIT`.
COUNTS = ("stack", "rows", "width")
_SPACE = ("uniforms", "scalars", "row_values", "col_values")
_SUMS = ("of_rows", "of_cols", "of_all")


@dataclass(frozen=True)
class Takes:
    """What a kernel takes beside tensors.

    Attributes:
        space: its working space.
        constants: what it is compiled for.
    """

    space: tuple[str, ...]
    constants: tuple[str, ...]


OF_BETWEEN = Takes(_SPACE, ("UNIT", "BLOCK"))
OF_TILES = Takes((*_SPACE, *_SUMS), ("UNIT", "HIGH", "WIDE", "TALL"))
OF_FOLDS = Takes((*_SPACE, *_SUMS), ("UNIT", "HIGH", "WIDE", "TALL", "BLOCK"))
_GIVEN = {"UNIT": "c.unit", "HIGH": "c.high", "WIDE": "c.wide"}


def head(name: str, pointers: Sequence[str], takes: Takes) -> str:
    """The head of a kernel."""
    constants = (f"{x}: tl.constexpr" for x in takes.constants)
    return f"{name}({', '.join([*pointers, *COUNTS, *takes.space, *constants])})"


def launch(name: str, programs: str, pointers: Sequence[str], takes: Takes) -> list[str]:
    """The lines of the host that launch a kernel, so many programs of it."""
    given = [*pointers, *(f"c.{x}" for x in (*COUNTS, *takes.space))]
    constants = [f"{x}={_GIVEN.get(x, x)}" for x in takes.constants]
    arguments = [*given, *constants, "num_warps=THREADS // c.lanes", "**OPTIONS"]
    return wrapped(f"{name}[({programs},)]({', '.join(arguments)})")
