"""Caches of built libraries that cannot be read or written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.toolchain import BuildError, Toolchain, toolchain

from .compilers import (
    ANSWER,
    PROCESS,
    Compiler,
    Surroundings,
    a_cache as a_cache,
    a_compiler as a_compiler,
    answer,
    real_compiler,
    silently,
    some_surroundings as some_surroundings,
)

pytestmark = pytest.mark.skipif(real_compiler() is None, reason="there is no C compiler")


def without_home(cache: Path, patch: pytest.MonkeyPatch) -> None:
    def nobody() -> Path:
        raise RuntimeError("Could not determine home directory.")

    patch.delenv("OPTDSL_CACHE_DIR")
    patch.delenv("XDG_CACHE_HOME", raising=False)
    patch.setattr(Path, "home", nobody)


def below_a_file(cache: Path, patch: pytest.MonkeyPatch) -> None:
    cache.write_text("")
    patch.setenv("OPTDSL_CACHE_DIR", str(cache / "cache"))


def in_proc(cache: Path, patch: pytest.MonkeyPatch) -> None:
    patch.setenv("OPTDSL_CACHE_DIR", "/proc/optdsl")


def failing(owner: object, name: str, number: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def arrange(cache: Path, patch: pytest.MonkeyPatch) -> None:
        works = getattr(owner, name)

        def fails(first: object, *rest: object, **named: object) -> object:
            if str(first).startswith(str(cache)):
                raise OSError(number, os.strerror(number), str(first))
            return works(first, *rest, **named)

        patch.setattr(owner, name, fails)

    return arrange


class TestTrouble:
    @pytest.mark.parametrize(
        "arrange",
        [
            without_home,
            below_a_file,
            in_proc,
            failing(os, "rename", errno.ENOSPC),
            failing(os, "open", errno.EROFS),
            failing(Path, "mkdir", errno.EDQUOT),
            failing(Path, "write_text", errno.ENOSPC),
        ],
        ids=["no home", "below a file", "/proc", "rename", "lock", "mkdir", "write"],
    )
    def test_the_library_is_built_privately_with_one_warning(
        self,
        arrange: Callable[[Path, pytest.MonkeyPatch], None],
        tmp_path: Path,
        cache: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        arrange(cache, monkeypatch)
        with pytest.warns(UserWarning, match=r"^optdsl cannot keep .*OPTDSL_CACHE_DIR") as caught:
            library = shared_library(ANSWER, "answer")
        assert len(caught) == 1
        assert "\n" not in str(caught[0].message)
        assert tmp_path / "private" in library.parents
        assert answer(library) == 42.0
        assert silently() == library
        assert answer(silently("double answer(void) { return 2.0; }\n")) == 2.0
        assert not list(cache.glob("tmp-*"))

    def test_a_compiler_that_cannot_write_to_the_cache(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build = Toolchain.build

        def full(self: Toolchain, source: Path, library: Path) -> None:
            if cache in library.parents:
                raise BuildError("ld: final link failed: No space left on device")
            build(self, source, library)

        monkeypatch.setattr(Toolchain, "build", full)
        with pytest.warns(UserWarning, match="the compiler cannot write to the cache"):
            library = shared_library(ANSWER, "answer")
        assert answer(library) == 42.0

    def test_no_place_at_all(
        self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        toolchain()
        below_a_file(tmp_path / "file", monkeypatch)
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
        with pytest.raises(BuildError, match=r"no place to build answer\.so in"):
            silently()

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ("size=24k", "No space left on device|the compiler cannot write"),
            ("ro", "Read-only file system"),
            ("noexec", "programs in it may not run"),
        ],
        ids=["full", "read-only", "no programs"],
    )
    def test_a_real_file_system(
        self, options: str, why: str, surroundings: Surroundings, cache: Path
    ) -> None:
        cache.mkdir()
        mount = f"mount -t tmpfs -o mode=700,{options} none '{cache}'"
        process = in_a_namespace(surroundings, mount)
        out, err = process.stdout.strip(), process.stderr
        assert out.endswith("answer.so 42.0")
        assert not out.startswith(str(cache))
        assert err.count("UserWarning") == 1
        assert any(part in err for part in why.split("|")), err

    def test_a_read_only_cache_that_holds_the_library_is_used(
        self, surroundings: Surroundings, cache: Path, compiler: Compiler
    ) -> None:
        told = surroundings.run()
        compiler.log.unlink()
        mount = f"mount --bind '{cache}' '{cache}' && mount -o remount,bind,ro '{cache}'"
        process = in_a_namespace(surroundings, f"{mount} && ! touch '{cache}/x' 2>/dev/null")
        assert (process.stdout.strip(), process.stderr) == (told, "")
        assert compiler.calls() == []

    def test_private_directories_last_until_the_process_ends(
        self, surroundings: Surroundings, cache: Path
    ) -> None:
        cache.write_text("")
        script = """
import os, sys, warnings
from optdsl.runtime.build.library_cache import shared_library
warnings.simplefilter("ignore")
library = shared_library(sys.argv[1], "answer")
child = os.fork()
if child == 0:
    sys.exit()
os.waitpid(child, 0)
print(library, library.is_file())
"""
        library, was_there = surroundings.run(script=script).split()
        assert was_there == "True"
        assert not Path(library).parent.exists()


def in_a_namespace(surroundings: Surroundings, mount: str) -> subprocess.CompletedProcess[str]:
    """Run the usual process with a mount that nobody else sees and that ends with it."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    try:
        subprocess.run([*unshare, mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("file systems cannot be mounted here")
    return subprocess.run(
        [*unshare, f'{mount} && exec "$@"', "sh", sys.executable, "-c", PROCESS, ANSWER],
        env=surroundings.environment(),
        input="\n",
        capture_output=True,
        text=True,
        check=True,
    )
