"""The C compiler: which one is taken, and with which flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl.runtime import toolchain as toolchain_module
from optdsl.runtime.toolchain import BuildError, NoCompiler, Toolchain, toolchain

from .compilers import (
    ANSWER,
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
        assert toolchain().flags[0] == "-DVALUE=1 + 2"
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

    @pytest.mark.parametrize("refused", [["-fopenmp"], ["-march=native", "-fno-trapping-math"]])
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
        assert surroundings.run() == f"{silently()} 42.0"
        assert compiler.calls() == []

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
        gone = Toolchain(str(tmp_path / "gone"), "", ())
        with pytest.raises(BuildError, match="cannot be run"):
            gone.build(tmp_path / "a.c", tmp_path / "a.so")
