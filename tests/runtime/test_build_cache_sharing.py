"""Threads and processes that use one cache of built libraries, and die while they do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from optdsl.runtime.build import cache_directory as directory_module
from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.toolchain import Toolchain

from .compilers import (
    ANSWER,
    Compiler,
    Surroundings,
    a_cache as a_cache,
    a_compiler as a_compiler,
    answer,
    entries,
    forget,
    go_on,
    real_compiler,
    silently,
    some_surroundings as some_surroundings,
)

pytestmark = pytest.mark.skipif(real_compiler() is None, reason="there is no C compiler")


class TestOthers:
    def test_the_loser_of_a_race_uses_the_library_of_the_winner(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        entry = silently().parent
        winner = entry.rename(cache.parent / "winner")
        number = (winner / "answer.so").stat().st_ino
        forget(monkeypatch)
        build = Toolchain.build

        def beaten(self: Toolchain, source: Path, library: Path) -> None:
            build(self, source, library)
            if source.name == "answer.c":
                winner.rename(entry)

        monkeypatch.setattr(Toolchain, "build", beaten)
        assert silently() == entry / "answer.so"
        assert (entry / "answer.so").stat().st_ino == number
        assert not list(cache.glob("tmp-*"))

    def test_after_the_time_out_of_the_lock_it_builds_privately(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = silently()
        shutil.rmtree(first.parent)
        forget(monkeypatch)
        (lock,) = (cache / "locks").iterdir()
        with lock.open("r+") as holder:
            fcntl.flock(holder, fcntl.LOCK_EX)
            library = silently(timeout=0.1)
        assert cache not in library.parents
        assert answer(library) == 42.0
        assert entries(cache) == []

    def test_a_file_system_without_locks_is_good_enough(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unsupported(*_: object) -> None:
            raise OSError(errno.ENOTSUP, "not supported")

        monkeypatch.setattr(fcntl, "flock", unsupported)
        assert cache in silently().parents

    def test_a_killed_builder_gives_up_its_lock_though_its_compiler_goes_on(
        self, cache: Path, compiler: Compiler, surroundings: Surroundings
    ) -> None:
        silently("double other(void) { return 1.0; }\n")
        surroundings.settings["COMPILER_PAUSE"] = "50"
        process = surroundings.begin()
        try:
            until = time.monotonic() + 30
            while len(compiler.builds()) < 2 and time.monotonic() < until:
                time.sleep(0.02)
            process.kill()
            process.wait()
            assert cache in silently(timeout=5.0).parents
            assert len(compiler.builds()) == 3
        finally:
            # The compiler has a group of its own, and ends by itself.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def test_what_dead_processes_left_is_swept_after_an_hour(self, cache: Path) -> None:
        cache.mkdir(mode=0o700)
        finished = subprocess.Popen(["true"])
        finished.wait()
        here, alive, dead = directory_module.host(), os.getpid(), finished.pid
        ages = {
            f"tmp-{here}-{dead}-a": (2, False),
            f"tmp-{here}-{dead}-b": (0.5, True),
            f"tmp-{here}-{alive}-c": (2, True),
            f"tmp-{here}-{alive}-d": (30, False),
            f"tmp-elsewhere-{dead}-e": (2, True),
            f"tmp-elsewhere-{dead}-f": (30, False),
            "tmp-strange": (2, True),
        }
        for name, (hours, _) in ages.items():
            (cache / name).mkdir()
            (cache / name / "answer.c").write_text(ANSWER)
            os.utime(cache / name, (time.time() - 3600 * hours,) * 2)
        silently()
        assert {p.name for p in cache.glob("tmp-*")} == {n for n, (_, kept) in ages.items() if kept}

    def test_processes_build_once(self, surroundings: Surroundings, compiler: Compiler) -> None:
        surroundings.settings["COMPILER_PAUSE"] = "0.2"
        processes = [surroundings.begin() for _ in range(6)]
        told = {process.communicate(timeout=60) for process in processes}
        assert len(told) == 1
        assert len(compiler.builds()) == 1

    @pytest.mark.filterwarnings("ignore:optdsl cannot keep")
    @pytest.mark.parametrize("usable", [True, False])
    def test_threads_build_once(self, usable: bool, cache: Path, compiler: Compiler) -> None:
        if not usable:
            cache.write_text("")
        found: list[Path] = []
        start = threading.Barrier(8)

        def find() -> None:
            start.wait()
            found.append(shared_library(ANSWER, "answer"))

        threads = [threading.Thread(target=find) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        assert len(compiler.builds()) == 1

    def test_a_child_forked_while_a_thread_builds_is_not_stuck(
        self, surroundings: Surroundings
    ) -> None:
        script = """
import os, sys, threading, time
from optdsl.runtime.build import library_cache as cache
building, forked, build = threading.Event(), threading.Event(), cache._build
def slowly(wanted, directory):
    building.set()
    forked.wait()
    return build(wanted, directory)
cache._build = slowly
thread = threading.Thread(target=cache.shared_library, args=(sys.argv[1], "answer"))
thread.start()
building.wait()
child = os.fork()
forked.set()
if child == 0:
    before = time.monotonic()
    cache.shared_library(sys.argv[1], "answer")
    os._exit(time.monotonic() - before > 20)
thread.join()
print(os.waitpid(child, 0)[1])
"""
        surroundings.settings["PYTHONWARNINGS"] = "ignore"
        assert surroundings.run(script=script) == "0"

    @pytest.mark.exhaustive
    @pytest.mark.slow
    def test_sixteen_processes_at_once_some_of_them_killed(
        self, tmp_path: Path, compiler: Compiler
    ) -> None:
        chance = random.Random(0)
        cut_off = 0
        for attempt in range(4):
            here = tmp_path / str(attempt)
            here.mkdir()
            surroundings = Surroundings(here, here / "cache", {"COMPILER_PAUSE": "0.2"})
            processes = [surroundings.start() for _ in range(16)]
            for process in processes:
                go_on(process)
            kill_some(processes, surroundings.cache, chance)
            told = [process.communicate(timeout=60) for process in processes]
            states = [process.returncode for process in processes]
            assert set(states) <= {0, -signal.SIGKILL}
            assert states.count(0) >= 10
            (entry,) = entries(surroundings.cache)
            right = (f"{entry / 'answer.so'} 42.0\n", "")
            assert {t for t, state in zip(told, states, strict=True) if state == 0} == {right}
            cut_off += len(list(surroundings.cache.glob("tmp-*")))

            surroundings.settings["COMPILER_LOG"] = str(here / "log")
            assert surroundings.run() == right[0].strip()
            assert not (here / "log").exists()
        assert cut_off > 0


def kill_some(processes: list[subprocess.Popen[str]], cache: Path, chance: random.Random) -> None:
    """Kill three processes at any time, and three while they build, if there are as many."""
    begun = time.monotonic()
    anybody = [(chance.uniform(0.0, 2.0), process) for process in chance.sample(processes, 3)]
    anybody.sort(key=lambda kill: kill[0])
    builders = 3
    while any(process.poll() is None for process in processes):
        if anybody and time.monotonic() - begun > anybody[0][0]:
            anybody.pop(0)[1].kill()
        for process in processes:
            builds = list(cache.glob(f"tmp-*-{process.pid}-*/"))
            if builders and builds and process.poll() is None:
                time.sleep(chance.uniform(0.0, 0.3))
                process.kill()
                process.wait()
                builders -= 1
        time.sleep(0.01)
