"""Emitted files under the sanitizers, and under all of the compiler's warnings."""

from __future__ import annotations

from pathlib import Path

import pytest

from optdsl.runtime.build.toolchain import toolchain

from . import harness, rules

pytestmark = pytest.mark.broad(10)

# What is written for vectors of 512 bits is plain C, which any processor runs.
WIDE = "-D__AVX512F__"

CASES = [
    ("mada", True, "overlapped", "float32"),
    ("mada", True, "exact", "float64"),
    ("every_operation", "all", "overlapped", "float32"),
    ("lamb", "all", "exact", "float32"),
    ("adam_avgrad", True, "overlapped", "bfloat16"),
    ("hyperadam", True, "exact", "float16"),
    ("plain", False, "overlapped", "float32"),
]


def emitted(rule: str, learn: bool | str, order: str, dtype: str) -> harness.Emitted:
    how = rules.learning(rule) if learn == "all" else bool(learn)
    return harness.emitted(rule, how, order, dtype)


@pytest.fixture(scope="session")
def _sanitizers(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Skips where the compiler has none."""
    directory = tmp_path_factory.mktemp("probe")
    made = harness.compiled("int main(void) { return 0; }\n", directory, harness.SANITIZED)
    if made.returncode or harness.ran(directory).returncode:
        pytest.skip("the compiler has no address sanitizer")


@pytest.mark.usefixtures("_sanitizers")
@pytest.mark.parametrize("wide", [(), (WIDE,)], ids=["usual", "wide"])
@pytest.mark.parametrize(("rule", "learn", "order", "dtype"), CASES)
@pytest.mark.exhaustive
def test_no_entry_point_leaves_its_memory(
    rule: str, learn: bool | str, order: str, dtype: str, wide: tuple[str, ...], tmp_path: Path
) -> None:
    """All of them, on memory of the exact size, by one thread and by two."""
    file = emitted(rule, learn, order, dtype)
    assert {"initialize", "step"} <= set(file.entries)
    made = harness.compiled(harness.program(file), tmp_path, (*harness.SANITIZED, *wide))
    assert made.returncode == 0, made.stderr
    done = harness.ran(tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


@pytest.mark.usefixtures("_sanitizers")
@pytest.mark.parametrize("slot", [0, 1, 2], ids=["parameter", "gradient", "state"])
def test_an_element_too_far_is_noticed(slot: int, tmp_path: Path) -> None:
    file = emitted("adam", False, "overlapped", "float32")
    made = harness.compiled(harness.program(file, short=slot), tmp_path, harness.SANITIZED)
    assert made.returncode == 0, made.stderr
    done = harness.ran(tmp_path)
    assert done.returncode != 0
    assert "heap-buffer-overflow" in done.stderr


@pytest.mark.usefixtures("_sanitizers")
def test_undefined_behaviour_is_noticed(tmp_path: Path) -> None:
    text = "int main(int n, char **x) { (void)x; return (2147483647 + n) & 1; }\n"
    assert harness.compiled(text, tmp_path, harness.SANITIZED).returncode == 0
    done = harness.ran(tmp_path)
    assert "signed integer overflow" in done.stderr
    assert done.returncode != 0


WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only")


@pytest.fixture
def unused() -> tuple[str, ...]:
    """Emitted files have helpers that not every rule uses; they are inline, which gcc knows of."""
    return ("-Wno-unused-function",) if "clang" in toolchain().version else ()


@pytest.mark.parametrize("rule", rules.RULES)
def test_compilers_have_nothing_to_say(rule: str, tmp_path: Path, unused: tuple[str, ...]) -> None:
    """In C99, for every dtype and order, as the rule says and with more learned."""
    cells = [("float32", order, learn) for order in rules.ORDERS for learn in (True, "all")]
    cells += [(dtype, "overlapped", "all") for dtype in ("float64", "bfloat16", "float16")]
    for dtype, order, learn in cells:
        file = emitted(rule, learn, order, dtype)
        for wide in ((), (WIDE,)):
            done = harness.compiled(file.text, tmp_path, (*WARNINGS, *unused, *wide))
            assert (done.returncode, done.stderr) == (0, ""), (dtype, order, learn, wide)


@pytest.mark.parametrize("rule", ["mada", "lamb"])
def test_nor_when_they_look_closely(rule: str, tmp_path: Path, unused: tuple[str, ...]) -> None:
    """Some warnings come of what an optimizer finds out."""
    file = emitted(rule, "all", "overlapped", "float16")
    flags = ("-Wall", "-Wextra", "-Werror", "-O2", "-c", *unused)
    done = harness.compiled(file.text, tmp_path, flags)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_warning_is_noticed(tmp_path: Path) -> None:
    text = emitted("adam", False, "overlapped", "float32").text
    text += "\nint unused(void) { int x; return 0; }\n"
    done = harness.compiled(text, tmp_path, WARNINGS)
    assert done.returncode != 0
    assert "unused" in done.stderr
