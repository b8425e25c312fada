"""What comes out does not depend on the processor's vectors, which OPTDSL_MARCH chooses."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import optdsl
from optdsl.runtime.build import march
from optdsl.runtime.build.library_cache import shared_library
from optdsl.runtime.build.toolchain import BuildError, processor, toolchain
from optdsl.specifications import library
from tests.oracles import every_operation, problems

pytestmark = pytest.mark.broad(8)

ROOT = Path(__file__).parents[2]
INTERIOR = "c = 0.9 rho = 0.8 kappa = 0.1 gamma = 0.7".replace(" = ", "=").split()
X86 = platform.machine() in {"x86_64", "AMD64"}


def usable(level: str) -> str:
    """The level, if this processor has it."""
    if not X86:
        pytest.skip("x86-64 has levels, and this is another architecture")
    if lacking := march.missing(level, processor()):
        pytest.skip(f"this processor lacks {', '.join(lacking)}")
    return level


levels = pytest.mark.parametrize("level", list(march.LEVELS)[1:])


def trained(text: str, backend: str, dtype: torch.dtype) -> list[torch.Tensor]:
    """Parameters after a few steps, one of them its own gradient, and the hyper-gradients."""
    cls = optdsl.compile(text, backend=backend)
    hypers = {k: float(v) for k, v in (x.split("=") for x in INTERIOR) if "MADA" in text}
    generator = problems.seeded(0)
    held = [nn.Parameter(problems.randn(generator, n).to(dtype)) for n in (1, 127, 300, 8193)]
    optimizer = cls(held, lr=0.05, **hypers)
    for _ in range(4):
        for parameter in held:
            parameter.grad = problems.randn(generator, *parameter.shape).to(dtype)
        held[2].grad = held[2].detach()
        optimizer.step()
    sums = [v for k, v in optimizer.metrics().items() if k.startswith("hypergradient")]
    return [*(p.detach() for p in held), torch.tensor(sums, dtype=dtype)]


CASES = [
    pytest.param("mada", torch.float32, id="mada-float32"),
    pytest.param("every_operation", torch.float64, id="every_operation-float64"),
    *(
        pytest.param(rule, dtype, id=f"{rule}-{dtype}", marks=pytest.mark.exhaustive)
        for rule, dtype in (
            ("mada", torch.float64),
            ("mada", torch.bfloat16),
            ("every_operation", torch.float32),
            ("every_operation", torch.bfloat16),
        )
    ),
]


@levels
@pytest.mark.parametrize(("rule", "dtype"), CASES)
def test_every_vector_unit_takes_the_same_steps(
    rule: str, dtype: torch.dtype, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = library.open_source(rule).text if rule == "mada" else every_operation.TEXT
    expected = trained(text, "eager", dtype)
    monkeypatch.setenv(march.MARCH_VARIABLE, usable(level))
    # Another text, so that the class is made anew.
    found = trained(f"{text}\n# {level}\n", "c", dtype)
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-3, torch.bfloat16: 5e-2}[dtype]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance / 10)


def test_the_target_is_part_of_a_librarys_key(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "int seven(void) { return 7; }\n"
    native = shared_library(text, "Seven")
    monkeypatch.setenv(march.MARCH_VARIABLE, usable("x86-64-v2"))
    assert "-march=x86-64-v2" in toolchain().flags
    assert shared_library(text, "Seven") != native


@pytest.mark.parametrize("name", ["no-such-processor", "native; true", "-O0"])
def test_what_is_no_processor_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(march.MARCH_VARIABLE, name)
    with pytest.raises(BuildError, match=march.MARCH_VARIABLE):
        toolchain()


def test_a_level_that_the_processor_lacks_is_refused_before_it_could_crash() -> None:
    assert march.missing("x86-64-v3", "sse2 avx") == sorted(
        set(" ".join(list(march.LEVELS.values())[:3]).split()) - {"sse2", "avx"}
    )
    if X86:
        with pytest.raises(march.WrongTarget, match="lacks avx512bw"):
            march.march_flags("x86-64-v4", processor().replace("avx512bw", ""))


@pytest.mark.exhaustive
@levels
def test_all_of_c_passes_on_every_level(level: str) -> None:
    """In a process of its own, which is at work for minutes."""
    own = "tests/c/test_processors.py"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not exhaustive", "tests/c",
               "tests/runtime/test_overlaps.py", "--deselect", own]  # fmt: skip
    environment = os.environ | {march.MARCH_VARIABLE: usable(level)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
