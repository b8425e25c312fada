"""How much memory a contestant holds between steps, and how much more a step needs."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path
from typing import Any

from benchmarks.heat import WARM_UP, Runner, make_gradients
from benchmarks.sizes import SIZES
from benchmarks.worker import Unavailable

KIBIBYTE = 1024
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def device_step_of(key: str) -> int:
    """Bytes of memory the process holds ("VmRSS"), or has held at most ("VmHWM")."""
    for line in STATUS.read_text().splitlines():
        if line.startswith(f"{key}:"):
            return KIBIBYTE * int(line.split()[1])
    raise Unavailable(f"this system does not report {key}")


def forget_peak() -> None:
    """Makes the system count the peak anew from what is held now."""
    CLEAR.write_text("5")


def tidy() -> None:
    """Gives freed memory back to the system, where the C library can."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def run(size: str, contestant: str, backend: str) -> dict[str, Any]:
    """Measures one contestant, alone in this process.

    Returns:
        In bytes per parameter: "state", the tensors in the optimizer's state; "held", what its
        first steps added to the process and kept, the state and anything else; "peak", the most
        that one further step held beyond that.
    """
    if not CLEAR.exists():
        raise Unavailable("this system does not say how much memory a process held at most")
    shapes, count = SIZES[size].shapes, SIZES[size].parameters
    gradients = make_gradients(shapes)
    small = Runner(contestant, ((8, 8), (8,)), make_gradients(((8, 8), (8,))), backend)
    for _ in range(WARM_UP):  # what is loaded once, and is not the step's
        small.step()
    runner = Runner(contestant, shapes, gradients, backend)
    tidy()
    before = device_step_of("VmRSS")
    for _ in range(WARM_UP):
        runner.step()
    tidy()
    held = device_step_of("VmRSS")
    forget_peak()
    runner.step()
    peak = device_step_of("VmHWM")
    return {
        "state": runner.state_bytes(),
        "held": (held - before) / count,
        "peak": max(0, peak - held) / count,
    }
