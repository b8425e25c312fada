"""The gate's rows, limits and verdicts; never timings."""

import json
import tomllib

import pytest

from benchmarks import gate
from benchmarks.builders import INTERIOR, LEARN, build
from benchmarks.contestants import BLEND, CONTESTANTS, RULE
from benchmarks.gate import Finding, Verdict, chosen, main, measure, read_limits, table
from benchmarks.gate_rows import MATCHES, ROWS
from benchmarks.heat import Runner, make_gradients, run
from benchmarks.machine import processor_class
from benchmarks.ratios import Spread
from benchmarks.sizes import SIZES
from benchmarks.worker import Unavailable

ADAM = ROWS["adam-20M"]


def cpuinfo(vendor: str, family: int, flags: str) -> str:
    core = f"vendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: fpu {flags}\n"
    return f"processor\t: 0\n{core}\nprocessor\t: 1\n{core}\n"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        (cpuinfo("AuthenticAMD", 25, "sse2 avx avx2 fma"), "amd-25-avx2"),
        (cpuinfo("AuthenticAMD", 26, "avx avx2 avx512f avx512bw"), "amd-26-avx512"),
        (cpuinfo("GenuineIntel", 6, "sse2 avx"), "intel-6-avx"),
        (cpuinfo("Other Vendor", 6, "sse2 avx512_vnni"), "other vendor-6-sse2"),
    ],
)
def test_classes_of_processors(lines, kind):
    assert processor_class(lines) == kind


def test_a_processor_that_the_system_does_not_describe_is_known_by_its_architecture(monkeypatch):
    monkeypatch.setattr("benchmarks.machine.platform.machine", lambda: "ARM64")
    assert processor_class("processor\t: 0\nCPU implementer\t: 0x41\n") == "arm64"
    assert processor_class("") == "arm64"


def test_every_class_has_a_limit_for_every_row():
    classes = tomllib.loads(gate.LIMITS.read_text())
    assert "amd-25-avx2" in classes
    for kind in classes:
        assert read_limits(kind).keys() == ROWS.keys()


def test_limits_of_other_classes(tmp_path):
    file = tmp_path / "limits.toml"
    file.write_text("[amd-1-sse2]\nadam-20M = 1.0\nadam-20m = 1.0\n")
    assert read_limits("amd-2-sse2", file) is None
    with pytest.raises(ValueError, match=r"limits.toml, \[amd-1-sse2\].* adam-150x1000, adam-20m"):
        read_limits("amd-1-sse2", file)


def test_rows_name_what_can_be_built():
    assert len(ROWS) == sum(len(match.rows) for match in MATCHES) == 13
    for match in MATCHES:
        assert match.size in SIZES
        for name in match.contestants:
            assert name in CONTESTANTS or name.startswith((RULE, BLEND))


@pytest.mark.parametrize(
    ("value", "limit", "verdict", "fails"),
    [
        (Spread(0.9, 0.8, 1.2, 9), 1.0, Verdict.MET, False),
        (Spread(1.0, 0.9, 1.1, 9), 1.0, Verdict.MET, False),
        (Spread(1.1, 0.9, 1.3, 9), 1.0, Verdict.WITHIN, False),
        (Spread(1.1, 1.0, 1.3, 9), 1.0, Verdict.WITHIN, False),
        (Spread(1.1, 1.01, 1.2, 9), 1.0, Verdict.EXCEEDED, True),
        (Spread(9.9, 9.8, 9.9, 9), None, Verdict.UNLIMITED, False),
        (None, 1.0, Verdict.UNMEASURED, True),
        (None, None, Verdict.UNMEASURED, True),
    ],
)
def test_verdicts(value, limit, verdict, fails):
    found = Finding(ADAM, value, limit)
    assert (found.verdict, found.verdict.fails) == (verdict, fails)


def heat(times, state=(), unavailable=()):
    """A worker that returns these figures."""
    found = {"times": times, "state": dict(state), "unavailable": dict(unavailable), "warnings": []}
    return lambda task, timeout, **arguments: found


def test_ratios_over_the_sum_of_members_are_paired_by_rounds(monkeypatch):
    (match,) = chosen(["nadam-and-adam"])
    nadam, adam, both = match.contestants
    # The machine is ten times slower in the second round; in the third the blend is slow.
    times = {nadam: [1.0, 10.0, 1.0], adam: [3.0, 30.0, 3.0], both: [4.4, 44.0, 8.0]}
    monkeypatch.setattr(gate, "call", heat(times))
    (found,) = measure(match, {"nadam-and-adam": 1.1}, "wall")
    assert found.value.median == pytest.approx(1.1)
    assert found.value.high == pytest.approx(1.55)


def test_bytes_of_state_have_no_spread(monkeypatch):
    (match,) = chosen(["sampled-state"])
    assert match.contestants == ("mada-sampled",)
    monkeypatch.setattr(gate, "call", heat({}, {"mada-sampled": 24.625}))
    (found,) = measure(match, {"sampled-state": 24.6}, "wall")
    assert found.value == Spread(24.625, 24.625, 24.625, 1)
    assert found.verdict is Verdict.EXCEEDED


def test_what_was_not_measured_fails_and_says_why(monkeypatch):
    (match,) = chosen(["adam-20M", "fixed-20M"])
    lost = {"mada-interior": "it is missing"}
    times = {"torch-fused": [1.0, 1.0], "adam": [0.9, 0.9]}
    monkeypatch.setattr(gate, "call", heat(times, unavailable=lost))
    adam, fixed = measure(match, {}, "wall")
    assert (adam.verdict, fixed.verdict) == (Verdict.UNLIMITED, Verdict.UNMEASURED)
    assert "fixed-20M was not measured: mada-interior: it is missing" in table([adam, fixed])

    def crash(*_, **__):
        raise Unavailable("the process ended with SIGSEGV")

    monkeypatch.setattr(gate, "call", crash)
    assert {f.reason for f in measure(match, {}, "wall")} == {"the process ended with SIGSEGV"}


def test_the_table_doubts_what_others_disturbed():
    quiet = Finding(ADAM, Spread(1.234, 1.1, 1.3, 9), 1.0, others=0.01)
    assert table([quiet]).splitlines()[2:] == [
        "| Adam / torch fused Adam, 20M | 1.23 | 1.10–1.30 | ≤ 1 | EXCEEDED |"
    ]
    busy = Finding(ADAM, Spread(1.234, 0.99, 1.3, 9), 1.0, others=0.5)
    assert "1.23 (?)" in table([quiet, busy])
    assert "used up to 50% of the processors" in table([quiet, busy])


@pytest.mark.parametrize(("adam", "status"), [(0.9, 0), (1.5, 1)])
def test_the_status_and_the_json(adam, status, monkeypatch, capsys):
    machine = {"processor": "a processor", "cores": 2, "threads": 2, "torch": "2", "optdsl": "0"}

    def call(task, timeout, **arguments):
        if task == "environment":
            return machine
        return heat({"torch-fused": [1.0] * 4, "adam": [adam] * 4})(task, timeout)

    monkeypatch.setattr(gate, "call", call)
    monkeypatch.setattr(gate, "processor_class", lambda: "amd-25-avx2")
    assert main(["--gate", "--rows", "adam-20M", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    assert (told["class"], told["limits"], told["failed"]) == ("amd-25-avx2", True, bool(status))
    assert told["rows"][0]["verdict"] == ("exceeded" if status else "met")

    # A class without limits is measured, and the output says so.
    monkeypatch.setattr(gate, "processor_class", lambda: "other-7-sse2")
    assert main(["--gate", "--rows", "adam-20M"]) == 0
    told = capsys.readouterr().out
    assert "no limits for processors of the class other-7-sse2" in told
    assert "no limit |" in told


def test_unknown_rows(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--gate", "--rows", "adam-20M,speed"])
    assert stopped.value.code == 2
    assert "there is no row 'speed'; there are adam-20M" in capsys.readouterr().err


def test_rounds_go_forwards_and_backwards(monkeypatch):
    taken: list[str] = []

    class Counted(Runner):
        def __init__(self, name, *options):
            super().__init__(name, *options)
            self.name = name

        def step(self):
            taken.append(self.name)
            return super().step()

    monkeypatch.setitem(SIZES, "tiny", SIZES["150x1000"].__class__("tiny", ((3,),), True))
    monkeypatch.setattr("benchmarks.heat.Runner", Counted)
    names = ["torch-fused", "torch-foreach"]
    found = run("tiny", names, "eager", 4, 60.0, 4, 0.0, bandwidth=False)
    assert found["times"].keys() == set(names)
    a, b = names
    assert taken[-8:] == [a, b, b, a, a, b, b, a]


def test_learned_coefficients_stay_where_no_term_vanishes():
    shapes = ((64, 8),)
    runner = Runner("mada-overlapped", shapes, make_gradients(shapes), "eager")
    for gradients in runner.gradients:
        for gradient in gradients:
            gradient *= 1e6  # far beyond any hyper-gradient of a benchmark
    moved = set()
    for _ in range(6):
        runner.step()
        values = runner.optimizer.metrics()
        for name in INTERIOR:
            assert 0 < values[name] < 1
            moved |= {name} if values[name] != INTERIOR[name] else set()
    assert moved == INTERIOR.keys()
    assert LEARN.keys() == INTERIOR.keys() | {"beta1", "beta2"}


def test_a_blend_of_rules_takes_steps():
    import torch

    theta = torch.nn.Parameter(torch.ones(4))
    theta.grad = torch.ones(4)
    build(f"{BLEND}adamw with cautious,adam", [theta], "eager").step()
    assert (theta < 1).all()
