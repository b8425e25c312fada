"""The layout of all pages."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from optdsl.ir.types import Extent, Type

# Characters per line.
WIDTH = 88


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in aligned columns, indented by two."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    return [
        ("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False))).rstrip()
        for row in rows
    ]


def unit_of(kind: Type) -> str:
    """What has one number of a state of a type."""
    if kind.extent is Extent.AXES:
        units = {"rows": "row", "cols": "column"}
        return " and ".join(units.get(axis, f"index of {axis}") for axis in kind.axes)
    if kind.extent is Extent.SHARED:
        return "parameter group"
    return "parameter" if kind.extent is Extent.TENSOR else "tensor"
