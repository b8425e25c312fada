"""What the measurements say: ratios, shares of the copy bandwidth, memory, starts."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.campaign import HeatResult, Results
from benchmarks.contestants import CONTESTANTS
from benchmarks.plan import (
    COLD,
    DISTURBED,
    FLOOR,
    HEATS,
    SCALE,
    STREAM_BYTES,
    STREAMED,
    STREAMS,
    WARM,
    Ratio,
    Target,
)
from benchmarks.ratios import Spread, paired, spread
from benchmarks.sizes import SIZES


@dataclass(frozen=True)
class RatioFinding:
    """A ratio at a size; `value` is None when it was not measured, and `reason` says why."""

    size: str
    ratio: Ratio
    value: Spread | None
    reason: str | None = None
    others: float | None = None  # the share of the processors that other programs used

    @property
    def floor(self) -> float:
        """The ratio of the bytes that the two have to move."""
        ratio = self.ratio
        return CONTESTANTS[ratio.numerator].floor / CONTESTANTS[ratio.denominator].floor

    @property
    def target(self) -> Target | None:
        """The target at this size."""
        return self.ratio.targets.get(self.size)

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one or without a measurement."""
        if self.target is None or self.value is None:
            return None
        return self.target.met(self.value.median)


@dataclass(frozen=True)
class Footprint:
    """What a contestant does with memory at a size that streams from it.

    Attributes:
        size: of the parameters.
        contestant: by name.
        nanoseconds: per parameter and step.
        shares: the bytes of its floor per second, over those of each of `STREAMS`.
        state: bytes of state per parameter.
    """

    size: str
    contestant: str
    nanoseconds: Spread
    shares: dict[str, Spread]
    state: float


@dataclass(frozen=True)
class FloorFinding:
    """The time of a rule's step over that in which memory moves the bytes of its plan.

    Attributes:
        rule: its name.
        kind: "elementwise" or "norms".
        bytes: per parameter and step.
        values: the ratio by the bandwidth of each of `STREAMS`; empty when there are no times.
        target: of the ratio by `SCALE`, for elementwise rules.
        reason: why there are no times.
        others: the share of the processors that other programs used.
    """

    rule: str
    kind: str
    bytes: int
    values: dict[str, Spread]
    target: Target | None
    reason: str | None = None
    others: float | None = None

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target; None without one or without a measurement."""
        if self.target is None or not self.values:
            return None
        return self.target.met(self.values[SCALE].median)


@dataclass(frozen=True)
class Start:
    """The start of a rule in seconds; the spreads are None when there was none."""

    contestant: str
    kind: str
    target: Target
    value: Spread | None
    reason: str | None = None
    others: float | None = None  # the share of the processors that other programs used

    @property
    def met(self) -> bool | None:
        """Whether the median meets the target."""
        return None if self.value is None else self.target.met(self.value.median)


def ratio_findings(results: Results) -> list[RatioFinding]:
    """The ratios of all heats, size by size."""
    return [_ratio(heat, ratio) for heat in results.heats for ratio in HEATS[heat.heat].ratios]


def _ratio(heat: HeatResult, ratio: Ratio) -> RatioFinding:
    for name in (ratio.numerator, ratio.denominator):
        if name not in heat.times:
            return RatioFinding(heat.size, ratio, None, heat.unavailable[name])
    value = paired(heat.times[ratio.numerator], heat.times[ratio.denominator])
    return RatioFinding(heat.size, ratio, value, others=heat.others)


def footprints(results: Results) -> list[Footprint]:
    """One a contestant and size, from the first heat in which it ran."""
    found: dict[tuple[str, str], Footprint] = {}
    for heat in results.heats:
        if not SIZES[heat.size].streams:
            continue
        count = SIZES[heat.size].parameters
        for name, times in heat.times.items():
            if name in STREAMS or (heat.size, name) in found:
                continue
            work = CONTESTANTS[name].floor * count / (STREAM_BYTES * STREAMED)
            found[heat.size, name] = Footprint(
                heat.size,
                name,
                spread([1e9 * time / count for time in times]),
                {s: paired([work * x for x in heat.times[s]], times) for s in STREAMS},
                heat.state[name],
            )
    return list(found.values())


def bandwidth(results: Results, size: str, stream: str) -> Spread | None:
    """Bytes per second of one of `STREAMS` beside a size, reads and writes counted."""
    copies = [
        time for heat in results.heats if heat.size == size for time in heat.times.get(stream, ())
    ]
    return spread([STREAM_BYTES * STREAMED / time for time in copies]) if copies else None


def start_findings(results: Results) -> list[Start]:
    """Cold and warm starts by rule."""
    found = []
    for name, starts in results.starts.items():
        for kind, target in (("cold", COLD), ("warm", WARM)):
            if isinstance(starts, str):
                found.append(Start(name, kind, target, None, starts))
            else:
                times = spread([start["start"] for start in starts[kind]])
                others = results.start_others.get(name)
                found.append(Start(name, kind, target, times, others=others))
    return found


def floor_findings(results: Results) -> list[FloorFinding]:
    """The rules of the library, the slowest of each kind first."""
    found = []
    for floor in results.floors:
        values = {}
        if floor.reason is None:
            work = floor.bytes * SIZES[floor.size].parameters / (STREAM_BYTES * STREAMED)
            for stream in STREAMS:
                least = [work * time for time in floor.times[stream]]
                values[stream] = paired(floor.times[floor.rule], least)
        target = FLOOR if floor.kind == "elementwise" else None
        found.append(
            FloorFinding(
                floor.rule, floor.kind, floor.bytes, values, target, floor.reason, floor.others
            )
        )
    return sorted(found, key=lambda f: (f.kind, -f.values[SCALE].median if f.values else 0))


def disturbed(finding: RatioFinding | FloorFinding | Start) -> bool:
    """Whether other programs were at work, so that the figure says little."""
    return finding.others is not None and finding.others > DISTURBED


def imports(results: Results) -> dict[str, Spread]:
    """What else a new process spends its time with, in seconds, over all starts."""
    starts = [
        start
        for kinds in results.starts.values()
        if not isinstance(kinds, str)
        for some in kinds.values()
        for start in some
    ]
    names = ("torch", "optdsl", "torch optimizer") if starts else ()
    return {name: spread([start[name] for start in starts]) for name in names}
