"""What all pages have in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

# Of one number of a state, which is kept in float32 unless the parameter is in float64.
BYTES = 4
# Characters in a line.
WIDTH = 88


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in aligned columns, indented by two."""
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    return [
        ("  " + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=False))).rstrip()
        for row in rows
    ]
