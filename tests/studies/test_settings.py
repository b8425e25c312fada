"""Wrong settings of a study are told in one line, with the place and with what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from optdsl.cli import main
from optdsl.studies.catalog import STUDIES
from optdsl.studies.catalog.comparison import TrainingStudy
from optdsl.studies.catalog.evolution import EvolutionStudy
from optdsl.studies.catalog.losses import LanguageStudy
from optdsl.studies.catalog.starts import Cell, StartsStudy
from optdsl.studies.catalog.workloads import WorkloadsStudy
from optdsl.studies.errors import StudyError
from optdsl.studies.frame.files import read_study
from optdsl.studies.frame.values import Results
from optdsl.studies.runs.optimizers import Contestant, Learned
from optdsl.studies.runs.training import Training

from .test_starts import simulated

STARTS = "study: starts\n"
FIXED = Contestant(label="mada, fixed", rule="mada", learn=False)
PLAIN = Contestant(label="adam", rule="adam")


def one(text: str) -> str:
    """A study of one optimizer, whose settings begin in the third line."""
    return f"study: evolution\ncontestants:\n- label: mine\n{text}"


def cell(text: str) -> str:
    """A study with a second cell, in the fourth line."""
    first = "{rate: 1, beta1: 0.9, beta2: 0.95}"
    return f"{STARTS}cells:\n- {first}\n- {text}\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (STARTS + "tasks: [mlpp]\n", "line 2, tasks.0: there is no task 'mlpp': did you mean"),
        (STARTS + "tasks: []\n", "line 2, tasks: there must be at least one"),
        (STARTS + "tasks: [mlp, cnn, mlp]\n", "line 2, tasks.2: 'mlp' stands here again"),
        (STARTS + "scale: 0\n", "line 2, scale: should be greater than 0"),
        (STARTS + "scale: .nan\n", "line 2, scale: should be a finite number"),
        (STARTS + "multipliers: [1, -0.1]\n", "line 2, multipliers.1: should be greater than 0"),
        (STARTS + "factors: [0.0]\n", "line 2, factors.0: should be greater than 0"),
        (STARTS + "factors:\n- 3\n- -3\n", "line 4, factors.1: should be greater than 0"),
        (cell("{rate: .nan, beta1: 0, beta2: 0}"), "line 4, cells.1.rate: should be a finite"),
        (cell("{rate: .inf, beta1: 0, beta2: 0}"), "line 4, cells.1.rate: should be a finite"),
        (cell("{rate: -1, beta1: 0, beta2: 0}"), "line 4, cells.1.rate: should be greater than 0"),
        (cell("{rate: 1, beta1: 1.5, beta2: 0}"), "line 4, cells.1.beta1: should be less than 1"),
        (cell("{rate: 1, beta1: 0}"), "line 4, cells.1.beta2: Field required"),
        (
            cell("{rate: 1.0, beta1: 0.9, beta2: 0.95}"),
            "line 4, cells.1: '1 × lr, β1 0.9, β2 0.95' stands here again; each must be there once",
        ),
        (
            STARTS
            + "contestants: [{label: a, rule: adamw, learn: {beta1: {bounds: [0, 0.8]}}}]\n"
            + "cells: [{rate: 1, beta1: 0.9, beta2: 0.9}]\n",
            "line 3, cells.0: a: AdamW: beta1 = 0.9 is out of bounds, it is learned in [0, 0.8]",
        ),
        (
            f"{STARTS}members:\n- contestant: {{label: a, rule: adan}}\n  betas: [beta1, betta3]\n",
            "line 4, members.0.betas.1: a has no hyperparameter 'betta3': did you mean `beta3`?",
        ),
        (one("  rule: madda\n"), "line 4, contestants.0.rule: no spec is named 'madda': did you"),
        (
            one("  rule: adamw with directon\n"),
            "line 4, contestants.0.rule: unknown modifier `directon`: did you mean `direction`?",
        ),
        (one("  rule: none.opt\n"), "line 4, contestants.0.rule: cannot read 'none.opt': No such"),
        (one("  rule: no.package:Rule\n"), "should be MODULE:CLASS of a package that is installed"),
        (
            one("  rule: mada\n  hypers:\n    lr: 0.1\n    betta1: 0.9\n"),
            "line 7, contestants.0.hypers.betta1: MADA has no hyperparameter 'betta1': did you",
        ),
        (
            one("  rule: mada\n  hypers: {beta1: 1.5}\n"),
            "line 5, contestants.0.hypers.beta1: MADA: beta1 = 1.5 is out of bounds, it must lie in"
            " [0, 1)",
        ),
        (
            one("  rule: adaptivity\n  hypers: {w_sgd: 1}\n"),
            "line 5, contestants.0.hypers: Adaptivity: the weights w_sgd = 1,",
        ),
        (
            one("  rule: mada\n  learn:\n    rho: {}\n    rhoo: {}\n"),
            "line 7, contestants.0.learn.rhoo: MADA has no hyperparameter 'rhoo' to learn: did you",
        ),
        (
            one("  rule: mada\n  learn:\n    rho:\n      rule: 3\n"),
            "line 7, contestants.0.learn.rho.rule: should be a valid string",
        ),
        (
            one("  rule: mada\n  learn: {rho: {rule: sgdd}}\n"),
            "line 5, contestants.0.learn.rho: Learn: no rule is called 'sgdd': did you mean `sgd`?",
        ),
        (one("  rule: mada\n  scale: .nan\n"), "line 5, contestants.0.scale: should be a finite"),
        (one("  rule: mada\n  centre: -1\n"), "line 5, contestants.0.centre: should be a finite"),
        (
            one("  rule: mada\n- label: mine\n  rule: adam\n"),
            "line 5, contestants.1: the label 'mine' stands here again; each must be there once",
        ),
        (
            "study: vision\ncontestants:\n- {label: adamw, rule: adamw}\n",
            "line 3, contestants.0.label: the label 'adamw' is that of AdamW itself",
        ),
        ("study: robustness\nbeta1s: [0.5, 1.0]\n", "line 2, beta1s.1: should be less than 1"),
        ("study: robustness\nrate: -1\n", "line 2, rate: should be greater than 0"),
        (
            "study: robustness\ncontestants: [{label: a, rule: sgd}]\n",
            "line 2, contestants.0: a: SGD has no hyperparameter 'beta1'",
        ),
    ],
)
def test_a_wrong_setting_is_told_with_its_place(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(StudyError) as caught:
        read_study(path, STUDIES)
    message = str(caught.value)
    assert message.startswith(f"{path}, line ")
    assert told in message
    assert "\n" not in message
    assert len(re.findall(r"\bline \d+", message)) == 1


def test_the_command_tells_it_and_ends_with_two(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(one("  rule: madda\n"), encoding="utf-8")
    assert main(["study", str(path), "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def uncontrolled(run: Training) -> float:
    """A loss of a run that is no control."""
    assert run.control is None
    return float(run.seed)


@pytest.mark.parametrize("learner", [FIXED, PLAIN], ids=lambda x: x.label)
def test_what_learns_nothing_has_no_controls(learner: Contestant) -> None:
    starts = StartsStudy(
        tasks=("mlp",), cells=(Cell(rate=1, beta1=0.9, beta2=0.9),), contestants=(learner,)
    )
    (cell,) = starts.cells
    assert starts.cell_runs(Results(), "mlp", cell, learner).others == {}
    studies: list[TrainingStudy] = [
        starts,
        EvolutionStudy(tasks=("mlp",), contestants=(learner,)),
        LanguageStudy(contestants=(learner,), learners=(learner.label,)),
        WorkloadsStudy(tasks=("mlp", "cnn"), contestants=(learner,), learner=learner.label),
    ]
    for study in studies:
        chapter, _ = simulated(study, uncontrolled)
        assert all(claim.criteria or not claim.judged for claim in chapter.claims)
        assert not any("walk" in c.text for claim in chapter.claims for c in claim.criteria)


def test_what_a_study_sets_may_be_out_of_bounds_by_default() -> None:
    """In a study of starts, beta1 is that of the cell."""
    how = {"beta1": Learned(hypers={"lr": 1e-2}, bounds=(0.0, 0.8))}
    narrow = Contestant(label="narrow", rule="adamw", learn=how)
    cells = (Cell(rate=1, beta1=0.5, beta2=0.9),)
    assert StartsStudy(cells=cells, contestants=(narrow,)).contestants == (narrow,)
