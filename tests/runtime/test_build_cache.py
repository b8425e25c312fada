"""The cache of built libraries: where it is, what it keeps, what loading does."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from optdsl.runtime.build import library_cache as cache_module
from optdsl.runtime.build.cache_directory import cache_directory
from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.toolchain import toolchain

from .compilers import (
    ANSWER,
    Compiler,
    Surroundings,
    a_cache as a_cache,
    a_compiler as a_compiler,
    answer,
    entries,
    forget,
    real_compiler,
    silently,
    some_surroundings as some_surroundings,
)

pytestmark = pytest.mark.skipif(real_compiler() is None, reason="there is no C compiler")


class TestDirectory:
    def test_which_one(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
        assert cache_directory() == tmp_path / "cache"
        monkeypatch.setenv("OPTDSL_CACHE_DIR", "~/chosen")
        assert cache_directory() == tmp_path / "home/chosen"
        monkeypatch.delenv("OPTDSL_CACHE_DIR")
        assert cache_directory() == tmp_path / "xdg/optdsl"
        monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
        platform = "Library/Caches" if sys.platform == "darwin" else ".cache"
        assert cache_directory() == tmp_path / "home" / platform / "optdsl"

    def test_it_is_made_private(self, cache: Path) -> None:
        silently()
        assert stat.S_IMODE(cache.stat().st_mode) == 0o700

    @pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
    def test_one_that_others_may_write_to_is_not_trusted(self, mode: int, cache: Path) -> None:
        cache.mkdir()
        cache.chmod(mode)
        with pytest.warns(UserWarning, match="other users may write to it.*OPTDSL_CACHE_DIR"):
            library = shared_library(ANSWER, "answer")
        assert list(cache.iterdir()) == []
        assert answer(library) == 42.0

    def test_one_of_another_user_is_not_trusted(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        cache.mkdir(mode=0o700)
        other = os.geteuid() + 1
        monkeypatch.setattr(os, "geteuid", lambda: other)
        with pytest.warns(UserWarning, match=r"another user.*OPTDSL_CACHE_DIR"):
            library = shared_library(ANSWER, "answer")
        assert list(cache.iterdir()) == []
        assert answer(library) == 42.0


class TestEntry:
    def test_it_holds_the_library_the_text_and_a_manifest(self, cache: Path) -> None:
        library = silently(name="../Ångström")
        assert library.name == "____ngstr_m.so"
        (entry,) = entries(cache)
        assert library.parent == entry
        assert library.with_suffix(".c").read_text() == ANSWER
        manifest = json.loads((entry / "manifest.json").read_text())
        assert manifest["version"] == toolchain().version
        assert manifest["size"] == library.stat().st_size
        assert sorted(p.suffix for p in entry.iterdir()) == [".c", ".json", ".so"]

    def test_what_it_depends_on(
        self, cache: Path, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = silently()
        found = {first.parent}
        found.add(silently(ANSWER + "\n").parent)
        found.add(silently(name="other").parent)
        with monkeypatch.context() as patch:
            patch.setattr(cache_module, "processor", lambda: "another")
            found.add(silently().parent)
        with monkeypatch.context() as patch:
            patch.setenv("CC", f"{compiler.program} -DX")
            found.add(silently().parent)
        os.utime(compiler.program, (1, 1))
        found.add(silently().parent)
        assert len(found) == 6
        assert set(entries(cache)) == found

    def test_a_second_process_does_not_run_the_compiler(
        self, compiler: Compiler, surroundings: Surroundings
    ) -> None:
        first = surroundings.run()
        assert first.endswith("answer.so 42.0")
        assert len(compiler.builds()) == 1
        compiler.log.unlink()
        assert surroundings.run() == first
        assert compiler.calls() == []

    @pytest.mark.parametrize(
        "harm",
        [
            lambda entry: (entry / "answer.so").write_bytes(b""),
            lambda entry: os.truncate(entry / "answer.so", 5000),
            lambda entry: (entry / "answer.so").write_bytes(
                bytes((entry / "answer.so").stat().st_size)
            ),
            lambda entry: (entry / "answer.so").unlink(),
            lambda entry: ((entry / "answer.so").unlink(), (entry / "answer.so").mkdir()),
            lambda entry: (entry / "manifest.json").unlink(),
            lambda entry: (entry / "manifest.json").write_bytes(b"\xff"),
            lambda entry: (entry / "manifest.json").write_text("[" * 100_000),
            lambda entry: (entry / "manifest.json").write_text('{"key": 1}'),
            lambda entry: (entry / "manifest.json").write_text("[]"),
            lambda entry: (shutil.rmtree(entry), entry.write_text("")),
            lambda entry: (shutil.rmtree(entry), entry.mkdir()),
            lambda entry: (shutil.rmtree(entry), entry.symlink_to("nowhere")),
        ],
        ids=[
            "empty",
            "truncated",
            "same size",
            "no library",
            "no file",
            "no manifest",
            "not UTF-8",
            "deep",
            "other keys",
            "a list",
            "an entry that is a file",
            "an empty entry",
            "a dangling link",
        ],
    )
    def test_a_damaged_or_foreign_one_is_built_again(
        self,
        harm: Callable[[Path], object],
        cache: Path,
        compiler: Compiler,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        library = silently()
        harm(library.parent)
        forget(monkeypatch)
        assert silently() == library
        assert answer(library) == 42.0
        assert len(compiler.builds()) == 2
        assert entries(cache) == [library.parent]
        assert not list(cache.glob("tmp-*"))

    def test_one_that_vanishes_during_the_process_is_built_again(self, cache: Path) -> None:
        library = silently()
        shutil.rmtree(cache)
        assert silently() == library
        assert answer(library) == 42.0


class TestProcess:
    def test_loading_leaves_subnormal_numbers_alone(self) -> None:
        library = ctypes.CDLL(str(silently("double twice(double x) { return 2 * x; }\n")))
        library.twice.restype = ctypes.c_double
        library.twice.argtypes = [ctypes.c_double]
        tiny = 1e-310
        assert library.twice(tiny) == 2e-310
        assert tiny * float("1") == 1e-310
        assert ctypes.c_float(1e-40).value * 0.5 > 0

    def test_openmp_is_used_where_there_is_openmp(self) -> None:
        text = "double answer(void) {\n#ifdef _OPENMP\nreturn 1;\n#endif\nreturn 0;\n}\n"
        assert answer(silently(text)) == ("-fopenmp" in toolchain().flags)

    def test_nothing_imports_torch(self, surroundings: Surroundings) -> None:
        script = "import sys, optdsl.runtime.build.library_cache; print('torch' in sys.modules)"
        assert surroundings.run(script=script) == "False"
