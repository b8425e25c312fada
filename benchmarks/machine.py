"""Where the figures come from."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")


def environment() -> dict[str, Any]:
    """What ran: processor, threads and versions. Imports torch, to ask for its threads."""
    import torch

    return {
        "processor": _processor(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory": _meminfo("MemTotal"),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "optdsl": _version("optdsl"),
        "pytorch_optimizer": _version("pytorch_optimizer"),
        "compiler": _compiler(),
    }


def available_memory() -> int | None:
    """Bytes that new processes may have, or None where the system does not say."""
    return _meminfo("MemAvailable")


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
