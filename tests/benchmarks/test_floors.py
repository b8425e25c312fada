"""What rules move by their plans, and the time of a step over that floor; never timings."""

import json

import pytest

from benchmarks.campaign import FloorResult, Options, Results
from benchmarks.contestants import CONTESTANTS
from benchmarks.findings import floor_findings
from benchmarks.floors import rules, traffic
from benchmarks.plan import COPY, FLOORS, QUICK, SCALE
from benchmarks.report import write


@pytest.mark.parametrize("rule", ["adam", "lion", "adan", "yogi"])
def test_a_plan_moves_what_was_counted_by_hand(rule):
    assert traffic(rule) == CONTESTANTS[rule].traffic


def test_every_pass_counts():
    # LAMB reads parameter, gradient and both moments for the two norms, and once more for the step.
    assert traffic("lamb") == (8, 3)
    # The layer-wise norm of NovoGrad's gradient is a pass over the gradient alone.
    assert traffic("novograd") == (4, 2)


def test_rules_are_those_without_matrices():
    found = rules()["rules"]
    assert found["adam"] == "elementwise"
    assert found["lamb"] == "norms"
    assert not {"muon", "mada"} & found.keys()


def results() -> Results:
    # 28 bytes of 20M parameters take 13.0 ms where 8 bytes of 2^26 numbers take 12.5 ms.
    streams = {COPY: [0.025] * 3, SCALE: [0.0125, 0.025, 0.0125]}
    least = 28 * 20e6 / 2**29 * 0.0125
    slow = FloorResult("adam", "elementwise", "20M", 28, {"adam": [1.5 * least] * 3, **streams})
    quick = FloorResult("lion", "elementwise", "20M", 28, {"lion": [1.2 * least] * 3, **streams})
    sums = FloorResult("lamb", "norms", "20M", 28, {"lamb": [2 * least] * 3, **streams})
    lost = FloorResult("lars", "norms", "20M", reason="it ran out of memory")
    machine = {"processor": "a processor", "cores": 2, "threads": 2, "system": "a system"}
    machine |= dict.fromkeys(("memory", "compiler", "pytorch_optimizer"))
    machine |= {"optdsl": "0", "torch": "2", "python": "3"}
    options = Options(("20M",), (FLOORS,), "eager", QUICK, "processor")
    return Results(options, machine, floors=[quick, lost, slow, sums])


def test_findings():
    slow, quick, sums, lost = floor_findings(results())
    assert (slow.rule, quick.rule, sums.rule, lost.rule) == ("adam", "lion", "lamb", "lars")
    assert slow.values[SCALE].median == pytest.approx(1.5)
    assert slow.values[COPY].median == pytest.approx(0.75)
    assert (slow.met, quick.met) == (False, True)
    assert sums.target is None
    assert (sums.met, lost.met, lost.values) == (None, None, {})


def test_what_is_written(tmp_path):
    write(results(), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["found"]["floors"]
    assert [f["rule"] for f in found] == ["adam", "lion", "lamb", "lars"]
    report = (tmp_path / "report.txt").read_text()
    assert "floor of lars: it ran out of memory" in report
    assert "time of the processors" in report
