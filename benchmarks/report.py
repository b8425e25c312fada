"""The findings as tables and as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from benchmarks.campaign import Results
from benchmarks.contestants import CONTESTANTS
from benchmarks.findings import (
    FloorFinding,
    RatioFinding,
    Start,
    bandwidth,
    disturbed,
    floor_findings,
    footprints,
    imports,
    ratio_findings,
    start_findings,
)
from benchmarks.plan import COPY, FUSED, SCALE, STREAMS
from benchmarks.ratios import Spread
from benchmarks.sizes import SIZES

NONE = "-"
WIDTH = 90  # characters of the report in a file


def label(contestant: str) -> str:
    """What tables call a contestant."""
    return CONTESTANTS[contestant].label


def report(results: Results) -> Group:
    """Everything for the terminal."""
    starts = start_findings(results)
    parts: list[Any] = [Text(_machine(results))]
    if results.heats:
        parts.append(_ratio_table(results))
    if footprints(results):
        parts.append(_bandwidth_table(results))
    if results.floors:
        parts.append(_floor_table(results))
    if results.memory:
        parts.append(_memory_table(results))
    if starts:
        parts.append(_start_table(results))
    floors = floor_findings(results)
    findings: list[RatioFinding | FloorFinding | Start]
    findings = [*ratio_findings(results), *floors, *starts]
    shares = [f.others or 0 for f in findings if disturbed(f)]
    if shares:
        parts.append(
            Text(
                f"Other programs used up to {100 * max(shares):.0f} % of the processors. What was "
                "measured meanwhile bears a question mark and says little: measure it again.",
                style="yellow",
            )
        )
    notes = _reasons(results)
    if notes:
        parts.append(Text("\n".join(["Not measured:", *(f"  {note}" for note in notes)])))
    if results.warnings:
        lines = ["Warnings while measuring:", *(f"  {w}" for w in results.warnings)]
        parts.append(Text("\n".join(lines), style="yellow"))
    return Group(*parts)


def write(results: Results, folder: Path) -> None:
    """Writes `results.json`, everything measured and found, and `report.txt`."""
    found = {
        "ratios": [
            {
                "size": f.size,
                "numerator": f.ratio.numerator,
                "denominator": f.ratio.denominator,
                "value": None if f.value is None else asdict(f.value),
                "floor": f.floor,
                "target": None if f.target is None else str(f.target),
                "met": f.met,
                "reason": f.reason,
                "disturbed": disturbed(f),
            }
            for f in ratio_findings(results)
        ],
        "footprints": [
            {**asdict(f), "floor": CONTESTANTS[f.contestant].floor} for f in footprints(results)
        ],
        "floors": [
            {**asdict(f), "target": str(f.target), "met": f.met, "disturbed": disturbed(f)}
            for f in floor_findings(results)
        ],
        "starts": [
            {**asdict(s), "target": str(s.target), "met": s.met, "disturbed": disturbed(s)}
            for s in start_findings(results)
        ],
    }
    text = json.dumps({"found": found, "measured": results.as_json()}, indent=2)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")
    with (folder / "report.txt").open("w", encoding="utf-8") as file:
        Console(file=file, width=WIDTH).print(report(results))


def _machine(results: Results) -> str:
    machine = results.machine
    memory = machine["memory"]
    first = [
        machine["processor"],
        f"{machine['cores']} cores",
        f"{machine['threads']} threads",
        *([f"{memory / 1e9:.0f} GB"] if memory else []),
        machine["system"],
    ]
    second = [
        f"optdsl {machine['optdsl']}, backend {results.options.backend}",
        f"torch {machine['torch']}",
        f"pytorch_optimizer {machine['pytorch_optimizer'] or 'not installed'}",
        f"Python {machine['python']}",
        machine["compiler"] or "no C compiler",
    ]
    lines = [", ".join(first), ", ".join(second)]
    if results.options.clock == "processor":
        lines.append("Heats and floors are in time of the processors, of all threads together.")
    return "\n".join(lines) + "\n"


def _table(title: str, caption: str) -> Table:
    return Table(
        title=title,
        caption=caption,
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        title_justify="left",
        caption_justify="left",
    )


def _ratio_table(results: Results) -> Table:
    table = _table(
        "Time of a step over that of another, side by side",
        "Medians of the ratios of turns that followed each other, with the quartiles around them. "
        "By bytes: the ratio of what the two steps have to move to and from memory.",
    )
    table.add_column("step", no_wrap=True)
    for name in ("ratio", "quartiles", "by bytes", "target", "met"):
        table.add_column(name, justify="right", no_wrap=True)
    blocks: dict[tuple[str, str], list[RatioFinding]] = {}
    for finding in ratio_findings(results):
        fused = finding.ratio.denominator == FUSED
        over = label(FUSED) if fused else "optdsl's own"
        blocks.setdefault((finding.size, over), []).append(finding)
    order = results.options.sizes
    for size, over in sorted(blocks, key=lambda b: (order.index(b[0]), b[1] != label(FUSED))):
        table.add_row(Text(size, style="bold"))
        table.add_row(Text(f"over {over}", style="italic"))
        for finding in blocks[size, over]:
            table.add_row(
                f" {label(finding.ratio.numerator)}",
                *_spread(finding.value),
                _number(finding.floor) if SIZES[size].streams else NONE,
                NONE if finding.target is None else str(finding.target),
                _mark(finding),
            )
        table.add_section()
    return table


def _bandwidth_table(results: Results) -> Table:
    sizes = [s for s in results.options.sizes if bandwidth(results, s, SCALE)]
    table = _table(
        "Bytes per parameter that a step has to move, and how fast it moves them",
        "In percent of the bytes per second of copying a large tensor to another, and of scaling "
        "one in place, both counted as 8 a float32. A copy moves more than that where the "
        "processor reads memory before it writes to it.",
    )
    table.add_column("step", no_wrap=True)
    table.add_column("bytes", justify="right")
    for size in sizes:
        table.add_column(f"{size} copy", justify="right")
        table.add_column(f"{size} scale", justify="right")
    found = {(f.size, f.contestant): f for f in footprints(results)}
    for name, contestant in CONTESTANTS.items():
        own = [found.get((size, name)) for size in sizes]
        if any(own):
            shares = (NONE if f is None else _percent(f.shares[s]) for f in own for s in STREAMS)
            table.add_row(contestant.label, str(contestant.floor), *shares)
    return table


def _memory_table(results: Results) -> Table:
    table = _table(
        "Memory, in bytes per parameter of float32",
        "State: the tensors in the optimizer's state. Held: what the process keeps from step to "
        "step, parameters and gradients aside. Peak: what one step needs beyond that. "
        f"Each in a process of its own, at {results.memory_size}.",
    )
    table.add_column("step", no_wrap=True)
    for name in ("state", "held", "peak"):
        table.add_column(name, justify="right")
    for name, memory in results.memory.items():
        if not isinstance(memory, str):
            keys = ("state", "held", "peak")
            table.add_row(label(name), *(f"{memory[key]:.1f}" for key in keys))
    return table


def _floor_table(results: Results) -> Table:
    table = _table(
        "Time of a step over the floor by bytes, for rules of the library",
        "The floor is the time in which memory moves the bytes that the plan of the rule counts, "
        "all passes of a step together, at the speed of scaling a tensor in place beside it; the "
        "last column is the same at the speed of a copy. Medians of turns and the quartiles around "
        "them. Nothing is learned.",
    )
    table.add_column("rule", no_wrap=True)
    for name in ("bytes", "ratio", "quartiles", "target", "met", "by copy"):
        table.add_column(name, justify="right", no_wrap=True)
    kind = None
    for finding in floor_findings(results):
        if finding.kind != kind:
            kind = finding.kind
            table.add_row(Text(kind, style="bold"))
        target = NONE if finding.target is None else str(finding.target)
        scaling, copying = (finding.values.get(stream) for stream in (SCALE, COPY))
        ends = (target, _mark(finding), _spread(copying)[0])
        table.add_row(f" {finding.rule}", str(finding.bytes or NONE), *_spread(scaling), *ends)
    return table


def _start_table(results: Results) -> Table:
    others = imports(results)
    caption = "Medians and quartiles of new processes, after the imports."
    if others:
        caption += (
            f" Importing torch took {others['torch'].median:.2f} s, importing optdsl then "
            f"{others['optdsl'].median:.2f} s, and making PyTorch's own first optimizer "
            f"{others['torch optimizer'].median:.2f} s; none of it is counted."
        )
    table = _table("From optdsl.load to the end of the first step, in seconds", caption)
    table.add_column("rule", no_wrap=True)
    table.add_column("cache", no_wrap=True)
    for name in ("time", "quartiles", "target", "met"):
        table.add_column(name, justify="right", no_wrap=True)
    for start in start_findings(results):
        kind = {"cold": "empty", "warm": "filled"}[start.kind]
        mark = _mark(start)
        table.add_row(label(start.contestant), kind, *_spread(start.value), str(start.target), mark)
    return table


def _reasons(results: Results) -> list[str]:
    """Why figures are missing, each once."""
    notes = [f"{_named(f)}: {f.reason}" for f in ratio_findings(results) if f.reason]
    notes += [f"floor of {f.rule}: {f.reason}" for f in floor_findings(results) if f.reason]
    notes += [
        f"memory of {label(name)}: {found}"
        for name, found in results.memory.items()
        if isinstance(found, str)
    ]
    notes += [
        f"start of {label(name)}: {found}"
        for name, found in results.starts.items()
        if isinstance(found, str)
    ]
    return list(dict.fromkeys(notes))


def _named(finding: RatioFinding) -> str:
    ratio = finding.ratio
    return f"{finding.size}, {label(ratio.numerator)} over {label(ratio.denominator)}"


def _spread(value: Spread | None) -> tuple[str, str]:
    if value is None:
        return NONE, NONE
    return _number(value.median), f"{_number(value.low)}–{_number(value.high)}"


def _percent(value: Spread) -> str:
    return f"{100 * value.median:.{0 if value.median >= 0.095 else 1}f} %"


def _number(value: float) -> str:
    """Three digits, and all of those before the point."""
    if not value:
        return "0"
    digits = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits, 0), 3)}f}"


def _mark(finding: RatioFinding | FloorFinding | Start) -> Text:
    doubt = " ?" if disturbed(finding) else ""
    if finding.met is None:
        return Text(doubt.strip(), style="yellow")
    mark = Text("yes", style="green") if finding.met else Text("no", style="bold red")
    return mark.append(doubt, style="yellow")
