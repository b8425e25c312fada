"""The C compiler: which one is taken, and with which flags."""

from __future__ import annotations

import contextlib
import hashlib
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import optdsl
from optdsl.classes import optimizer_class
from optdsl.runtime.build import toolchain as toolchain_module
from optdsl.runtime.build.toolchain import BuildError, NoCompiler, Toolchain, toolchain

from .compilers import (
    ANSWER,
    PROCESS,
    Compiler,
    Surroundings,
    a_cache as a_cache,
    a_compiler as a_compiler,
    answer,
    forget,
    real_compiler,
    silently,
    some_surroundings as some_surroundings,
)

pytestmark = pytest.mark.skipif(real_compiler() is None, reason="there is no C compiler")


class TestToolchain:
    def test_cc_names_the_compiler_and_its_arguments(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", f"{real_compiler()} '-DVALUE=1 + 2'")
        assert toolchain().flags[-1] == "-DVALUE=1 + 2"
        assert answer(silently("double answer(void) { return VALUE; }\n")) == 3.0

    def test_a_launcher_before_the_compiler(
        self, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", f"/usr/bin/env {compiler.program}")
        assert answer(silently()) == 42.0
        assert [program for program, *_ in toolchain().identity][1] == str(compiler.program)

    def test_without_cc_it_is_the_first_on_the_path(
        self, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("CC")
        monkeypatch.setenv("PATH", str(compiler.program.parent))
        assert toolchain().compiler == str(compiler.program)
        assert answer(silently()) == 42.0

    @pytest.mark.parametrize("cc", ["", "no-such-compiler -O2", "gcc 'unfinished", "false"])
    def test_no_compiler_says_what_to_do(
        self, cc: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", cc)
        if not cc:
            monkeypatch.setenv("PATH", str(tmp_path / "private"))
        for call in (toolchain, silently):
            with pytest.raises(NoCompiler) as caught:
                call()
            assert 'install gcc or clang, or set CC to a C compiler, or choose backend="eager"' in (
                str(caught.value)
            )

    @pytest.mark.parametrize("flag", toolchain_module.FORBIDDEN_FLAGS)
    def test_fast_math_in_cc_is_an_error_that_says_why(
        self, flag: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", f"{real_compiler()} {flag}")
        with pytest.raises(BuildError, match=f"{flag}.*NaN.*whole process.*subnormal"):
            toolchain()

    def test_no_flag_is_of_the_fast_math_family(self) -> None:
        flags = toolchain().flags
        assert set(toolchain_module.REQUIRED_FLAGS) <= set(flags)
        assert not set(flags) & set(toolchain_module.FORBIDDEN_FLAGS)
        assert not [f for f in flags if "fast" in f.lower() and f != "-ffp-contract=fast"]

    @pytest.mark.parametrize(
        ("cc", "launched"),
        [
            ("{0} -O1", []),
            ("/usr/bin/env {0} -O1", ["{0}"]),
            ("nice -n 5 {0} -O1", ["-n", "5", "{0}"]),
            ("/usr/bin/env A=1 {0} -include math.h -O1", ["A=1", "{0}"]),
        ],
    )
    def test_flags_of_the_user_come_last(
        self, cc: str, launched: list[str], compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CC", cc.format(compiler.program))
        text = "#ifdef __OPTIMIZE__\ndouble answer(void) { return VALUE; }\n#endif\n"
        flags = toolchain().flags
        first = [word.format(compiler.program) for word in launched]
        assert list(flags[: len(first)]) == first
        assert flags[-1] == "-O1"
        assert answer(silently(text.replace("VALUE", "42.0"))) == 42.0

    def test_the_users_processor_and_threads_are_taken(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What the compiler defines says what it was told last."""
        if platform.machine() != "x86_64":
            pytest.skip("the flags are those of x86-64")
        monkeypatch.setenv("CC", f"{real_compiler()} -march=x86-64-v2 -fno-openmp")
        text = """
double answer(void) {
  double told = 0.0;
#ifdef __AVX__
  told += 1.0;
#endif
#ifdef _OPENMP
  told += 2.0;
#endif
#ifdef __SSE4_2__
  told += 4.0;
#endif
  return told;
}
"""
        assert answer(silently(text)) == 4.0

    def test_one_thread_is_said_once(
        self, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COMPILER_REFUSES", "-fopenmp")
        for _ in range(2):  # found out, and remembered
            forget(monkeypatch)
            with pytest.warns(RuntimeWarning, match=r"one thread: install.*OpenMP.*-fno-openmp"):
                assert "-fopenmp" not in toolchain().flags
        monkeypatch.delenv("COMPILER_REFUSES")
        forget(monkeypatch)
        assert "-fopenmp" in toolchain().flags  # its library has been installed
        monkeypatch.setenv("COMPILER_REFUSES", "-fopenmp")
        monkeypatch.setenv("CC", f"{compiler.program} -fno-openmp")
        assert answer(silently()) == 42.0

    @pytest.mark.parametrize("refused", [["-fopenmp"], ["-march=native", "-fno-trapping-math"]])
    @pytest.mark.filterwarnings("ignore:.*one thread")
    def test_a_flag_that_the_compiler_refuses_is_left_out_and_remembered(
        self,
        refused: list[str],
        compiler: Compiler,
        surroundings: Surroundings,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        before = toolchain().flags
        compiler.program.write_text(compiler.program.read_text() + "# changed\n")
        monkeypatch.setenv("COMPILER_REFUSES", " ".join(refused))
        forget(monkeypatch)
        assert toolchain().flags == tuple(flag for flag in before if flag not in refused)
        assert answer(silently()) == 42.0
        compiler.log.unlink()
        quiet = PROCESS.replace("import ctypes", "import warnings, ctypes").replace(
            "sys.stdin", 'warnings.simplefilter("ignore"); sys.stdin', 1
        )
        assert surroundings.run(script=quiet) == f"{silently()} 42.0"
        # OpenMP alone is tried again, since installing it does not change the compiler.
        assert all("-fopenmp" in refused and "trivial.c" in call for call in compiler.calls())

    def test_a_refused_text_is_an_error_of_bounded_length(self) -> None:
        text = "".join(f"int f{i}(void) {{ return missing_{i}; }}\n" for i in range(500))
        with pytest.raises(BuildError) as caught:
            silently(text, "adam")
        message = str(caught.value)
        assert "does not build adam.c" in message
        assert "adam.c:1:" in message
        assert "more characters)" in message
        assert len(message) < 5000

    def test_a_compiler_that_cannot_be_run_is_a_build_error(self, tmp_path: Path) -> None:
        (tmp_path / "a.c").write_text(ANSWER)
        gone = Toolchain(str(tmp_path / "gone"))
        with pytest.raises(BuildError, match="cannot be run"):
            gone.build(tmp_path / "a.c", tmp_path / "a.so")


# It leaves a process behind that keeps the output open, as a compiler's driver does.
HANGING = """\
#!/bin/sh
case "$*" in *{when}*) ;; *) exec {compiler} "$@" ;; esac
echo "$$" >> {log}
sleep 600 &
wait
"""


def running(group: int) -> list[int]:
    """The processes of a group that have not ended; those that nobody waits for stay as zombies."""
    found = []
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group, *_ = process.read_text().rpartition(")")[2].split()
            if int(its_group) == group and state not in "ZX":
                found.append(int(process.parent.name))
    return found


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
class TestHanging:
    """A compiler that does not come to an end is ended."""

    def arrange(self, when: str, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        program, log = directory / "hanging", directory / "hanging.log"
        program.write_text(HANGING.format(when=when, compiler=real_compiler(), log=log))
        program.chmod(0o755)
        monkeypatch.setenv("CC", str(program))
        monkeypatch.setenv("OPTDSL_COMPILER_SECONDS", "2")
        return log

    @pytest.mark.parametrize("when", ["--version", "trivial.c"])
    @pytest.mark.exhaustive
    def test_it_is_no_compiler(
        self, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = self.arrange(when, tmp_path, monkeypatch)
        for _ in range(2):
            with pytest.raises(NoCompiler, match=r"not finish within 2 seconds.*install gcc"):
                silently()
        (started,) = log.read_text().split()  # once, and nobody waits for it again
        wait_for(lambda: not running(int(started)))

    def test_a_library_that_takes_too_long_is_built_once_only(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        log = self.arrange("answer.c", tmp_path, monkeypatch)
        with pytest.raises(BuildError, match=r"not finish.*OPTDSL_COMPILER_SECONDS"):
            silently()
        assert len(log.read_text().split()) == 1

    @pytest.mark.parametrize("when", ["--version", "Hangs"])
    def test_optimizers_run_without_it(
        self, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.arrange(when, tmp_path, monkeypatch)
        optimizer_class.cache_clear()
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        rule = "optimizer Hangs\nhyper lr = 0.5 in [0, inf)\ntheta' = theta - lr * g\n"
        optimizer = optdsl.compile(rule, backend="auto")([p])
        with pytest.warns(RuntimeWarning, match="without compiled kernels.*not finish within"):
            optimizer.step()
        assert p.tolist() == [0.5, 0.5]


class TestLibrariesWithoutTheirFunctions:
    RULE = "optimizer Gone\nhyper lr = 0.5 in [0, inf)\ntheta' = theta - lr * g\n"

    def stepped(self, backend: str = "c") -> list[float]:
        p = torch.nn.Parameter(torch.ones(2))
        p.grad = torch.ones(2)
        optimizer_class.cache_clear()
        optdsl.compile(self.RULE, backend=backend)([p]).step()
        return p.tolist()

    def test_hidden_by_a_flag(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CC", f"{real_compiler()} -fvisibility=hidden")
        with pytest.raises(BuildError, match=r"Gone\w*\.so was built and lacks .*flags in CC"):
            self.stepped()
        with pytest.warns(RuntimeWarning, match="without compiled kernels.*lacks a function"):
            assert self.stepped("auto") == [0.5, 0.5]

    def test_an_entry_that_another_library_took_is_built_again(
        self, cache: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert self.stepped() == [0.5, 0.5]
        other = silently()
        (library,) = (p for p in cache.glob("*/*.so") if p != other)
        library.unlink()
        library.write_bytes(other.read_bytes())
        manifest = library.parent / "manifest.json"
        told = json.loads(manifest.read_text())
        told["sha256"] = hashlib.sha256(other.read_bytes()).hexdigest()
        told["size"] = other.stat().st_size
        manifest.write_text(json.dumps(told))
        forget(monkeypatch)
        assert self.stepped() == [0.5, 0.5]
