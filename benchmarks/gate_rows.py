"""The few figures that the gate compares with limits."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.contestants import BLEND, RULE
from benchmarks.plan import FUSED

ADAM = f"{RULE}adam"
NADAM = f"{RULE}nadam"
CAUTIOUS = f"{RULE}adamw with cautious"


@dataclass(frozen=True)
class Row:
    """A ratio of times, or bytes of state per parameter.

    Attributes:
        name: in the file of limits and on the command line.
        label: in the table.
        numerator: the contestant whose time, or whose state, it is.
        denominators: contestants whose times are added up; none for bytes of state.
    """

    name: str
    label: str
    numerator: str
    denominators: tuple[str, ...] = (FUSED,)

    @property
    def unit(self) -> str:
        """What stands behind the figure: nothing for a ratio."""
        return "" if self.denominators else " bytes"


@dataclass(frozen=True)
class Match:
    """Rows whose contestants take turns in one process.

    Attributes:
        size: one of `benchmarks.sizes.SIZES`.
        backend: of optdsl.
        rows: what comes of it.
    """

    size: str
    backend: str
    rows: tuple[Row, ...]

    @property
    def contestants(self) -> tuple[str, ...]:
        """Who takes part; the denominators lead."""
        names = [name for row in self.rows for name in row.denominators]
        return tuple(dict.fromkeys([*names, *(row.numerator for row in self.rows)]))


def _blend(name: str, first: str, second: str) -> Match:
    """A blend of two rules of the library at equal weights, over the sum of their steps."""
    both = f"{BLEND}{first.removeprefix(RULE)},{second.removeprefix(RULE)}"
    label = f"{name.replace('-and-', ' + ')}, blended / the sum of both, 2.6M"
    return Match("2.6M", "auto", (Row(name, label, both, (first, second)),))


INTERIOR = "mada-interior"
SAMPLED = "mada-sampled"

MATCHES = (
    Match(
        "20M",
        "auto",
        (
            Row("adam-20M", "Adam / torch fused Adam, 20M", "adam"),
            Row("fixed-20M", "MADA fixed, interior / fused, 20M", INTERIOR),
        ),
    ),
    Match(
        "20M",
        "auto",
        (
            Row(
                "sampled-20M",
                "MADA learned, sample 1/8, overlapped / MADA fixed, 20M",
                SAMPLED,
                (INTERIOR,),
            ),
            Row(
                "sampled-exact-20M",
                "MADA learned, sample 1/8, exact / MADA fixed, 20M",
                "mada-sampled-exact",
                (INTERIOR,),
            ),
            Row("sampled-state", "state of MADA learned, sample 1/8, a parameter", SAMPLED, ()),
        ),
    ),
    Match(
        "20M",
        "auto",
        (
            Row(
                "learned-20M",
                "MADA learned, every element, overlapped / fused, 20M",
                "mada-overlapped",
            ),
        ),
    ),
    _blend("nadam-and-adam", NADAM, ADAM),
    _blend("cautious-and-adam", CAUTIOUS, ADAM),
    Match(
        "150x1000",
        "auto",
        (
            Row("adam-150x1000", "Adam / fused, 150 tensors of 1,000", "adam"),
            Row(
                "learned-150x1000", "MADA learned / fused, 150 tensors of 1,000", "mada-overlapped"
            ),
        ),
    ),
    Match(
        "5M",
        "eager",
        (
            Row("eager-fixed-5M", "eager: MADA fixed / fused, 5M", INTERIOR),
            Row(
                "eager-foreach-5M",
                "eager: MADA fixed / the least foreach calls, 5M",
                INTERIOR,
                ("foreach-mada",),
            ),
            Row(
                "eager-sampled-5M",
                "eager: MADA learned, sample 1/8 / MADA fixed, 5M",
                SAMPLED,
                (INTERIOR,),
            ),
        ),
    ),
)
ROWS = {row.name: row for match in MATCHES for row in match.rows}
