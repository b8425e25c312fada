"""The interpreter forgives what the compiler does not: kernels compile, and use what they should.

No GPU is needed. Triton reads TRITON_INTERPRET once, so this is done in processes of their own.
"""

from __future__ import annotations

import ast
import json
import os
import re
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import resources
from optdsl.compiler import emit
from optdsl.schedule import Role
from tests.c import rules, test_hostile as hostile
from tests.c.test_matrices import EVERY_REDUCTION

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
# The command, once for each list of options.
COMMANDS = "import json, sys; from benchmarks.resources import main; "
COMMANDS += "[main(options) for options in json.loads(sys.argv[1])]"
WIDE = ("step_loop", "complete_loop", "complete_and_step_loop", "step_completed_loop")


def python(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Where Triton compiles, and keeps what it has compiled in a directory."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment | {"TRITON_CACHE_DIR": str(directory / "cache")},
        capture_output=True,
        text=True,
    )


def compiled(target: str, directory: Path, *jobs: list[str]) -> list[dict[str, Any]]:
    """What kernels take; each job is a list of options."""
    outs = [directory / f"{number}.json" for number in range(len(jobs))]
    options = [
        [*job, "--targets", target, "--out", str(out)] for job, out in zip(jobs, outs, strict=True)
    ]
    done = python(directory, "-c", COMMANDS, json.dumps(options))
    assert done.returncode == 0, done.stderr[-4000:]
    return [one for out in outs for one in json.loads(out.read_text())]


def accesses(rule: str, dtype: str, order: str, kernel: str) -> tuple[int, int]:
    """How many tensors a kernel reads and writes, by its text."""
    text = emit(rules.source(rule), "triton", dtype=dtype, order=order).text
    name = kernel.replace("_loop", "_block")
    found = [
        node
        for node in ast.parse(text).body
        if isinstance(node, ast.FunctionDef) and node.name == name
    ]
    calls = Counter(
        node.func.id
        for node in ast.walk(found[0])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    )
    return calls["fetch"], calls["put"]


def check_widths(found: list[dict[str, Any]], dtype: str, size: int, each: int) -> None:
    """Every tensor is read and written by `each` accesses of `size` bytes."""
    loops = [r for r in found if r["dtype"] == dtype and r["kernel"].startswith(WIDE)]
    assert {r["rule"] for r in loops} == {"adam", "mada"}
    for r in loops:
        loads, stores = accesses(r["rule"], dtype, r["order"], r["kernel"])
        assert loads > 0, r
        assert r["loads"] == [size] * (each * loads), r
        assert r["stores"] == [size] * (each * stores), r


def check_kernels(found: list[dict[str, Any]], dtypes: tuple[str, ...]) -> None:
    """Of both orders, and of what is learned, nothing is missing, and nothing spills."""
    kernels = {(r["rule"], r["dtype"], r["kernel"]) for r in found}
    for dtype in dtypes:
        assert ("adam", dtype, "step_loop0") in kernels
        for kernel in (Role.FUSED, Role.COMPLETE, Role.STEP_COMPLETED):
            assert ("mada", dtype, f"{kernel}_loop0") in kernels
            assert ("mada", dtype, f"{kernel}_uniforms") in kernels
        assert ("mada", dtype, "learn_all") in kernels
    loops = [r for r in found if r["kernel"].startswith(WIDE) and r["dtype"] != "float64"]
    assert [r for r in loops if r["spilled"]] == []
    assert all(r["registers"] > 0 and r["instructions"] > 0 for r in found)


def hostile_files(directory: Path) -> list[str]:
    """Specifications whose names are words of the emitted text."""
    names = ["tl", "triton", "float", "range", "print", "tensor", "u", "s", "FAST", "SUM0", "total",
             "mixed", "v_1_PER", "β1"]  # fmt: skip
    roles = (hostile.as_hypers, hostile.as_states, hostile.as_definitions)
    files = [directory / f"{role.__name__}.opt" for role in roles]
    for file, role in zip(files, roles, strict=True):
        file.write_text(f"optimizer Names\n{role(names)}\n", encoding="utf-8")
    return list(map(str, files))


@pytest.mark.parametrize(
    "target", ["cuda:90", pytest.param("hip:gfx942", marks=pytest.mark.exhaustive)]
)
def test_a_rule_compiles_for_both_makers_devices(target: str, tmp_path: Path) -> None:
    options = ["--rules", "lion,adafactor", "--dtypes", "float32", "--orders", "overlapped"]
    found = compiled(target, tmp_path, options)
    # Adafactor's are those of matrices.
    kernels = {"step_loop0", "step_between0_0", "step_pass0", "step_fold0", "step_pass2"}
    assert kernels <= {r["kernel"] for r in found}
    # Between passes, a division in double precision is a function, which has a stack.
    assert [r for r in found if r["spilled"] and "_between" not in r["kernel"]] == []


@pytest.mark.exhaustive
def test_kernels_for_nvidias_devices(tmp_path: Path) -> None:
    files = []
    for name in ("every_operation", "blend"):
        files.append(str(tmp_path / f"{name}.opt"))
        Path(files[-1]).write_text(rules.TEXTS[name])
    others = [*files, *hostile_files(tmp_path), "sgd", "lion", "lamb"]
    found = compiled(
        "cuda:90",
        tmp_path,
        ["--dtypes", "float32,bfloat16"],
        ["--dtypes", "float16,float64", "--orders", "overlapped"],
        ["--rules", ",".join(others), "--dtypes", "float32", "--orders", "overlapped"],
    )
    assert {r["rule"] for r in found} == {"adam", "mada", *others}
    found = [r for r in found if r["rule"] in {"adam", "mada"}]
    check_kernels(found, ("float32", "bfloat16"))
    check_widths(found, "float32", 16, 1)
    check_widths(found, "float64", 16, 2)
    for r in found:
        # Adam's threads have eight elements then; those of MADA have four.
        if r["dtype"] in {"bfloat16", "float16"} and r["kernel"].startswith(WIDE):
            narrowest = 16 if r["rule"] == "adam" else 8
            assert min([*r["loads"], *r["stores"]]) == narrowest, r
        # Three programs of four warps fit a multiprocessor of 65,536 registers.
        if r["dtype"] == "float32" and r["kernel"].startswith(WIDE):
            assert r["registers"] <= 168, r


@pytest.mark.exhaustive
@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_kernels_of_matrices_compile(target: str, tmp_path: Path) -> None:
    file = tmp_path / "every.opt"
    file.write_text(EVERY_REDUCTION)
    dtypes = "float32,bfloat16,float16,float64"
    options = ["--rules", f"{file},came", "--dtypes", dtypes, "--orders", "overlapped"]
    found = compiled(target, tmp_path, options)
    passes = [r for r in found if re.fullmatch(r"step_pass\d", r["kernel"])]
    assert {(r["rule"], r["dtype"]) for r in passes} == {
        (rule, dtype) for rule in (str(file), "came") for dtype in dtypes.split(",")
    }
    assert [r for r in passes if r["spilled"] and r["dtype"] != "float64"] == []


@pytest.mark.exhaustive
def test_kernels_for_amds_devices(tmp_path: Path) -> None:
    found = compiled("hip:gfx942", tmp_path, ["--dtypes", "float32,bfloat16"])
    check_kernels(found, ("float32", "bfloat16"))
    check_widths(found, "float32", 16, 1)


LITERALS = (0.1, 1e300, 1e-300, 1e-45, 0.12345678901234568, 0.7)
ASSEMBLY = """
import sys
from benchmarks.resources import compiled
from optdsl.compiler import emit
from optdsl.diagnostics import Source
from optdsl.runtime.build.python_modules import module
made = module(emit(Source("<text>", sys.argv[1]), "triton", dtype="float64"))
print(compiled(made, made.step_loop0, "cuda:90").asm["ptx"])
"""


@pytest.mark.exhaustive
def test_numbers_reach_the_device_in_double_precision(tmp_path: Path) -> None:
    """Triton takes a number by itself for a float32; the interpreter does not show it."""
    a, b, c, d, e, f = LITERALS
    # Between two numbers there is no other argument to take the type of.
    body = f"{a} * g + min(g, {b}) + where(g > {c}, {d}, g) + where(g > 0, {e}, {f})"
    text = f"optimizer Numbers\ntheta' = theta - ({body})\n"
    done = python(tmp_path, "-c", ASSEMBLY, text)
    assert done.returncode == 0, done.stderr[-4000:]
    for number in LITERALS:
        assert f"0d{struct.pack('>d', number).hex().upper()}" in done.stdout, number


PTX = """
	.loc	1 7 9
	// begin inline asm
	mov.u32 %r1, 0x0;
	.loc	1 8 9
	ld.global.v4.b32 { %r1, %r2, %r3, %r4 }, [ %rd1 + 0 ];
	// end inline asm
	.loc	1 8 9
	ld.global.v2.b64 {%rd1, %rd2}, [%rd3];
	.loc	1 7 9
	ld.global.L1::evict_last.b16 %rs1, [%rd4];
	ld.shared.b32 %r5, [%r6];
"""
GCN = """
	.loc	1 7 9 is_stmt 1
	global_load_dwordx2 v[20:21], v[8:9], off
	global_store_short_d16_hi v[28:29], v2, off offset:512
	s_load_dwordx4 s[0:3], s[4:5], 0x0
	.loc	1 8 9
	global_load_dwordx4 v[4:7], v9, s[18:19]
"""


@pytest.mark.parametrize(("text", "sizes"), [(PTX, [16, 2]), (GCN, [8, 2])])
def test_accesses_are_told_apart_by_their_lines(text: str, sizes: list[int]) -> None:
    assert resources.accesses(text, 7) == sizes
    assert resources.accesses(text, 8) == [16]
    assert resources.accesses(text, None) == []


@pytest.mark.parametrize("rule", ["adam", "mada", "lamb", "every_operation"])
def test_nothing_is_of_one_makers_devices(rule: str) -> None:
    text = emit(rules.source(rule), "triton").text
    code = re.sub(r'""".*?"""|#[^\n]*', "", text, flags=re.DOTALL)
    assert not re.search(r"cuda|nvidia|libdevice|inline_asm|extern|hip|ptx", code)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--targets", "cuda:7"], "there is no target 'cuda:7'"),
        (["--dtypes", "float8"], "there is no dtype 'float8'"),
        (["--orders", "late"], "there is no order 'late'"),
        (["--rules", "adma"], "adma"),
    ],
)
def test_wrong_options_are_told_in_a_line(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(SystemExit, match=re.escape(message)) as told:
        resources.main(options)
    assert "\n" not in str(told.value).strip()
