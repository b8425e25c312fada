"""What runs measure, against references that are not theirs."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import optdsl
from optdsl.pages.statistics import paired, sign_test, slope, student_p, z_test
from optdsl.studies.catalog.contestants import PEERS
from optdsl.studies.catalog.counterexample import OPTIMIZERS
from optdsl.studies.frame.execution import execute
from optdsl.studies.frame.values import Outcome, Result, Results, Status
from optdsl.studies.runs.controls import Control, script_of
from optdsl.studies.runs.cost import AUTOGRAD, Cost
from optdsl.studies.runs.counterexample import Counterexample
from optdsl.studies.runs.optimizers import Contestant, Learned
from optdsl.studies.runs.scalar import ScalarOptimizer
from optdsl.studies.runs.training import Training

LEARNING = Contestant(
    label="learner",
    rule="adam_avgrad",
    hypers={"lr": 1e-2, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.0},
    learn={"rho": Learned(hypers={"lr": 0.3}, signal="sign", after=2)},
)
STEPS = 20


def training(contestant: Contestant = LEARNING, **fields: object) -> Training:
    return Training.model_validate(
        {"task": "saddle", "contestant": contestant, "seed": 0, "steps": STEPS} | fields
    )


@pytest.fixture(scope="module")
def learned() -> tuple[Training, Result]:
    run = training()
    return run, execute(run, {})


def test_the_counterexample_reaches_the_authors_figures() -> None:
    """Of the authors' implementation, at 3,000 steps."""
    numbers = Counterexample(contestant=OPTIMIZERS[-1], steps=3000).execute({}).numbers
    assert numbers["x"] == pytest.approx(0.040279932042, rel=0, abs=1e-9)
    assert numbers["coefficient/rho"] == pytest.approx(0.714730700, rel=0, abs=1e-9)
    assert numbers["coefficient/beta3"] == pytest.approx(0.249674323, rel=0, abs=1e-9)
    assert numbers["coefficient/c"] == pytest.approx(0.989502748, rel=0, abs=1e-9)


@pytest.mark.parametrize("index", range(len(OPTIMIZERS)))
def test_a_scalar_optimizer_takes_the_steps_of_the_class(index: int) -> None:
    contestant = OPTIMIZERS[index]
    ours = ScalarOptimizer(contestant.elaboration(), contestant.hypers)
    theta = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
    theirs = contestant.optimizer([theta])
    generator = torch.Generator().manual_seed(index)
    x = 0.0
    for _ in range(60):
        theta.grad = torch.randn((), generator=generator, dtype=torch.float64)
        x = ours.step(x, theta.grad.item())
        theirs.step()
        assert x == pytest.approx(theta.item(), rel=1e-12, abs=1e-15)


def test_training_keeps_the_trajectory(learned: tuple[Training, Result]) -> None:
    run, result = learned
    rho = result.outcome.series["coefficient/rho"]
    assert len(rho) == STEPS + 1
    assert rho[0] == rho[2] == 1.0
    steps = [abs(b - a) for a, b in pairwise(rho)]
    assert any(step == pytest.approx(0.3) for step in steps)
    assert len(result.outcome.series["validation"]) == STEPS
    assert result.outcome.numbers["validation"] == result.outcome.series["validation"][-1]
    again = execute(run, {})
    assert again.outcome.series["validation"] == result.outcome.series["validation"]


@pytest.mark.parametrize("kind", ["final", "walk", "path"])
def test_controls_follow_the_run_that_learned(
    kind: str, learned: tuple[Training, Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, result = learned
    rho = result.outcome.series["coefficient/rho"]
    seen: list[float] = []
    load = optdsl.load

    def spying(*arguments: object, **options: object) -> object:
        cls = load(*arguments, **options)  # type: ignore[arg-type]

        class Spy(cls):  # type: ignore[misc, valid-type]
            def step(self, closure: object = None) -> None:
                seen.append(self.param_groups[0]["rho"])
                super().step()

        return Spy

    monkeypatch.setattr(optdsl, "load", spying)
    run = training(control=Control.model_validate({"kind": kind, "of": parent.key}))
    assert run.needs == (parent.key,)
    assert execute(run, {parent.key: result}).finished
    assert len(seen) == STEPS
    if kind == "final":
        assert set(seen) == {rho[-1]}
    if kind == "path":
        assert seen[0] == rho[0]
        assert seen[-1] == pytest.approx(rho[-1])
    if kind == "walk":
        assert all(0 <= x <= 1 for x in seen)
        moved = [abs(b - a) for a, b in pairwise(seen)]
        sizes = [abs(b - a) for a, b in pairwise(rho)]
        assert all(m <= s + 1e-12 for m, s in zip(moved, sizes, strict=False))


def test_a_frozen_learner_is_the_rule_itself() -> None:
    frozen = execute(training(LEARNING.frozen()), {})
    adamw = Contestant(label="", rule="adamw", hypers=LEARNING.hypers)
    plain = execute(training(adamw), {})
    losses = [r.outcome.series["validation"] for r in (frozen, plain)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_walk_of_weights_sums_to_one_and_tensors_follow_their_mean() -> None:
    series = {
        "coefficient/w_adam": (0.25, 0.75, 0.5),
        "coefficient/w_avgrad": (0.25, 0.0, 0.5),
        "coefficient/w_amsgrad": (0.5, 0.25, 0.0),
        "coefficient/w_amsgrad/max": (1.0, 1.0, 1.0),
    }
    program = Contestant(label="", rule="memory").elaboration().program
    result = Result("key", {}, Status.FINISHED, Outcome({}, series))
    script = script_of(Control(kind="walk", of="key"), result, program, 3, 0)
    for step in (1, 2, 3):
        assert set(script(step)) == {"w_adam", "w_avgrad", "w_amsgrad"}
        assert sum(script(step).values()) == pytest.approx(1)
        assert all(0 <= x <= 1 for x in script(step).values())
    per_tensor = {"coefficient/rho/mean": (0.5, 0.3), "coefficient/rho/min": (0.5, 0.1)}
    result = Result("key", {}, Status.FINISHED, Outcome({}, per_tensor))
    program = LEARNING.elaboration().program
    assert script_of(Control(kind="final", of="key"), result, program, 1, 0)(1) == {"rho": 0.3}


def test_rates_are_multiplied_whether_a_file_or_a_study_says_what_is_learned(
    tmp_path: Path,
) -> None:
    tripled = Contestant(label="mada", rule="mada").with_rates(3)
    assert tripled is not None
    before = Contestant(label="mada", rule="mada").elaboration().learned
    after = tripled.elaboration().learned
    for a, b in zip(before, after, strict=True):
        assert dict(b.options) == {"lr": 3 * dict(a.options)["lr"]}
        assert replace(b, options=a.options) == a
    ours = LEARNING.with_rates(1 / 3)
    assert ours is not None
    assert ours.elaboration().learned[0].options == (("lr", 0.3 / 3),)
    assert ours.elaboration().learned[0].signal == "sign"
    # The default rate counts where none is said, and the weights of a vector are one request.
    plain = LEARNING.model_copy(update={"learn": {"rho": Learned(rule="adam")}}).with_rates(2)
    assert plain is not None
    assert plain.elaboration().learned[0].options == (("lr", 0.002),)
    vector = Contestant(label="", rule="adaptivity").with_rates(2)
    assert vector is not None
    assert vector.elaboration().learned[0].options == (("lr", 2.0),)
    assert vector.elaboration().learned[0].exponentiated
    mine = tmp_path / "mine.opt"
    mine.write_text("optimizer Mine\n\nhyper lr = 0.5 in [0, inf)\n\ntheta' = theta - lr * g\n")
    by_file = LEARNING.model_copy(update={"learn": {"rho": Learned(rule=str(mine))}}).with_rates(2)
    assert by_file is not None
    assert by_file.elaboration().learned[0].options == (("lr", 1.0),)
    betting = LEARNING.model_copy(update={"learn": {"rho": Learned(rule="kt")}})
    assert betting.with_rates(3) is LEARNING.frozen().with_rates(3) is None
    assert Contestant(label="", rule="torch.optim:SGD").with_rates(3) is None


@pytest.mark.parametrize(
    "contestant",
    [
        Contestant(label="sf", rule="schedulefree:AdamWScheduleFree", constant=True),
        next(peer for peer in PEERS if peer.base is not None),
    ],
    ids=lambda contestant: contestant.label,
)
def test_a_packages_optimizer_takes_part(contestant: Contestant) -> None:
    pytest.importorskip(contestant.rule.partition(":")[0])
    result = execute(training(contestant), {})
    assert result.finished, result.details
    assert math.isfinite(result.outcome.numbers["validation"])


def test_the_key_has_the_text_and_the_rule_in_it(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a" * 5000)
    run = training(text=text)
    text.with_name("other.txt").write_text("b" * 5000)
    other = training(text=text.with_name("other.txt"))
    assert run.ingredients() != other.ingredients()
    assert len({r.key for r in (run, other, training(LEARNING.frozen()))}) == 3


def test_the_cost_of_a_step_is_measured() -> None:
    contestants = (Contestant(label="adam", rule="adam"), Contestant(label="mada", rule="mada"))
    run = Cost(contestants=contestants, parameters=64, tensors=2, repeats=1)
    numbers = run.execute({}).numbers
    assert numbers["state/adam"] >= 8
    assert numbers[f"state/{AUTOGRAD}"] == 24  # its six states in float32
    assert numbers[f"graph/{AUTOGRAD}"] > 40
    assert numbers["graph/mada"] == 0
    assert all(math.isfinite(x) for x in numbers.values())
    assert run.alone


def test_statistics_are_those_of_tables() -> None:
    # Quantiles of Student's t distribution.
    assert student_p(4.302653, 2) == pytest.approx(0.05, abs=1e-6)
    assert student_p(2.228139, 10) == pytest.approx(0.05, abs=1e-6)
    assert student_p(0.0, 1) == pytest.approx(1.0)
    found = paired([1.0, 2.0, 4.0], [0.0, 0.0, 1.0])
    assert (found.mean, found.deviation, found.count) == (2.0, 1.0, 3)
    assert found.p == pytest.approx(0.0742, abs=1e-4)  # t = 3.464, two degrees of freedom
    z, p = z_test([1.0, 2.0, 3.0])
    assert z == pytest.approx(2 * 3**0.5)
    assert p == pytest.approx(5.3e-4, rel=0.01)
    assert sign_test(5, 0) == 2 / 2**5
    assert sign_test(1, 8) == sign_test(8, 1) == 2 * (1 + 9) / 2**9
    assert sign_test(0, 0) == sign_test(3, 3) == 1
    assert slope([1, 10, 100], [3, 0.3, 0.03]) == pytest.approx(-1)
    assert math.isnan(paired([math.nan], [1.0]).mean)
    assert len(list(Results())) == 0
