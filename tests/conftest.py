"""Settings for the whole suite."""

import contextlib
import math
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from optdsl.runtime.engines.sampled import choice
from tests import differences

# No deadline: the first example pays for imports and compilers. CI must answer the same twice.
settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# Test processes share the cores. An OpenMP thread that spins while it waits takes one away from
# another process, which makes the suite many times slower; torch reads this when it is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# One thread for each of several test processes: their tensors are small, and threads that wait for
# one another on cores that are taken cost more than they give. Tests of threads ask for them.
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)

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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """A specification is not farther from its reference than when that was measured."""
    test = item.nodeid.partition("[")[0]
    if test not in COMPARED or item.config.pluginmanager.has_plugin("recorder"):
        return (yield)
    with differences.measuring() as measured:
        yield
    for name in differences.meant(item, COMPARED[test]):
        wrong = differences.problem(name, test, max(measured, default=0.0))
        assert wrong is None, wrong


def pytest_configure(config: pytest.Config) -> None:
    """Let property tests know whether this is `make test`; they read it when they are imported."""
    everyday = "not exhaustive" in str(config.getoption("markexpr"))
    os.environ["OPTDSL_TEST_SHARE"] = "4" if everyday else "1"


@pytest.fixture
def few_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of one cell of blocks of 1024 are sampled, so that small ones do for a test."""
    monkeypatch.setattr(choice, "BLOCK", 1024)
    monkeypatch.setattr(choice, "CELLS", 1)
    monkeypatch.setattr(choice, "_known", {})


# The tests that compare specifications of the library with their references.
COMPARED = differences.compared()

# A parameter with fewer values than this, such as a backend, an order or a dtype, keeps them all.
FEW = 4
# Of a parameter with more values than this, such as the rules of the library, a test keeps one in
# `PART`, and the next test others, so that every rule meets a part of the tests.
MANY, PART = 6, 10
# Of the combinations that a test lists as its part, `make test` runs one in so many.
SHARE = 5


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Thin out tests that are `broad`: `make test` runs a part of their combinations.

    The part is the same everywhere. It has each value that several combinations share, unless there
    are many of them, and each value of a parameter that has few.
    """
    broad: dict[tuple[Path, str], list[pytest.Function]] = {}
    for item in (i for i in items if isinstance(i, pytest.Function) and hasattr(i, "callspec")):
        if item.get_closest_marker("broad") is not None:
            broad.setdefault((item.path, item.nodeid.partition("[")[0]), []).append(item)
    for cases in broad.values():
        marker = cases[0].get_closest_marker("broad")
        assert marker is not None
        wanted, seen = math.ceil(len(cases) / marker.args[0] / SHARE), set[tuple[int, str]]()
        counts = Counter(chain.from_iterable(map(_values, cases)))
        distinct = Counter(position for position, _ in counts)
        shared = {v for v, count in counts.items() if count > 1 or distinct[v[0]] < FEW}
        needed = {
            (position, name)
            for position, name in shared
            if distinct[position] <= MANY
            or zlib.crc32(f"{cases[0].name} {name}".encode()) % PART == 0
        }
        for number, case in enumerate(sorted(cases, key=lambda c: zlib.crc32(c.nodeid.encode()))):
            values = _values(case) & needed
            if number >= wanted and values <= seen:
                case.add_marker(pytest.mark.exhaustive)
            seen |= values


def _values(case: pytest.Function) -> set[tuple[int, str]]:
    """The values of a test's parameters, as their identifiers say them, with their positions."""
    names = list(case.callspec._idlist)
    return set(enumerate(names if len(names) > 1 else names[0].split("-")))
