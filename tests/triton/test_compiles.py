"""The interpreter forgives what the compiler does not: kernels compile, and use what they should.

No GPU is needed. Triton reads TRITON_INTERPRET once, so this is done in processes of their own.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from optdsl.compiler import emit
from tests.c import rules

pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]


def compiled(target: str, directory: Path, *options: str) -> list[dict[str, object]]:
    out = directory / "resources.json"
    command = [sys.executable, "-m", "benchmarks.resources", "--targets", target]
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [*command, *options, "--out", str(out)],
        cwd=ROOT,
        env=environment | {"TRITON_CACHE_DIR": str(directory / "cache")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
def test_adam_and_mada_use_wide_accesses_and_do_not_spill(target: str, tmp_path: Path) -> None:
    found = compiled(target, tmp_path, "--dtypes", "float32,bfloat16")
    loops = [r for r in found if str(r["kernel"]).startswith(("step_loop", "settle"))]
    loops = [r for r in loops if "_loop" in str(r["kernel"])]
    kernels = {(r["rule"], r["dtype"], r["kernel"]) for r in found}
    for dtype in ("float32", "bfloat16"):
        assert ("adam", dtype, "step_loop0") in kernels
        assert ("mada", dtype, "settle_and_step_loop0") in kernels
        assert ("mada", dtype, "step_settled_loop0") in kernels
    assert any(r["kernel"] == "learn_all" for r in found)
    assert all(r["loads"] == 16 for r in loops)
    assert all(r["spilled"] == 0 for r in loops)
    if target.startswith("cuda"):
        assert all(r["stores"] == 16 for r in loops)
        # Three programs of four warps fit a multiprocessor of 65,536 registers.
        assert all(int(str(r["registers"])) <= 168 for r in loops if r["dtype"] == "float32")


def test_other_dtypes_and_every_operation_compile(tmp_path: Path) -> None:
    files = []
    for name in ("every_operation", "lamb", "blend"):
        files.append(tmp_path / f"{name}.opt")
        files[-1].write_text(rules.TEXTS[name])
    names = ",".join([*map(str, files), "sgd", "memory"])
    found = compiled("cuda:90", tmp_path, "--rules", names, "--dtypes", "float32")
    assert {str(r["rule"]) for r in found} == set(names.split(","))
    found = compiled("cuda:90", tmp_path, "--dtypes", "float64,float16", "--orders", "overlapped")
    assert {r["dtype"] for r in found} == {"float64", "float16"}


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
        (["--rules", "adma"], "adma"),
    ],
)
def test_wrong_options_are_told_in_a_line(options: list[str], message: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "benchmarks.resources", *options]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr
