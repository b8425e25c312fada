"""The arithmetic of the benchmarks; never their timings."""

import json
import math
from dataclasses import replace

import pytest

from benchmarks.__main__ import parse
from benchmarks.campaign import HeatResult, Options, Results, lacking
from benchmarks.contestants import CONTESTANTS
from benchmarks.findings import disturbed, footprints, ratio_findings, start_findings
from benchmarks.machine import Watch
from benchmarks.plan import COPY, HEATS, PARTS, QUICK, SCALE, STARTERS, Target
from benchmarks.ratios import paired, spread
from benchmarks.report import write
from benchmarks.roofline import draw
from benchmarks.sizes import SIZES, gpt2
from benchmarks.worker import Unavailable, _reason, call


def test_sizes():
    assert SIZES["20M"].parameters == 20_000_000
    assert SIZES["150x1000"].parameters == 150_000
    assert SIZES["124M"].parameters == 124_439_808
    assert len(gpt2()) == 148


@pytest.mark.parametrize(
    ("name", "floor"),
    [
        ("torch-fused", 28),
        ("adam", 28),
        ("mada-fixed", 60),
        ("mada-overlapped", 64),
        ("mada-exact", 96),
        ("lion", 20),
        ("adan", 44),
    ],
)
def test_floors(name, floor):
    assert CONTESTANTS[name].floor == floor


def test_ratios_are_paired_before_the_median():
    # A machine that is ten times slower in two of the rounds does not show.
    found = paired([2.0, 40.0, 6.0, 20.0, 4.0], [1.0, 20.0, 2.0, 10.0, 2.0])
    assert found.median == 2.0
    assert (found.low, found.high, found.count) == (2.0, 2.0, 5)


def test_spread():
    found = spread([4.0, 1.0, 2.0, 3.0, 5.0])
    assert (found.low, found.median, found.high) == (2.0, 3.0, 4.0)
    assert spread([7.0]).high == 7.0
    with pytest.raises(ValueError, match="no values"):
        spread([])
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])


def test_targets():
    assert Target(1.05).met(1.05)
    assert not Target(1.05).met(1.06)
    assert Target(100, at_least=True).met(101)
    assert not Target(100, at_least=True).met(math.nan)
    assert str(Target(100, at_least=True)) == "≥ 100"


def test_heats_name_contestants():
    for heat in HEATS.values():
        assert set(heat.contestants) <= CONTESTANTS.keys()
        assert all(target in SIZES for ratio in heat.ratios for target in ratio.targets)
    assert set(STARTERS) <= CONTESTANTS.keys()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--sizes", "20m"], "there is no size '20m'; there are 20M, 124M, 150x1000"),
        (["--sizes", ","], "name at least one size"),
        (["--only", "adam,speed"], "there is no part 'speed'"),
        (["--backend", "fortran"], "fortran"),
        (["--out", "benchmarks/plan.py"], "cannot write to"),
    ],
)
def test_bad_options(arguments, complaint, capsys):
    with pytest.raises(SystemExit) as stopped:
        parse(["--backend", "eager", *arguments])
    assert stopped.value.code == 2
    assert complaint in capsys.readouterr().err


def test_names_keep_the_order_of_the_plan(tmp_path):
    options = parse(["--sizes", "124M,20M", "--backend", "eager", "--out", str(tmp_path / "a/b")])
    assert options.sizes == ("20M", "124M")
    assert (tmp_path / "a/b").is_dir()


@pytest.mark.slow
def test_workers_say_why_there_is_no_result():
    with pytest.raises(Unavailable, match="KeyError"):
        call("memory", 60, size="1M", contestant="adam", backend="eager")
    with pytest.raises(Unavailable, match="not ready after"):
        call("environment", 0.01)
    assert "memory" in _reason(-9, "")
    assert _reason(1, "Traceback\nValueError: no\n\n") == "ValueError: no"


def test_memory_that_is_not_there(monkeypatch):
    monkeypatch.setattr("benchmarks.campaign.available_memory", lambda: 10**9)
    assert "needs about 3 GB" in (lacking(SIZES["124M"], ["torch-fused"], "eager") or "")
    assert lacking(SIZES["150x1000"], ["torch-fused"], "eager") is None


def results() -> Results:
    times = {
        "torch-fused": [0.02, 0.04, 0.02],
        "adam": [0.021, 0.042, 0.021],
        COPY: [0.025] * 3,
        SCALE: [0.0125] * 3,
    }
    options = Options(("20M",), PARTS, "eager", QUICK)
    heat = HeatResult("adam", "20M", times, {"torch-fused": 8.0, "adam": 8.0})
    heat.unavailable["torch-foreach"] = "it is missing"
    machine = {"processor": "a processor", "cores": 2, "threads": 2, "system": "a system"}
    machine |= dict.fromkeys(("memory", "compiler", "pytorch_optimizer"))
    machine |= {"optdsl": "0", "torch": "2", "python": "3"}
    starts = {"torch": 1.0, "optdsl": 0.2, "torch optimizer": 1.0}
    both = {"cold": [{**starts, "start": 0.7}], "warm": [{**starts, "start": 0.2}]}
    return Results(options, machine, [heat], starts={"adam": both})


def test_findings():
    adam, foreach = ratio_findings(results())
    assert adam.value is not None
    assert adam.value.median == pytest.approx(1.05)
    assert adam.floor == 1
    assert foreach.reason == "it is missing"
    assert foreach.met is None
    fused = footprints(results())[0]
    assert fused.nanoseconds.median == pytest.approx(1.0)
    # 28 bytes of 20M parameters in 20 ms, and 8 bytes of 2^26 numbers in 25 or 12.5 ms.
    assert fused.shares[COPY].median == pytest.approx(28e9 / (2**29 / 0.025), rel=1e-6)
    assert fused.shares[SCALE].median == pytest.approx(28e9 / (2**29 / 0.0125), rel=1e-6)
    assert [(s.kind, s.met) for s in start_findings(results())] == [("cold", True), ("warm", False)]


def test_others_at_work_put_figures_in_doubt():
    quiet = ratio_findings(results())[0]
    assert not disturbed(quiet)
    assert disturbed(replace(quiet, others=0.2))
    assert not disturbed(replace(quiet, others=0.001))


def test_own_work_is_not_that_of_others():
    watch = Watch()
    others = watch.others()
    assert others is None or others >= 0


def test_what_is_written(tmp_path):
    write(results(), tmp_path)
    found = json.loads((tmp_path / "results.json").read_text())["found"]
    assert found["ratios"][0]["value"]["median"] == pytest.approx(1.05)
    report = (tmp_path / "report.txt").read_text()
    assert "it is missing" in report
    assert "≤ 1.05" in report
    assert draw(results(), tmp_path / "roofline.png")
