"""The command for a machine with a GPU: `python -m benchmarks.gpu`; under eight minutes.

It checks first that the kernels compute on the device what eager code computes, and that steps can
be captured and replayed; then it measures steps side by side with torch's. A wrong result, or a
contestant that fails, is recorded and does not stop the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks.gpu_checks import CHECKS
from benchmarks.gpu_steps import REFERENCE, STEPS, Device, Measured, measured
from benchmarks.sizes import Shape, gpt2

WORKLOADS: dict[str, tuple[Shape, ...]] = {
    "124M": gpt2(),
    "355M": gpt2(width=1024, layers=24),
    "1000x1000": 1000 * ((1000,),),
}
TINY: dict[str, tuple[Shape, ...]] = {"tiny": ((5,), (40, 60)), "10x100": 10 * ((100,),)}
# In order of importance, since the time may be up before the end.
CELLS = (
    ("124M", torch.float32),
    ("1000x1000", torch.float32),
    ("124M", torch.bfloat16),
    ("355M", torch.float32),
    ("1000x1000", torch.bfloat16),
    ("355M", torch.bfloat16),
)
# What is aimed at: workload, dtype, contestant, figure, the bound, whether it is the least.
AIMS = (
    ("124M", "float32", "adam", "ratio", 1.0, False),
    ("124M", "float32", "mada-overlapped", "ratio", 2.4, False),
    ("124M", "float32", "adam", "share", 0.9, True),
    ("124M", "float32", "mada-overlapped", "share", 0.9, True),
    ("1000x1000", "float32", "adam", "host_ratio", 0.5, False),
    ("124M", "float32", "mada-overlapped", "launches", 4, False),
    ("124M", "float32", "mada-exact", "launches", 4, False),
    ("124M", "float32", "mada-overlapped", "waits", 0, False),
    ("124M", "float32", "mada-exact", "waits", 0, False),
)


@dataclass
class Results:
    """All that was found.

    Attributes:
        device, torch, triton: what it was found on.
        copy: bytes per second of a copy, read and written ones counted.
        checks: by name, what was wrong; empty where nothing was.
        cells: the measurements.
        failures: tracebacks, by what failed.
        unmeasured: what there was no time for.
    """

    device: str
    torch: str
    triton: str
    copy: float = 0.0
    checks: dict[str, str] = field(default_factory=dict)
    cells: list[Measured] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    unmeasured: list[str] = field(default_factory=list)

    def write(self, directory: Path) -> None:
        """Write what there is so far as JSON."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "gpu.json").write_text(json.dumps(asdict(self), indent=1) + "\n")


def _attempt(results: Results, name: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception:  # whatever a device or a contestant may do, the rest is measured
        results.failures[name] = traceback.format_exc()
        return None


def run(device: Device, directory: Path, seconds: float, workloads: Any, cells: Any) -> Results:
    """Check, and measure until the time is up."""
    import triton

    end = time.monotonic() + seconds
    results = Results(device.name, torch.__version__, triton.__version__)
    for name, check in CHECKS.items():
        wrong = _attempt(results, f"check: {name}", lambda check=check: check(device))
        results.checks[name] = "it failed" if wrong is None else wrong
        results.write(directory)
    results.copy = _attempt(results, "copy", device.copy_bandwidth) or 0.0
    for workload, dtype in cells:
        for contestant in STEPS:
            name = f"{workload} {str(dtype)[6:]} {contestant}"
            # A cell takes a few seconds, and more where torch.compile has to work.
            if time.monotonic() > end - (40 if contestant == "torch-compile" else 15):
                results.unmeasured.append(name)
                continue
            found = _attempt(
                results,
                name,
                lambda w=workload, d=dtype, c=contestant: measured(
                    device, w, workloads[w], d, c, results.copy
                ),
            )
            if found is not None:
                results.cells.append(found)
            device.empty()
            results.write(directory)
    return results


# --- the report -----------------------------------------------------------------------------------


def table(results: Results) -> Table:
    """The measurements for the terminal."""
    made = Table(box=box.SIMPLE_HEAD, title=f"{results.device}, torch {results.torch}")
    for name in ("workload", "dtype", "step"):
        made.add_column(name, no_wrap=True)
    for name in (
        f"/ {REFERENCE}", "quartiles", "ms", "of copy", "host us", "/ fused", "launches", "waits",
        "MB above",
    ):  # fmt: skip
        made.add_column(name, justify="right", no_wrap=True)
    for m in results.cells:
        share = f"{100 * m.share:.0f} %" if m.share else "-"
        made.add_row(
            m.workload, m.dtype, m.contestant, f"{m.ratio:.3f}",
            f"{m.quartiles[0]:.3f}-{m.quartiles[1]:.3f}", f"{1e3 * m.seconds:.3f}", share,
            f"{1e6 * m.host:.0f}", f"{m.host_ratio:.2f}", _count(m.launches), _count(m.waits),
            f"{m.peak / 1e6:.0f}",
        )  # fmt: skip
    return made


def _count(number: float | None) -> str:
    return "-" if number is None else f"{number:g}"


def aims(results: Results) -> list[str]:
    """What was aimed at, and whether it was met."""
    lines = []
    for workload, dtype, contestant, figure, bound, least in AIMS:
        found = [
            getattr(m, figure)
            for m in results.cells
            if (m.workload, m.dtype, m.contestant) == (workload, dtype, contestant)
        ]
        sign = ">=" if least else "<="
        what = f"{workload} {dtype} {contestant}: {figure} {sign} {bound}"
        if not found or found[0] is None:
            lines.append(f"{what}: not measured")
        else:
            met = found[0] >= bound if least else found[0] <= bound
            lines.append(f"{what}: {found[0]:.3f}, {'met' if met else 'missed'}")
    return lines


def report(results: Results, console: Console) -> None:
    """Everything for the terminal."""
    for name, wrong in results.checks.items():
        console.print(f"{name}: {wrong or 'agrees'}", style="red" if wrong else "green")
    console.print(table(results))
    console.print(f"A copy moves {results.copy / 1e9:.0f} GB/s, read and written bytes counted.")
    console.print(
        "Ratios are medians of turns that followed each other. In bfloat16 torch keeps its states "
        "in bfloat16, too, and moves fewer bytes; ours are float32."
    )
    for line in aims(results):
        console.print(line)
    for name in results.failures:
        console.print(f"failed: {name} (the traceback is in gpu.json)", style="red")
    if results.unmeasured:
        console.print(f"There was no time for {', '.join(results.unmeasured)}.")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 if all checks agree, 1 if one does not, 2 without a GPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("bench"), help="a directory")
    parser.add_argument("--seconds", type=float, default=420, help="when to stop measuring")
    parser.add_argument(
        "--interpreter", action="store_true",
        help="the same at tiny sizes through Triton's interpreter, for a try without a GPU",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    if given.interpreter:
        cells = [("tiny", torch.float32), ("10x100", torch.bfloat16)]
        results = run(Device("cpu"), given.out, given.seconds, TINY, cells)
    elif not torch.cuda.is_available():
        print(
            "There is no GPU here that torch can use. --interpreter tries the same at tiny sizes "
            "on the CPU, with TRITON_INTERPRET=1 in the environment.",
            file=sys.stderr,
        )
        return 2
    else:
        results = run(Device("cuda"), given.out, given.seconds, WORKLOADS, CELLS)
    results.write(given.out)
    console = Console()
    console.width = max(console.width, 150)
    report(results, console)
    return int(any(results.checks.values()) or bool(results.failures))


if __name__ == "__main__":
    sys.exit(main())
