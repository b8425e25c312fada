"""The benchmark for GPUs: its checks, on the GPU where there is one, and its flow at tiny sizes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from benchmarks import gpu, gpu_checks
from benchmarks.gpu_steps import STEPS, Device

CUDA = torch.cuda.is_available()


# Triton's interpreter takes seconds for each.
EVERYDAY = {"adam, bfloat16"}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if CUDA or name in EVERYDAY else pytest.mark.exhaustive)
        for name in gpu_checks.CHECKS
    ],
)
def test_checks_agree(name: str) -> None:
    assert gpu_checks.CHECKS[name](Device("cuda" if CUDA else "cpu")) == ""


@pytest.mark.exhaustive
def test_checks_find_what_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another coefficient, and another parameter."""
    make = gpu_checks._mada

    def wrong(backend: str, order: str) -> object:
        cls = make(backend, order)
        if backend == "eager":
            return cls

        def made(groups: object) -> object:
            optimizer = cls(groups)
            for group in optimizer.param_groups:
                group["beta2"] *= 0.999
            return optimizer

        return made

    monkeypatch.setattr(gpu_checks, "_mada", wrong)
    name = "mada learned, overlapped, float64"
    assert "away" in gpu_checks.CHECKS[name](Device("cuda" if CUDA else "cpu"))


@pytest.mark.exhaustive
@pytest.mark.skipif(CUDA, reason="it is for machines without a GPU")
def test_the_flow_at_tiny_sizes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "TINY", {"tiny": ((5,), (4, 6)), "10x100": ((3,),)})
    monkeypatch.setattr(gpu, "CHECKS", {})
    assert gpu.main(["--interpreter", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["failures"] == {}
    cells = {(m["workload"], m["contestant"]) for m in found["cells"]}
    assert cells == {(w, s) for w in ("tiny", "10x100") for s in STEPS}
    for m in found["cells"]:
        assert m["quartiles"][0] <= m["ratio"] <= m["quartiles"][1]
        assert m["seconds"] > 0
        assert m["launches"] is None
    text = capsys.readouterr().out
    assert "124M float32 adam: ratio <= 1.0: not measured" in text


@pytest.mark.skipif(CUDA, reason="it is for machines without a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([]) == 2
    assert "There is no GPU here" in capsys.readouterr().err


def test_a_failure_is_recorded_and_the_rest_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(device: Device) -> str:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(gpu, "CHECKS", {"broken": broken, "wrong": lambda device: "off by one"})
    monkeypatch.setattr(gpu, "STEPS", ("adam", "nobody"))
    shapes = {"tiny": ((5,),)}
    results = gpu.run(Device("cpu"), tmp_path, 100, shapes, [("tiny", torch.float32)])
    assert results.checks == {"broken": "it failed", "wrong": "off by one"}
    assert set(results.failures) == {"check: broken", "tiny float32 nobody"}
    assert "no such luck" in results.failures["check: broken"]
    assert [m.contestant for m in results.cells] == ["adam"]
    none = gpu.run(Device("cpu"), tmp_path, 0, shapes, [("tiny", torch.float32)])
    assert none.unmeasured == ["tiny float32 adam", "tiny float32 nobody"]
