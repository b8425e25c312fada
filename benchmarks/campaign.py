"""All measurements of a run, one process after another."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.contestants import CONTESTANTS, EAGER_MEMORY, RULE, WORD
from benchmarks.machine import Watch, available_memory
from benchmarks.plan import (
    FLOORS,
    HEATS,
    MEMORY,
    STARTERS,
    STARTUP,
    STREAM_BYTES,
    STREAMED,
    Effort,
    Heat,
)
from benchmarks.sizes import SIZES, Size
from benchmarks.worker import Unavailable, call

CACHE_VARIABLE = "OPTDSL_CACHE_DIR"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What to measure, and how thoroughly."""

    sizes: tuple[str, ...]
    parts: tuple[str, ...]
    backend: str
    effort: Effort
    clock: str = "wall"


@dataclass(frozen=True)
class HeatResult:
    """A heat at a size; see `benchmarks.heat.run`.

    Attributes:
        heat: its name.
        size: of the parameters.
        times: seconds per step by contestant, one a turn.
        state: bytes of state per parameter by contestant.
        steps: how many steps were averaged to a turn.
        unavailable: by contestant, why there are no times.
        others: the share of the processors that other programs used meanwhile, if known.
    """

    heat: str
    size: str
    times: dict[str, list[float]] = field(default_factory=dict)
    state: dict[str, float] = field(default_factory=dict)
    steps: int = 1
    unavailable: dict[str, str] = field(default_factory=dict)
    others: float | None = None


@dataclass(frozen=True)
class FloorResult:
    """A rule of the library beside copying and scaling; see `benchmarks.floors.run`.

    Attributes:
        rule: its name.
        kind: of `benchmarks.floors.KINDS`.
        size: of the parameters.
        bytes: that a step moves for each parameter, by its plan.
        times: seconds, one a turn, of a step, of copying and of scaling.
        reason: why there are no times.
        others: the share of the processors that other programs used meanwhile, if known.
    """

    rule: str
    kind: str
    size: str
    bytes: int = 0
    times: dict[str, list[float]] = field(default_factory=dict)
    reason: str | None = None
    others: float | None = None


@dataclass
class Results:
    """What was measured; whatever could not be is listed in its place with the reason."""

    options: Options
    machine: dict[str, Any]
    heats: list[HeatResult] = field(default_factory=list)
    floors: list[FloorResult] = field(default_factory=list)
    memory_size: str | None = None
    memory: dict[str, dict[str, float] | str] = field(default_factory=dict)
    starts: dict[str, dict[str, list[dict[str, float]]] | str] = field(default_factory=dict)
    start_others: dict[str, float | None] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def warn(self, texts: Sequence[str]) -> None:
        """Keeps each warning once."""
        self.warnings += [text for text in texts if text not in self.warnings]

    def as_json(self) -> dict[str, Any]:
        """As dictionaries, lists, texts and numbers."""
        return asdict(self)


def measure(options: Options, say: Say) -> Results:
    """Runs what the options ask for; `say` is told what comes next."""
    results = Results(options, call("environment", options.effort.timeout))
    results.machine.pop("warnings")
    sizes = [SIZES[name] for name in options.sizes]
    for size in sizes:
        for heat in HEATS.values():
            if heat.name in options.parts:
                say(f"{size.name}: {'; '.join(_label(c) for c in heat.contestants)}")
                results.heats.append(_heat(results, heat, size))
    streaming = [size for size in sizes if size.streams]
    if FLOORS in options.parts and streaming:
        _floors(results, min(streaming, key=lambda size: size.parameters), say)
    if MEMORY in options.parts and streaming:
        _memory(results, min(streaming, key=lambda size: size.parameters), say)
    if STARTUP in options.parts:
        for name in STARTERS:
            say(f"start: {_label(name)}")
            watch = Watch()
            results.starts[name] = _starts(results, name)
            results.start_others[name] = watch.others()
    return results


def _label(contestant: str) -> str:
    return CONTESTANTS[contestant].label


def lacking(size: Size, contestants: Sequence[str], backend: str) -> str | None:
    """Why the contestants should not be tried together, if memory will not do."""
    available = available_memory()
    each = 2 * WORD  # two sets of gradients
    for contestant in (CONTESTANTS[name] for name in contestants):
        each += WORD + contestant.memory
        each += EAGER_MEMORY if contestant.ours and backend == "eager" else 0
    needed = each * size.parameters + STREAM_BYTES * STREAMED
    if available is None or needed <= available:
        return None
    return f"needs about {needed / 1e9:.0f} GB of memory, and {available / 1e9:.0f} GB are free"


def _heat(results: Results, heat: Heat, size: Size) -> HeatResult:
    options, effort = results.options, results.options.effort
    reason = lacking(size, heat.contestants, options.backend)
    if reason is None:
        watch = Watch()
        try:
            found = call(
                "heat",
                effort.timeout,
                size=size.name,
                contestants=list(heat.contestants),
                backend=options.backend,
                rounds=effort.rounds,
                seconds=effort.seconds,
                least=effort.least,
                sample=effort.sample,
                clock=options.clock,
            )
        except Unavailable as unavailable:
            reason = str(unavailable)
        else:
            results.warn(found.pop("warnings"))
            return HeatResult(heat.name, size.name, **found, others=watch.others())
    return HeatResult(heat.name, size.name, unavailable=dict.fromkeys(heat.contestants, reason))


def _floors(results: Results, size: Size, say: Say) -> None:
    """Every elementwise and every reducing rule of the library, each in a process of its own."""
    options, effort = results.options, results.options.effort
    for rule, kind in call("rules", effort.timeout)["rules"].items():
        say(f"floor, {size.name}: {rule}")
        watch = Watch()
        try:
            found = call(
                "floor",
                effort.timeout,
                rule=rule,
                size=size.name,
                backend=options.backend,
                rounds=effort.rounds,
                seconds=effort.floor_seconds,
                least=effort.least,
                sample=effort.sample,
                clock=options.clock,
            )
        except Unavailable as unavailable:
            results.floors.append(FloorResult(rule, kind, size.name, reason=str(unavailable)))
            continue
        results.warn(found["warnings"])
        times = {name.removeprefix(RULE): taken for name, taken in found["times"].items()}
        reason = next(iter(found["unavailable"].values()), None)
        others = watch.others()
        floor = FloorResult(rule, kind, size.name, found["bytes"], times, reason, others)
        results.floors.append(floor)


def _memory(results: Results, size: Size, say: Say) -> None:
    """The memory of everyone who takes part in a heat, at one size."""
    results.memory_size = size.name
    heats = [heat for heat in HEATS.values() if heat.name in results.options.parts]
    for name in dict.fromkeys(c for heat in heats or HEATS.values() for c in heat.contestants):
        say(f"memory, {size.name}: {_label(name)}")
        reason = lacking(size, [name], results.options.backend)
        if reason is not None:
            results.memory[name] = reason
            continue
        try:
            found = call(
                "memory",
                results.options.effort.timeout,
                size=size.name,
                contestant=name,
                backend=results.options.backend,
            )
        except Unavailable as unavailable:
            results.memory[name] = str(unavailable)
        else:
            results.warn(found.pop("warnings"))
            results.memory[name] = found


def _starts(results: Results, name: str) -> dict[str, list[dict[str, float]]] | str:
    """Pairs of starts, each with a cache of its own: empty at first, filled the second time."""
    starts: dict[str, list[dict[str, float]]] = {"cold": [], "warm": []}
    effort, backend = results.options.effort, results.options.backend
    for _ in range(effort.starts):
        with tempfile.TemporaryDirectory(prefix="optdsl-bench-") as cache:
            for kind, found in starts.items():
                try:
                    start = call(
                        "startup",
                        effort.timeout,
                        {CACHE_VARIABLE: cache},
                        contestant=name,
                        backend=backend,
                    )
                except Unavailable as unavailable:
                    return f"{kind}: {unavailable}"
                results.warn(start.pop("warnings"))
                found.append(start)
    return starts
