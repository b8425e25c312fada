"""What the tests of the build cache share: C texts, compilers that keep a log, other processes."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from optdsl.runtime.build import library_cache as cache_module, toolchain as toolchain_module
from optdsl.runtime.build.library_cache import shared_library

ANSWER = "double answer(void) { return 42.0; }\n"

# It waits for a line, so that many of them can begin at once.
PROCESS = """
import ctypes, sys
from optdsl.runtime.build.library_cache import shared_library
sys.stdin.readline()
library = shared_library(sys.argv[1], "answer")
function = ctypes.CDLL(str(library)).answer
function.restype = ctypes.c_double
print(library, function())
"""

# Pauses where a test wants to kill somebody, then does what the real compiler does.
WRAPPER = """\
#!/bin/sh
PATH={path}
printf '%s\\n' "$*" >> "$COMPILER_LOG"
for argument; do
    case " $COMPILER_REFUSES " in *" $argument "*) echo "what is $argument?" >&2; exit 1 ;; esac
done
sleep "${{COMPILER_PAUSE:-0}}"
exec {compiler} "$@"
"""


def real_compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def silently(text: str = ANSWER, name: str = "answer", timeout: float = 60.0) -> Path:
    """A library, without any warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return shared_library(text, name, timeout=timeout)


def answer(library: Path) -> float:
    """What the function of this name in a library returns."""
    function = ctypes.CDLL(str(library)).answer
    function.restype = ctypes.c_double
    return float(function())


@dataclass(frozen=True)
class Compiler:
    """A compiler that logs its calls."""

    program: Path
    log: Path

    @classmethod
    def write(cls, program: Path) -> Compiler:
        text = WRAPPER.format(path=os.environ["PATH"], compiler=real_compiler())
        program.write_text(text)
        program.chmod(0o755)
        return cls(program, program.with_name(f"{program.name}.log"))

    def calls(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []

    def builds(self) -> list[str]:
        """The calls for libraries that a test asked for."""
        trials = ("--version", "trivial.c")
        return [call for call in self.calls() if not any(trial in call for trial in trials)]


@dataclass(frozen=True)
class Surroundings:
    """Another process's environment: nothing of it is the user's."""

    root: Path
    cache: Path
    settings: dict[str, str] = field(default_factory=dict)

    def environment(self) -> dict[str, str]:
        temporary = self.root / "temporary"
        temporary.mkdir(exist_ok=True)
        own = {"OPTDSL_CACHE_DIR": str(self.cache), "TMPDIR": str(temporary)}
        return os.environ | own | self.settings

    def start(self, *arguments: str, script: str = PROCESS) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", script, *(arguments or (ANSWER,))],
            env=self.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def begin(self, *arguments: str, script: str = PROCESS) -> subprocess.Popen[str]:
        """Start a process and let it go on."""
        process = self.start(*arguments, script=script)
        go_on(process)
        return process

    def run(self, *arguments: str, script: str = PROCESS) -> str:
        process = self.start(*arguments, script=script)
        out, err = process.communicate("\n", timeout=60)
        assert process.returncode == 0, err
        assert err == ""
        return out.strip()


def entries(cache: Path) -> list[Path]:
    """The directories of libraries, without locks, compilers and what is in the making."""
    return [
        p for p in cache.iterdir() if p.name not in ("locks", "toolchains") and p.name[:3] != "tmp"
    ]


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process would not know."""
    monkeypatch.setattr(cache_module, "_ready", {})
    monkeypatch.setattr(cache_module, "_warned", threading.Lock())
    monkeypatch.setattr(toolchain_module, "_hanging", {})
    toolchain_module._toolchain.cache_clear()


# Fixtures, under other names than the parameters of the tests that import them.


@pytest.fixture(name="cache", autouse=True)
def a_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "cache"
    (tmp_path / "private").mkdir()
    monkeypatch.setenv("OPTDSL_CACHE_DIR", str(directory))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "private"))
    monkeypatch.delenv("CC", raising=False)
    forget(monkeypatch)
    return directory


@pytest.fixture(name="compiler")
def a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Compiler:
    logging = Compiler.write(tmp_path / "gcc")
    monkeypatch.setenv("CC", str(logging.program))
    monkeypatch.setenv("COMPILER_LOG", str(logging.log))
    return logging


@pytest.fixture(name="surroundings")
def some_surroundings(tmp_path: Path, cache: Path) -> Surroundings:
    return Surroundings(tmp_path, cache)
