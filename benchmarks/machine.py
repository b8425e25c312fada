"""Where the figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from importlib import metadata
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
STAT = Path("/proc/stat")
MEMINFO = Path("/proc/meminfo")

VENDORS = {"AuthenticAMD": "amd", "GenuineIntel": "intel"}
# The flags that tell the width of vectors, the widest first.
VECTORS = {"avx512f": "avx512", "avx2": "avx2", "avx": "avx"}


def environment() -> dict[str, Any]:
    """What ran: processor, threads and versions. Imports torch, to ask for its threads."""
    import torch

    return {
        "processor": _processor(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _meminfo("MemTotal"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optdsl": _version("optdsl"),
        "pytorch_optimizer": _version("pytorch_optimizer"),
        "compiler": _compiler(),
    }


def processor_class(lines: str | None = None) -> str:
    """The vendor, the family and the widest vectors of the processor, such as "amd-25-avx2".

    Processors of a class have the same limits of ratios (`benchmarks/limits.toml`): what a step
    takes over another depends on the width of vectors and on the ports and latencies of a family.

    Args:
        lines: as of /proc/cpuinfo; by default those of this machine.

    Returns:
        the machine's architecture, such as "arm64", where the system does not tell more.
    """
    if lines is None:
        lines = CPUINFO.read_text() if CPUINFO.exists() else ""
    told: dict[str, str] = {}
    for line in lines.splitlines():
        key, _, value = line.partition(":")
        told.setdefault(key.strip(), value.strip())
    if not {"vendor_id", "cpu family", "flags"} <= told.keys():
        return platform.machine().lower()
    vendor = VENDORS.get(told["vendor_id"], told["vendor_id"].lower())
    flags = told["flags"].split()
    vectors = next((name for flag, name in VECTORS.items() if flag in flags), "sse2")
    return f"{vendor}-{told['cpu family']}-{vectors}"


def available_memory() -> int | None:
    """Bytes that new processes may have, or None where the system does not say."""
    return _meminfo("MemAvailable")


class Watch:
    """How much of the processors others use, while this process and its children measure."""

    def __init__(self) -> None:
        self._busy = _busy()
        self._own = sum(os.times()[:4])
        self._begun = time.monotonic()

    def others(self) -> float | None:
        """The share that others have had so far, or None where the system does not say.

        Children count as this process's own once they have ended.
        """
        busy = _busy()
        if busy is None or self._busy is None:
            return None
        passed = (time.monotonic() - self._begun) * (os.cpu_count() or 1)
        own = sum(os.times()[:4]) - self._own
        return max(0.0, busy - self._busy - own) / passed


def _busy() -> float | None:
    """Seconds that all processors together have worked, or were taken away from this system."""
    if not STAT.exists():
        return None
    # user, nice, system, idle, waiting for input and output, interrupts (two kinds), taken away
    ticks = [int(field) for field in STAT.read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / float(os.sysconf("SC_CLK_TCK"))


def _processor() -> str:
    """The model of the CPU."""
    if CPUINFO.exists():
        for line in CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _meminfo(key: str) -> int | None:
    if MEMINFO.exists():
        for line in MEMINFO.read_text().splitlines():
            if line.startswith(f"{key}:"):
                return 1024 * int(line.split()[1])
    return None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _compiler() -> str | None:
    """The first line in which the C compiler names itself."""
    try:
        told = subprocess.run(
            [os.environ.get("CC") or "cc", "--version"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return told.stdout.partition("\n")[0] or None
