"""The grid of starts: what is run in a cell, and what follows from the losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from matplotlib.figure import Figure

from optdsl.pages.claims import Chapter, Judged, Verdict
from optdsl.studies.catalog.comparison import CONTROLS, TrainingStudy
from optdsl.studies.catalog.evolution import EvolutionStudy
from optdsl.studies.catalog.robustness import RobustnessStudy
from optdsl.studies.catalog.start_cells import CellLosses
from optdsl.studies.catalog.start_tables import cell_table, criteria
from optdsl.studies.catalog.starts import MEMBERS, Cell, StartsStudy
from optdsl.studies.catalog.workloads import LONGER, WorkloadsStudy
from optdsl.studies.frame.values import Outcome, Result, Results, Status
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.training import Training

CELL = CellLosses(
    "mlp",
    "a start",
    1.0,
    {"adam": 1.2, "yogi": math.inf, "adan": 0.995, "lion": 1.1, "avgrad": 3.0},
    {"start": 1.5, "rates × 3": 1.005},
    0.01,
)


def test_what_follows_from_the_losses_of_a_cell() -> None:
    assert CELL.complete
    assert (CELL.best, CELL.median) == ("adan", 1.2)
    assert [c.met for c in criteria([CELL] * 6)] == [True] * 4
    (row,) = cell_table("", "mada", [CELL]).rows
    assert row[1:3] == (Judged("within noise", True), Judged("lower", True))
    assert row[3:] == ("1", "0.995 (adan)", "1.2", "1.5", "1.005", "0.01")

    worse = replace(CELL, learner=1.3)
    assert [c.met for c in criteria([worse])] == [False, False, False, True]
    assert cell_table("", "mada", [worse]).rows[0][1] == Judged("higher", False)
    # Lower in one cell alone is chance; six of six are not.
    assert [c.met for c in criteria([CELL])] == [True, True, False, True]
    # In four of five cells it is better than the median, as it has to be.
    assert [c.met for c in criteria([CELL] * 4 + [worse])][:2] == [False, True]
    assert [c.met for c in criteria([CELL] * 3 + [worse])][1] is False


def test_what_diverges_is_worse_than_all_that_does_not() -> None:
    lost = replace(CELL, learner=math.inf)
    assert lost.compare(lost.learner, 5.0) == 1
    assert [c.met for c in criteria([lost] * 6)] == [False, False, False, True]
    assert cell_table("", "mada", [lost]).rows[0][3] == "diverged"
    all_lost = replace(lost, members={"adam": math.inf}, others={"rates × 3": math.inf})
    assert [c.met for c in criteria([all_lost])] == [True, False, True]
    worse = replace(CELL, others={**CELL.others, "rates × 3": math.inf})
    assert criteria([worse])[3].met is False


def test_nothing_is_decided_while_losses_are_missing() -> None:
    for missing in (
        replace(CELL, noise=math.nan),
        replace(CELL, members={**CELL.members, "adam": math.nan}),
    ):
        assert missing.best == "adan"
        assert {c.met for c in criteria([CELL, missing])} == {None}


def test_members_start_where_the_learner_does() -> None:
    study, cell = StartsStudy(), Cell(rate=3, beta1=0.5, beta2=0.6)
    started = {
        m.contestant.label: study.started("cnn", cell, m.contestant, m.betas).hypers
        for m in MEMBERS
    }  # fmt: skip
    rate = pytest.approx(9e-3)
    assert started["adam"] == {
        "lr": rate, "beta1": 0.5, "beta2": 0.6, "eps": 1e-6, "weight_decay": 0,
    }  # fmt: skip
    assert (started["adan"]["beta1"], started["adan"]["beta3"]) == (0.5, 0.6)
    assert started["lion"] == {"lr": pytest.approx(9e-4), "weight_decay": 0}
    for rule, names in (
        ("sgd", {"lr"}),
        ("torch.optim:SGD", {"lr"}),
        ("adamax", {"lr", "beta1", "beta2"}),
    ):
        chosen = Contestant(label="", rule=rule)
        assert set(study.started("cnn", cell, chosen, ("beta1", "beta2")).hypers) == names


def simulated(study: TrainingStudy, loss: Callable[[Training], float]) -> tuple[Chapter, Results]:
    """Returns what a study says about made-up losses, and the results of all its runs."""
    known = Results()
    while True:
        new = [run for run in study.runs(known) if run not in known]
        if not new:
            return study.chapter(known), known
        for run in new:
            assert isinstance(run, Training)
            assert all(key in {r.key for r in known} for key in run.needs)
            numbers = {"validation": loss(run), "train": 1.0, "seconds": 1.0}
            series = {"step": (1.0, 2.0), "validation": (2.0, loss(run)), "train": (2.0, 1.0)}
            series |= {"seconds": (0.5, 1.0), "coefficient/rho": (1.0, 0.5)}
            known.add(Result(run.key, {}, Status.FINISHED, Outcome(numbers, series)))


def test_a_learner_that_holds_up_is_told_from_one_that_does_not() -> None:
    def loss(run: Training) -> float:  # high for long labels, such as that of the second learner
        if run.contestant.label.startswith("mada") and run.contestant.learn and not run.control:
            return 0.5
        return 0.6 + 0.01 * len(run.contestant.label)

    cells = tuple(Cell(rate=1, beta1=beta, beta2=0.9) for beta in (0.1, 0.2, 0.3, 0.4, 0.5, 0.6))
    study = StartsStudy.quick().model_copy(update={"cells": cells})
    chapter, known = simulated(study, loss)
    mada, sign = chapter.claims
    assert mada.verdict is Verdict.HOLDS
    assert sign.verdict is Verdict.NOT_HERE
    # In each cell: four members and the noise of one, and for each of two learners itself, its
    # noise, two controls and two other rates.  Lion has no betas of the cell, and runs once.
    assert len(list(known)) == 6 * (5 + 2 * 6) + 1
    mada.charts[0].draw(Figure())


@pytest.mark.parametrize("cls", [EvolutionStudy, RobustnessStudy, WorkloadsStudy])
def test_learners_have_all_their_controls(cls: type[TrainingStudy]) -> None:
    study = cls.quick().model_copy(update={"tasks": ("mlp",), "seeds": 1})
    runs: list[Training] = []

    def loss(run: Training) -> float:
        runs.append(run)
        return 1.0

    chapter, _ = simulated(study, loss)
    ours = [r for r in runs if r.contestant.label == "mada"]
    learned = {r.key: r for r in ours if r.contestant.learn is not False and r.control is None}
    for run in ours:
        if run.control is not None:
            parent = learned[run.control.of]
            assert run.model_copy(update={"control": None}) == parent
            assert run.steps == parent.steps
    assert {r.control.kind for r in ours if r.control is not None} == set(CONTROLS) - {"start"}
    assert any(r.contestant.learn is False for r in ours)
    if cls is WorkloadsStudy:
        assert {r.steps for r in ours} == {LONGER * study.steps("mlp")}
        return
    table = chapter.claims[0].tables[-1]
    assert [row[0] for row in table.rows][1:3] == ["fixed at the start", "fixed at the end"]
    assert len(table.rows) == 6


def test_a_miss_of_a_target_is_marked() -> None:
    def loss(run: Training) -> float:
        learns = run.contestant.learn is not False and run.control is None
        return 0.6 if run.contestant.label == "mada" and learns else 0.5

    study = WorkloadsStudy.quick().model_copy(update={"tasks": ("mlp",), "seeds": 1})
    chapter, _ = simulated(study, loss)
    (table,) = chapter.claims[0].tables
    assert "* where a run missed its target" in table.caption
    marked = {str(row[0]) for row in table.rows if str(row[-1]).endswith(" *")}
    assert marked == {"mada"}
