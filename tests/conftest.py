"""Settings for the whole suite."""

import contextlib
import os
import shutil
import time
from pathlib import Path

import torch
from hypothesis import settings

# No deadline: the first example pays for imports and compilers. CI must answer the same twice.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Test processes share the cores. An OpenMP thread that spins while it waits takes one away from
# another process, which makes the suite many times slower; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Kernels for GPUs run in Triton's interpreter where there is none; Triton reads this when it is
# imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# Each distinct C text is compiled once: all processes, and the next run, share a cache, which
# `make clean` removes. A directory that anybody else may write to is not taken for one.
if "OPTDSL_CACHE_DIR" not in os.environ:
    libraries = Path(__file__).parents[1] / ".pytest_cache" / "libraries"
    libraries.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["OPTDSL_CACHE_DIR"] = str(libraries)
    # Those of yesterday's emitted text are of no use to anybody.
    for entry in libraries.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > 86_400 and entry.name != "locks":
                shutil.rmtree(entry)
