"""The gate: a few ratios, compared with the limits of this class of processors.

`python -m benchmarks --gate` takes less than four minutes and fails where a limit is exceeded by
more than the spread of the measurement.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.campaign import lacking
from benchmarks.contestants import CONTESTANTS
from benchmarks.gate_rows import MATCHES, ROWS, Match, Row
from benchmarks.machine import Watch, processor_class
from benchmarks.plan import CLOCKS, DISTURBED
from benchmarks.ratios import Spread, paired, spread
from benchmarks.sizes import SIZES
from benchmarks.worker import Unavailable, call

LIMITS = Path(__file__).with_name("limits.toml")

ROUNDS = 60  # of a match, an even number, so that as many go forwards as backwards
SECONDS = 10.0  # after which a match begins no further round
LEAST = 6
SAMPLE = 0.01  # seconds that one timing takes at least
TIMEOUT = 180.0  # seconds after which a process is given up


class Verdict(StrEnum):
    """How a figure compares with its limit."""

    MET = "met"
    WITHIN = "above, within the spread"
    EXCEEDED = "EXCEEDED"
    UNLIMITED = "no limit"
    UNMEASURED = "NOT MEASURED"

    @property
    def fails(self) -> bool:
        """Whether the gate fails."""
        return self in {Verdict.EXCEEDED, Verdict.UNMEASURED}


@dataclass(frozen=True)
class Finding:
    """A row that was measured; `value` is None when it was not, and `reason` says why.

    Attributes:
        row: what was measured.
        value: the median of the ratios of a round, and the quartiles around it.
        limit: of this class of processors, if there is one.
        others: the share of the processors that other programs used meanwhile, if known.
        reason: why there is no value.
    """

    row: Row
    value: Spread | None
    limit: float | None
    others: float | None = None
    reason: str | None = None

    @property
    def verdict(self) -> Verdict:
        """A limit is exceeded where the lower quartile is above it."""
        if self.value is None:
            return Verdict.UNMEASURED
        if self.limit is None:
            return Verdict.UNLIMITED
        if self.value.median <= self.limit:
            return Verdict.MET
        return Verdict.WITHIN if self.value.low <= self.limit else Verdict.EXCEEDED

    @property
    def disturbed(self) -> bool:
        """Whether other programs were at work, so that the figure says little."""
        return self.others is not None and self.others > DISTURBED

    def as_json(self) -> dict[str, Any]:
        """As dictionaries, texts and numbers."""
        value = self.value
        return {
            "name": self.row.name,
            "label": self.row.label,
            "median": value and value.median,
            "low": value and value.low,
            "high": value and value.high,
            "rounds": value and value.count,
            "limit": self.limit,
            "verdict": self.verdict.name.lower(),
            "others": self.others,
            "reason": self.reason,
        }


def read_limits(kind: str, file: Path = LIMITS) -> dict[str, float] | None:
    """The limits of a class of processors by row, or None for a class without limits.

    Args:
        kind: as of `processor_class`.
        file: in TOML, a table for each class.

    Raises:
        ValueError: the class lacks a row, or has one that is not measured.
    """
    limits = tomllib.loads(file.read_text()).get(kind)
    if limits is None:
        return None
    if limits.keys() != ROWS.keys():
        wrong = ", ".join(sorted(limits.keys() ^ ROWS.keys()))
        raise ValueError(f"{file.name}, [{kind}]: every row needs one limit; wrong are {wrong}")
    return dict(limits)


def measure(match: Match, limits: Mapping[str, float], clock: str) -> list[Finding]:
    """Lets the contestants of a match take turns in a process of its own."""
    known = [name for name in match.contestants if name in CONTESTANTS]
    reason = lacking(SIZES[match.size], known, match.backend)
    watch = Watch()
    found: dict[str, Any] = {"times": {}, "state": {}, "unavailable": {}}
    if reason is None:
        try:
            found = call(
                "heat",
                TIMEOUT,
                size=match.size,
                contestants=list(match.contestants),
                backend=match.backend,
                rounds=ROUNDS,
                seconds=SECONDS,
                least=LEAST,
                sample=SAMPLE,
                clock=clock,
                bandwidth=False,
            )
        except Unavailable as unavailable:
            reason = str(unavailable)
        for text in found.get("warnings", ()):  # such as that there is no compiler
            print(f"         {text}", file=sys.stderr)
    others = watch.others()
    return [_finding(row, limits.get(row.name), found, others, reason) for row in match.rows]


def _finding(
    row: Row,
    limit: float | None,
    found: Mapping[str, Any],
    others: float | None,
    reason: str | None,
) -> Finding:
    """What the times of a match, or its bytes of state, say of a row."""
    needed = (row.numerator, *row.denominators)
    for name in needed:
        if reason is None and name in found["unavailable"]:
            reason = f"{name}: {found['unavailable'][name]}"
    if reason is not None:
        return Finding(row, None, limit, others, reason)
    if not row.denominators:
        return Finding(row, spread([found["state"][row.numerator]]), limit)
    times = found["times"]
    below = [sum(t) for t in zip(*(times[name] for name in row.denominators), strict=True)]
    return Finding(row, paired(times[row.numerator], below), limit, others)


def table(findings: Sequence[Finding]) -> str:
    """The findings as a table in Markdown, with what there is to say about them below it."""
    lines = ["| | measured | quartiles | limit | verdict |", "|---|---|---|---|---|"]
    for finding in findings:
        value, unit = finding.value, finding.row.unit
        middle = "–" if value is None else f"{value.median:#.3g}{unit}"
        around = "–" if value is None else f"{value.low:#.3g}–{value.high:#.3g}"
        limit = "–" if finding.limit is None else f"≤ {finding.limit:g}"
        doubt = " (?)" if finding.disturbed else ""
        lines.append(
            f"| {finding.row.label} | {middle}{doubt} | {around} | {limit} | {finding.verdict} |"
        )
    reasons = [f"{f.row.name} was not measured: {f.reason}" for f in findings if f.reason]
    busy = [f.others for f in findings if f.disturbed and f.others is not None]
    if busy:
        reasons.append(
            f"(?) Other programs used up to {max(busy):.0%} of the processors meanwhile."
        )
    return "\n".join([*lines, *(["", *reasons] if reasons else [])])


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; exits with a message on stderr for those that cannot be."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks --gate",
        description="Compares a few ratios of steps with the limits of this class of processors. "
        "The exit status is 1 where a limit is exceeded, or a row cannot be measured.",
    )
    parser.add_argument("--gate", action="store_true", required=True, help="this command")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--rows",
        metavar="NAMES",
        default=",".join(ROWS),
        help=f"with commas, of {', '.join(ROWS)} (default: all)",
    )
    parser.add_argument(
        "--clock",
        choices=CLOCKS,
        default="wall",
        help="what steps are timed with; limits are those of the wall clock with all cores",
    )
    found = parser.parse_args(arguments)
    found.rows = [name.strip() for name in found.rows.split(",")]
    unknown = [name for name in found.rows if name not in ROWS]
    if unknown:
        parser.error(f"there is no row {unknown[0]!r}; there are {', '.join(ROWS)}")
    return found


def chosen(names: Sequence[str]) -> list[Match]:
    """The matches with the named rows only, and so without contestants that no row needs."""
    found = [
        Match(match.size, match.backend, tuple(row for row in match.rows if row.name in names))
        for match in MATCHES
    ]
    return [match for match in found if match.rows]


def main(arguments: Sequence[str]) -> int:
    """Measures and prints; 1 where a limit is exceeded, 130 when interrupted."""
    options = parse(arguments)
    kind = processor_class()
    limits = read_limits(kind)
    findings: list[Finding] = []
    begun = perf_counter()
    try:
        machine = call("environment", TIMEOUT)
        for match in chosen(options.rows):
            names = ", ".join(row.name for row in match.rows)
            print(f"{perf_counter() - begun:5.0f} s  {names}", file=sys.stderr, flush=True)
            findings += measure(match, limits or {}, options.clock)
    except KeyboardInterrupt:
        return 130
    failed = any(finding.verdict.fails for finding in findings)
    if options.json:
        rows = [finding.as_json() for finding in findings]
        told = {"class": kind, "limits": limits is not None, "machine": machine, "rows": rows}
        print(json.dumps({**told, "failed": failed}, indent=1))
        return int(failed)
    print(
        f"{machine['processor']} ({kind}), {machine['threads']} of {machine['cores']} cores, "
        f"torch {machine['torch']}, optdsl {machine['optdsl']}; {options.clock} clock\n"
    )
    print(table(findings))
    if limits is None:
        print(f"\nThere are no limits for processors of the class {kind} in {LIMITS.name}.")
    return int(failed)
