"""Claims settled: wrong ones are refuted by runs that anyone can repeat, right ones are not."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import SpecError, SpecWarning
from optdsl.diagnostics import Source
from optdsl.ir.domain import Choice
from optdsl.ir.evaluate import number
from optdsl.ir.program import Program
from optdsl.ir.trajectories import Run, trajectory
from optdsl.prove import Settlement, Verdict, explanation, runs, settle, snippet
from optdsl.prove.runs import RUNS, STEPS
from optdsl.prove.trial import Counterexample, trial
from optdsl.specifications import library
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import read_text

pytestmark = pytest.mark.broad(8)

SPECS = ELEMENTWISE


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are written, and loaded by their names, in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str) -> Path:
    path = Path(f"{name}.opt")
    path.write_text(text)
    return path


def settled(path: Path) -> tuple[Program, list[Settlement]]:
    found = library.specification(library.open_source(path), verify=False)
    return found.program, [settle(found.program, claim) for claim in found.claims]


def only(path: Path) -> tuple[Program, Settlement]:
    program, (settlement,) = settled(path)
    return program, settlement


def refuted_in(path: Path) -> tuple[Program, Settlement]:
    program, found = settled(path)
    (wrong,) = (s for s in found if s.verdict is Verdict.REFUTED)
    return program, wrong


def compiled(name: str | os.PathLike[str], run: Run, hypers: dict[str, float]) -> Tensor:
    """Where a run leads the compiled optimizer."""
    p = torch.nn.Parameter(torch.tensor(run.theta, dtype=torch.float64))
    optimizer = optdsl.load(name, learn=False, verify=False, backend="eager")([p], **hypers)
    for g in run.gradients:
        p.grad = torch.tensor(g, dtype=torch.float64)
        optimizer.step()
    return p.detach()


def close(found: Tensor, expected: Iterable[float]) -> None:
    wanted = torch.tensor(list(expected), dtype=torch.float64)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12, equal_nan=True)


def shown(text: str, letter: str) -> list[float]:
    """The numbers that the snippet says a result has."""
    found = re.search(rf"^# {letter} is (.*)$", text, re.MULTILINE)
    assert found is not None
    return [float(n) for n in found[1].split(", ")]


def apart(x: Tensor, y: Tensor, found: Counterexample) -> bool:
    """As the printed test judges; a number and NaN are apart."""
    tolerance = found.tolerance
    return not torch.allclose(x, y, rtol=tolerance, atol=tolerance, equal_nan=True)


def check_snippet(program: Program, settlement: Settlement) -> None:
    """It runs as it is printed, arrives at the printed numbers, and fails where they differ."""
    found = settlement.difference
    assert found is not None
    text = "\n".join(snippet(program, settlement))
    scope: dict[str, Tensor] = {}
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        exec(compile(text, "<snippet>", "exec"), scope)
    close(scope["x"], found.left)
    close(scope["y"], found.right)
    close(scope["x"], shown(text, "x"))
    close(scope["y"], shown(text, "y"))
    assert apart(scope["x"], scope["y"], found)


def check_run(path: Path, program: Program, settlement: Settlement) -> None:
    """The compiled optimizers go where the run says, and no shorter run shows a difference."""
    found, claim = settlement.difference, settlement.claim
    assert found is not None
    hypers = dict(found.run.hypers)
    assert all(value in program.hyper(name).domain for name, value in hypers.items())
    assert set(claim.settings) <= set(hypers.items())
    bound = {name: number(claim.reference, value, hypers) for name, value in claim.bindings}
    left, right = compiled(path, found.run, hypers), compiled(claim.rule_source, found.run, bound)
    close(left, found.left)
    close(right, found.right)
    assert apart(left, right, found)
    for steps in range(1, len(found.run.gradients)):
        run = Run(found.run.hypers, found.run.theta, found.run.gradients[:steps])
        assert not apart(
            compiled(path, run, hypers), compiled(claim.rule_source, run, bound), found
        )


# --- claims planted in the library ----------------------------------------------------------------

PLANTED = [
    ("mada", "recovers Lion   at gamma = 0", "recovers Lion at gamma = 0.5"),
    ("mada", "recovers Lion   at gamma = 0", "recovers Lion(beta1 = 0.91) at gamma = 0"),
    ("mada", "recovers Lion   at gamma = 0", "recovers Adam at gamma = 0"),
    ("mada", "recovers Lion   at gamma = 0", "recovers Lion"),
    ("mada", "c = 0, rho = 1, kappa = 0, gamma = 1", "c = 0.25, rho = 1, kappa = 0, gamma = 1"),
    ("mada", "rho = 0, kappa = 0, gamma = 1", "rho = 0, kappa = 0, gamma = 0.999999"),
    ("mada", "kappa = 1, gamma = 1", "kappa = 0, gamma = 1"),
    ("mada", "Adan.beta3 = beta2", "Adan.beta3 = beta1"),
    ("mada", "Yogi.m0    = 0", "Yogi.m0    = 0.5"),
    ("mada_legacy", "Lion(beta1 = 0.931,", "Lion(beta1 = 0.9,"),
    ("mada_legacy", "rho = 0, c = 1, gamma = 1, v0 = 0", "rho = 0, c = 1, gamma = 1"),
    ("mada_legacy", "beta3 = 0, rho = 1, c = 0", "beta3 = 0.5, rho = 1, c = 0"),
    ("adam_avgrad", "at rho = 0", "at rho = 1e-3"),
    ("adaptivity", "recovers SGD   at w = SGD", "recovers SGD(momentum = 0.8) at w = SGD"),
    ("adaptivity", "recovers Lion  at w = Lion", "recovers Lion  at w = uniform"),
    ("memory", "recovers AMSGrad at w = AMSGrad", "recovers AMSGrad at w = AVGrad"),
    ("memory", "w = AVGrad, weight_decay = 0", "w = AVGrad"),
    ("two_speed", "recovers Slow at slow = 1", "recovers Slow at slow = 0"),
    ("hyperadam", "recovers AdamW", "recovers AdamW(eps = 1e-6)"),
    ("hyperadam", "recovers AdamW", "recovers Adam"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "right", "wrong"), PLANTED)
def test_a_wrong_claim_is_refuted_by_a_run_that_anyone_can_repeat(
    name: str, right: str, wrong: str
) -> None:
    text = library.open_source(name).text
    assert text.count(right) == 1
    path = write("mine", text.replace(right, wrong))
    program, found = settled(path)
    wrong_ones = [s for s in found if s.verdict is Verdict.REFUTED]
    assert wrong_ones
    for settlement in wrong_ones:
        assert settlement.claim.holds
        check_run(path, program, settlement)
        check_snippet(program, settlement)
        mine, theirs = settlement.equations
        assert mine
        assert theirs


def test_what_binds_a_hyperparameter_of_a_member_binds_it_in_its_claim() -> None:
    text = library.open_source("mada").text.replace("lr_ratio * lr", "0.25 * lr + lr_ratio")
    _, found = settled(write("mine", text))
    assert [s.verdict for s in found] == [Verdict.PROVED] * 5


@pytest.mark.parametrize("name", SPECS)
def test_every_claim_of_the_library_is_proved_and_its_opposite_refuted(name: str) -> None:
    """`recovers` becomes `misses`, and the other way round."""
    source = library.open_source(name)
    text = source.text
    path = write("mine", re.sub("^(recovers|misses)", lambda m: {"recovers": "misses",
                 "misses": "recovers"}[m[0]], text, flags=re.MULTILINE))  # fmt: skip
    original = library.specification(source, verify=False)
    proved = [settle(original.program, claim).verdict for claim in original.claims]
    assert proved == [Verdict.PROVED] * len(proved)
    program, found = settled(path)
    assert len(found) == len(proved)
    assert all(s.verdict is Verdict.REFUTED for s in found)
    for settlement in found:
        if settlement.claim.holds:
            check_run(path, program, settlement)
            check_snippet(program, settlement)
        else:
            assert settlement.reason == "the two are equal over the reals"
            assert settlement.difference is None
            assert explanation(program, settlement) == []


def test_what_is_wrong_with_lion_is_found_in_one_step_and_its_state_in_two() -> None:
    text = library.open_source("lion").text
    first = write("first", text + "recovers Lion(beta1 = 0)\n")
    second = write("second", text + "recovers Lion(beta2 = 0)\n")
    # `Lion` is the library's: the file beside it has another name.
    for path, least in ((first, 1), (second, 2)):
        program, settlement = only(path)
        assert settlement.difference is not None
        assert len(settlement.difference.run.gradients) >= least
        check_run(path, program, settlement)
        check_snippet(program, settlement)


# --- what loading says ----------------------------------------------------------------------------


def test_a_refuted_claim_is_a_mistake_of_the_specification_unless_nobody_asks() -> None:
    text = library.open_source("mada").text
    wrong = "recovers Lion at gamma = 0.5"
    path = write("mine", text.replace("recovers Lion   at gamma = 0", wrong))
    with pytest.raises(SpecError) as caught:
        optdsl.load(path)
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.code == "refuted"
    assert diagnostic.span.text.startswith("recovers Lion")
    assert diagnostic.message == f"`{wrong}` is wrong"
    mine, theirs, test = (note.message for note in diagnostic.notes)
    assert mine.startswith("where they differ, MADA has\n")
    assert "theta' = 0.5 * " in mine
    assert theirs.startswith("where they differ, Lion has\n")
    assert "theta' = theta - lr_ratio * lr * (" in theirs
    assert test == "`optdsl verify` prints a test that shows it"
    for note in (mine, theirs, test):
        for line in note.splitlines():
            assert line in str(caught.value)
    cls = optdsl.load(path, verify=False)
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    cls([p]).step()
    assert torch.isfinite(p).all()
    assert not torch.equal(p.detach(), torch.ones(3))


def test_a_refuted_claim_of_a_member_is_a_mistake_of_the_blend() -> None:
    write(
        "plain",
        "optimizer Plain\nhyper lr = 0.1 in [0, inf)\ntheta' = theta - lr * g\nrecovers Adam\n",
    )
    path = write("mine", "blend Mine\nuse Plain\nshare lr\n")
    with pytest.raises(SpecError) as caught:
        optdsl.load(path)
    assert {d.code for d in caught.value.diagnostics} == {"refuted"}
    assert optdsl.load(path, verify=False) is not None


def test_text_without_a_file_is_verified_too() -> None:
    text = library.open_source("lion").text + "recovers Lion(beta1 = 0.5)\n"
    text = text.replace("optimizer Lion", "optimizer Tiger")
    with pytest.raises(SpecError, match=re.escape("`recovers Lion(beta1 = 0.5)` is wrong")):
        optdsl.compile(text)
    assert optdsl.compile(text, verify=False) is not None


# --- neither proved nor refuted -------------------------------------------------------------------

PLAIN = """\
optimizer Plain
hyper lr = 0.1 in [0, inf)
theta' = theta - lr * g
"""
# True over the reals, and beyond what the algebra knows of roots, logarithms and branches.
UNPROVABLE = [
    "theta - lr * exp(log(abs(g))) * sign(g)",
    "theta - lr * sqrt(g^2 + 1)^2 * g / (g^2 + 1)",
    "theta - lr * abs(g) * sign(g)",
    "theta - lr * (max(g, 0) + min(g, 0))",
    "theta - lr * where(g > 0, g, -abs(g))",
    "theta - lr * g * (1 + g^2) / (1 + g^2)",
    "theta - lr * sqrt(g^2) * sign(g)",
    "theta - lr * (1 + t)^9 / (1 + t)^8 / (1 + t) * g",
    "theta - lr * mean(g + 1 - g) * g",
]


@pytest.mark.parametrize("update", UNPROVABLE)
@pytest.mark.parametrize("holds", [True, False])
def test_a_true_claim_that_is_not_proved_is_tested(update: str, holds: bool) -> None:
    write("plain", PLAIN)
    word = "recovers" if holds else "misses"
    text = f"optimizer Mine\nhyper lr = 0.1 in [0, inf)\ntheta' = {update}\n{word} Plain\n"
    path = write("mine", text)
    _, settlement = only(path)
    assert settlement.verdict is (Verdict.TESTED if holds else Verdict.REFUTED)
    assert re.match(
        rf"\d+ runs of up to {STEPS} steps differ by rounding at most", settlement.reason
    )
    assert settlement.difference is None
    if holds:
        with pytest.warns(SpecWarning, match="was tested, and not proved"):
            assert optdsl.load(path) is not None
    else:
        with pytest.raises(SpecError, match="is wrong"):
            optdsl.load(path)


@pytest.mark.parametrize(
    "update",
    [
        "theta - lr * sqrt(g^2)",
        "theta - lr * exp(log(abs(g)))",
        "theta - lr * (g + 1e-4)",
        "theta - lr * g * where(t > 9, 1.001, 1)",
        "theta - lr * g * where(abs(g) > 1000, 0, 1)",
        "theta - lr * g * where(abs(g) < 1e-4, 0, 1)",
        "theta - lr * mean(g)",
        "theta - lr * sum(g)",
        "theta - min(lr, 0.1) * g",
        "theta - lr * g + where(lr < 0.05, 1e-6, 0)",
    ],
)
@pytest.mark.parametrize("holds", [True, False])
def test_a_difference_is_found_wherever_it_hides(update: str, holds: bool) -> None:
    """In a sign, a scale of the gradient, a late step, another element, another setting."""
    write("plain", PLAIN)
    word = "recovers" if holds else "misses"
    text = f"optimizer Mine\nhyper lr = 0.1 in [0, inf)\ntheta' = {update}\n{word} Plain\n"
    path = write("mine", text)
    program, settlement = only(path)
    assert settlement.difference is not None
    assert settlement.verdict is (Verdict.REFUTED if holds else Verdict.PROVED)
    if holds:
        check_run(path, program, settlement)
        check_snippet(program, settlement)
    else:
        assert settlement.reason == (
            f"they differ after step {len(settlement.difference.run.gradients)}"
        )


def test_misses_in_both_directions() -> None:
    text = "optimizer Mine\nhyper lr = 0.1 in [0, inf)\nhyper k = 1 in [0, 1]\n"
    text += "theta' = theta - lr * k * g\n"
    write("plain", PLAIN)
    path = write("mine", text + "misses Plain\nmisses Plain at k = 1\nmisses Plain at k = 0.5\n"
                 "misses Plain(lr = lr * k)\nmisses Plain(lr = 0.5 * lr) at k = 0.5\n"
                 "misses Plain(lr = 0.4 * lr) at k = 0.5\n")  # fmt: skip
    _, found = settled(path)
    assert [s.verdict for s in found] == [
        Verdict.PROVED, Verdict.REFUTED, Verdict.PROVED, Verdict.REFUTED, Verdict.REFUTED,
        Verdict.PROVED,
    ]  # fmt: skip
    assert [s.claim.holds for s in found] == [False] * 6


# --- what happens late, or once -------------------------------------------------------------------

COUNTING = "state c = 0\nc' = c + 1\n"
ONCE = [
    ("where(t == 500, 2, 1)", "", 500),
    ("where(abs(t - 500) < 1, 2, 1)", "", 500),
    ("(1 + max(0, 1 - abs(t - 500)))", "", 500),
    ("(1 + 0.1^abs(t - 700))", "", 700),
    ("(1 + floor(t / 700))", "", 700),
    ("where(0 < mod(t, 900) <= 899, 1, 2)", "", 900),
    ("where(t == w, 2, 1)", "hyper w = 600 in [0, inf)\n", 600),
    ("where(c > 30, 0.5, 1)", COUNTING, 32),
    ("where(c == 1990, 0.5, 1)", COUNTING, 1991),
    ("where(sum(g) == 0, 2, 1)", "", 1),
    ("where(sum(theta) == 0, 2, 1)", "", 1),
]


@pytest.mark.parametrize(("factor", "before", "step"), ONCE)
def test_a_difference_at_one_step_is_found(factor: str, before: str, step: int) -> None:
    write("plain", PLAIN)
    text = f"optimizer Mine\nhyper lr = 0.1 in [0, inf)\n{before}"
    path = write("mine", f"{text}theta' = theta - lr * g * {factor}\nrecovers Plain\n")
    _, settlement = only(path)
    assert settlement.verdict is Verdict.REFUTED
    assert settlement.difference is not None
    assert len(settlement.difference.run.gradients) <= step


FAR = [
    ("where(t == 5000, 2, 1)", "", "what changes after step 4,999 was not reached"),
    ("where(c > 3000, 2, 1)", COUNTING, "a state is compared with 3,000, which a count of steps"),
]


@pytest.mark.parametrize(("factor", "before", "told"), FAR)
def test_what_no_run_reaches_is_told(factor: str, before: str, told: str) -> None:
    write("plain", PLAIN)
    text = f"optimizer Mine\nhyper lr = 0.1 in [0, inf)\n{before}"
    path = write("mine", f"{text}theta' = theta - lr * g * {factor}\nrecovers Plain\n")
    _, settlement = only(path)
    assert settlement.verdict is Verdict.TESTED
    assert told in settlement.reason


# --- rounding that decides, or explains too much --------------------------------------------------

DECIDED = [
    "theta - lr * g + where(g * 3 - g - g - g == 0, 0, 100)",
    "theta - lr * g + 1e-3 * sign(theta * 0.1 * 10 - theta)",
]


@pytest.mark.parametrize("proof", [False, True])
@pytest.mark.parametrize("update", DECIDED)
def test_runs_that_rounding_parts_are_no_proof(
    update: str, proof: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever algebra says of them."""
    write("plain", PLAIN)
    path = write("mine", f"{PLAIN.splitlines()[1]}\ntheta' = {update}\nrecovers Plain\n")
    path.write_text("optimizer Mine\n" + path.read_text())
    if proof:
        monkeypatch.setattr("optdsl.prove.equal", lambda *arguments: True)
    _, settlement = only(path)
    assert settlement.verdict is Verdict.TESTED
    assert "rounding may have decided that they are far apart" in settlement.reason


def test_rounding_without_bound_explains_nothing() -> None:
    """Each line of the chain doubles errors; over the reals, both chains are the same."""
    write("plain", PLAIN)
    lines = ["optimizer Mine", "hyper lr = 0.1 in [0, inf)"]
    for name, line in (("a", "4 * {0} * (1 - {0})"), ("b", "4 * {0} - 4 * {0} * {0}")):
        lines.append(f"{name}0 = tanh(g)^2")
        lines += (f"{name}{i} = {line.format(f'{name}{i - 1}')}" for i in range(1, 60))
    lines += ["theta' = theta - lr * g * (1 + a59 - b59)", "recovers Plain", ""]
    _, settlement = only(write("mine", "\n".join(lines)))
    assert settlement.verdict is Verdict.TESTED
    assert "rounding is too large to explain anything, so nothing was tested" in settlement.reason


# --- the runs -------------------------------------------------------------------------------------


def test_the_same_run_is_found_every_time() -> None:
    left, right = read_text(PLAIN), read_text(PLAIN.replace("g\n", "g^2\n"))
    first, second = (trial(left, right, {}) for _ in range(2))
    assert first.found is not None
    assert first.found == second.found
    assert first.runs == 1
    assert trial(left, left, {}).found is None
    assert trial(left, left, {}).runs > RUNS
    assert trial(left, right, {}, lambda hypers, t: False).runs == 0
    assert first.found.left == trajectory(left, first.found.run)[-1]
    assert first.found.right == trajectory(right, first.found.run)[-1]


DOMAINS = ["[0, 1]", "[0, 1)", "(0, 1)", "[-1, 1]", "[0, inf)", "(0, inf)", "(-inf, inf)",
           "(-inf, 0.5]", "{0, 1}", "{0.5, 2, 7}", "[0.5, 0.50001]", "[0.999, 0.9999]",
           "[0.9995, 0.99996]", "[0.5001, 0.5004]", "[1000.5, 1000.75]",
           "[0.99, 1)"]  # fmt: skip


@pytest.mark.parametrize("domain", DOMAINS)
def test_runs_stay_within_the_bounds_of_hyperparameters(domain: str) -> None:
    """A claim says nothing of other values, and no optimizer takes them."""
    lower = domain.strip("[({})]").split(",")[0]
    default = {"0": "0.5", "-1": "0.5", "-inf": "0.5"}.get(lower, lower)
    default = "0" if domain == "{0, 1}" else default
    seen: set[float] = set()
    program = read_text(f"optimizer A\nhyper x = {default} in {domain}\ntheta' = theta - x * g\n")
    hyper = program.hyper("x")
    for run in runs.runs((program,), {}, 10**9):
        ((name, value),) = run.hypers
        assert name == "x"
        assert value in hyper.domain
        seen.add(value)
    assert hyper.default in seen
    assert len(seen) >= (len(hyper.domain.values) if isinstance(hyper.domain, Choice) else 4)


def test_a_true_claim_over_narrow_bounds_is_not_refuted() -> None:
    write("plain", PLAIN)
    path = write("mine", "optimizer Mine\nhyper lr = 0.9995 in [0.999, 0.9999]\n"
                 "theta' = theta - min(lr, 0.9999) * g\nrecovers Plain\n")  # fmt: skip
    _, settlement = only(path)
    assert settlement.verdict is Verdict.TESTED


def test_runs_have_their_settings_weights_and_sizes() -> None:
    program = library.read(library.open_source("memory"))
    sizes = set()
    for index, run in enumerate(runs.runs((program,), {"beta1": 0.25}, 10**9)):
        hypers = dict(run.hypers)
        assert set(hypers) == {h.name for h in program.hypers}
        assert hypers["beta1"] == 0.25
        weights = [hypers[h] for h in ("w_adam", "w_avgrad", "w_amsgrad")]
        assert sum(weights) == pytest.approx(1, abs=1e-12)
        assert min(weights) >= 0
        if index < 2:
            defaults = {h.name: h.default for h in program.hypers}
            assert hypers == defaults | {"beta1": 0.25}
        assert index >= RUNS or len(run.gradients) == STEPS
        assert {len(g) for g in run.gradients} == {len(run.theta)}
        sizes.add(len(run.theta))
    assert index >= RUNS
    assert sizes >= {1, 3}


# --- claims that are hard to test -----------------------------------------------------------------


def test_a_sum_that_overflows_does_not_stop_the_search() -> None:
    """min(1, infinity) is 1, so the claim is true, in double precision as well."""
    write("plain", PLAIN)
    update = "theta' = theta - lr * min(1, sum(1e308 + abs(g))) * g"
    path = write("mine", f"optimizer Mine\nhyper lr = 0.1 in [0, inf)\n{update}\nrecovers Plain\n")
    _, settlement = only(path)
    assert settlement.verdict is Verdict.TESTED


def test_a_claim_is_not_tested_by_runs_that_compare_nothing() -> None:
    """This rule is nowhere defined: no step of any run agrees with anything."""
    write("plain", PLAIN)
    path = write("mine", "optimizer Mine\nhyper lr = 0.1 in [0, inf)\n"
                 "theta' = theta - lr * log(-1 - g^2) * g\nrecovers Plain\n")  # fmt: skip
    _, settlement = only(path)
    assert settlement.verdict is not Verdict.TESTED


def test_a_rule_outside_its_bounds_is_no_rule() -> None:
    """Its snippet could not be run; the mistake is in the claim's option."""
    path = write("mine", PLAIN.replace("Plain", "Mine") + "recovers Adam(beta1 = 1.5)\n")
    with pytest.raises(SpecError) as caught:
        optdsl.load(path)
    assert {d.code for d in caught.value.diagnostics} == {"out-of-bounds"}


def test_the_snippet_follows_a_binding_that_changes_from_step_to_step() -> None:
    """The member's learning rate grows with t, in the reference of its claim as well."""
    write("plain", PLAIN)
    write("late", PLAIN.replace("Plain", "Late").replace("* g", "* g * where(t == 1, 1, 0.5)"))
    path = write("mine", "blend Mine\nuse Plain, Late\nhyper k = 0.1 in [0, 1]\n"
                 "hyper d = 0.5 in [0, 1]\nPlain.lr = k * t\nLate.lr = k * t\n"
                 "theta' = d * Plain.theta' + (1 - d) * Late.theta'\n"
                 "recovers Plain at d = 0\n")  # fmt: skip
    program, settlement = only(path)
    assert settlement.verdict is Verdict.REFUTED
    assert settlement.difference is not None
    assert len(settlement.difference.run.gradients) == 2
    check_snippet(program, settlement)


def test_sources_without_files_have_no_path_to_load() -> None:
    assert Source("mada.opt", "").loadable == "mada"
    assert Source("a/b.opt", "", directory="a").loadable == "a/b.opt"
