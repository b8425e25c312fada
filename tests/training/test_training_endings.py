"""Comparisons that end early, go wrong, or are asked for what cannot be."""

import io
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from rich.console import Console

import optdsl
from optdsl.training import (
    Record,
    Run,
    Status,
    TrainingConfig,
    TrainingError,
    compare,
    figure,
)
from optdsl.training.loop import learning_rate_factor, schedule_in_words
from optdsl.training.progress import Lines

from .fakes import Learner, Make, load, rows


def test_an_interrupt_keeps_what_was_trained(
    make: Make, quick_figure: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figure, "draw", quick_figure)
    console = Console(file=io.StringIO(), width=80)
    comparison = compare(make("sgd", "interrupting", "learner", "adam"), console, load=load)
    assert comparison.interrupted
    assert [run.outcome for run in comparison.runs] == [
        "finished",
        "interrupted at step 3",
        "not started",
        "not started",
    ]
    assert [row["step"] for row in rows(comparison)] == [*"123456", *"123"]
    assert comparison.best is comparison.entries[0]
    with Image.open(comparison.figures[0]) as image:
        image.load()
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "(interrupted)" in output
    assert "not started" in output
    assert json.loads(comparison.summary.read_text())["interrupted"] is True


def test_an_interrupt_in_the_first_step_is_reported_too(make: Make) -> None:
    class Immediate(Learner):
        trials = 0

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            Immediate.trials += 1
            if Immediate.trials > 2:  # the two trial steps pass
                raise KeyboardInterrupt

    comparison = compare(make("x"), load=lambda _: Immediate)
    assert comparison.interrupted
    assert comparison.best is None
    assert rows(comparison) == []
    assert all(path.is_file() for path in comparison.figures)


def test_the_log_is_on_disk_after_every_step(make: Make) -> None:
    config = make("x")
    lines: list[int] = []

    class Reading(Learner):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            super().step()
            if (config.out / "training.csv").exists():
                lines.append(len((config.out / "training.csv").read_text().splitlines()))

    compare(config, load=lambda _: Reading)
    assert lines == [1, 2, 3, 4, 5, 6]


def test_a_diverging_optimizer_stops_and_the_others_go_on(make: Make) -> None:
    comparison = compare(make("exploding", "learner", steps=9, evaluate_every=9), load=load)
    exploding, learner = comparison.runs
    assert exploding.outcome == "diverged at step 6"
    assert len(exploding.records) == 6
    assert not math.isfinite(exploding.records[-1].train_loss)
    assert exploding.final_validation_loss is None
    assert exploding.final_train_loss is None
    assert learner.status is Status.FINISHED
    assert comparison.best is comparison.entries[1]
    assert not comparison.interrupted
    assert len(rows(comparison)) == 6 + 9
    assert json.loads(comparison.summary.read_text(), parse_constant=pytest.fail)


def test_divergence_in_the_last_step_is_noticed(make: Make) -> None:
    comparison = compare(make("exploding", steps=5), load=load)
    assert comparison.runs[0].outcome == "diverged at step 5"


def test_names_overrides_and_paths(make: Make, tmp_path: Path) -> None:
    overrides = {"other": {"rho": 1.0}, "sgd": {"lr": 0.5}}
    config = make("dir/other.opt", "sgd", overrides=overrides)
    comparison = compare(config, load=load)
    other, sgd = comparison.runs
    assert other.optimizer == "other"
    assert other.records[0].metrics["rho"] == pytest.approx(0.9)
    assert max(record.learning_rate for record in sgd.records) == 0.5
    assert {row["optimizer"] for row in rows(comparison)} == {"other", "sgd"}


def test_every_optimizer_has_its_own_default_learning_rate_unless_it_is_set(make: Make) -> None:
    def peaks(config: TrainingConfig) -> list[tuple[float, str]]:
        comparison = compare(config, load=load)
        for entry in comparison.entries:
            rates = [record.learning_rate for record in entry.runs[0].records]
            assert max(rates) == entry.setup.learning_rate
        return [(entry.setup.learning_rate, entry.setup.origin) for entry in comparison.entries]

    assert peaks(make("sgd", "adam")) == [(1e-3, "file"), (1e-3, "file")]
    overrides = {"adam": {"lr": 0.125}, "learner": {"rho": 1.0}}
    assert peaks(make("adam", "learner", overrides=overrides)) == [(0.125, "set"), (1e-3, "file")]


def test_the_schedule_warms_up_and_ends_at_a_tenth() -> None:
    factor = learning_rate_factor(100)
    rates = [factor(step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert schedule_in_words(20) == "a cosine down to a tenth, without warm-up"
    assert learning_rate_factor(1)(0) == 1.0
    assert learning_rate_factor(1)(1) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("names", "fields", "said"),
    [
        (("sgd", "nosuch"), {}, "cannot load optimizer 'nosuch'"),
        (("learner",), {"overrides": {"learner": {"mass": 2.0}}}, "mass"),
        (("learner",), {"overrides": {"learner": {"rho": 1.5}}}, "rho must be in [0, 1], not 1.5"),
        (("sgd", "broken"), {}, "'broken' fails in a trial step: the state"),
        (("rateless",), {}, "no hyperparameter 'lr'"),
        (("sgd",), {"text": "no/such/file"}, "no/such/file"),
        (("sgd",), {"block": 10_000}, "at least 100010"),
    ],
)
def test_mistakes_are_found_before_training(
    make: Make, names: tuple[str, ...], fields: dict[str, object], said: str
) -> None:
    config = make(*names, **fields)
    with pytest.raises(TrainingError) as caught:
        compare(config, load=load)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not config.out.exists()


def test_a_mistake_in_a_file_is_shown_whole(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "mine.opt"
    path.write_text("optimizer Mine\nhyper lr = 0.1 in [0, inf)\ntheta' = theta - lr * gg\n")
    with pytest.raises(optdsl.SpecError) as wrong:
        optdsl.load(str(path))
    with pytest.raises(TrainingError) as caught:
        compare(make(str(path)), load=optdsl.load)
    assert str(caught.value) == f"cannot load this optimizer:\n{wrong.value}"


def test_an_output_directory_that_cannot_be_used(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    (tmp_path / "taken" / "training.csv").mkdir(parents=True)
    for out, said in {
        "file": "is a file",
        "file/below": "cannot write",
        "taken": "training.csv",
    }.items():
        with pytest.raises(TrainingError) as caught:
            compare(make("sgd", out=tmp_path / out), load=load)
        assert said in str(caught.value)
        assert str(tmp_path / out) in str(caught.value)
    assert (tmp_path / "file").read_text() == "precious"


def test_older_results_do_not_outlive_the_start_of_a_comparison(make: Make) -> None:
    config = make("x")
    config.out.mkdir()
    stale = [config.out / f"training.{suffix}" for suffix in ("png", "svg", "pdf")]
    stale.append(config.out / "summary.json")
    for path in stale:
        path.write_text("old")
    left: list[bool] = []

    class Looking(Learner):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            super().step()
            left.extend(path.exists() for path in stale)

    compare(config, load=lambda _: Looking)
    assert left[:8] == [True] * 8  # the trial steps
    assert not any(left[8:])
    assert {path.name for path in config.out.iterdir()} == {
        "training.csv",
        "training.png",
        "training.svg",
        "training.pdf",
        "summary.json",
        "report.html",
    }


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_and_table_on_a_console(make: Make, terminal: bool) -> None:
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=terminal)
    compare(make("sgd", "exploding", "learner"), console, load=load)
    output = file.getvalue()
    assert "diverged at step 6" in output
    assert "rho=0.2657" in output
    assert ("\x1b[" in output) == terminal
    assert ("all runs  " in output) == terminal
    assert not terminal or "18/18" in output
    if not terminal:
        assert "learner    run 3 of 3  step 6/6  loss " in output
        assert " tokens/s  0 s left, about 0 s for all runs\n" in output


def test_progress_tells_the_time_left_of_the_run_and_of_all_runs(make: Make) -> None:
    """The second of three runs is twice as slow; the third is expected to be as those before."""
    file = io.StringIO()
    lines = Lines(Console(file=file, width=200), make("sgd", "learner", "exploding", steps=10))

    def record(step: int, pace: float) -> Record:
        return Record(step, 1.0, None, 0.1, 1.0, pace * step, {})

    lines.advance("sgd", 0, record(10, 1.0))
    lines.finish(Run("sgd", Status.FINISHED))
    lines.advance("learner", 0, record(5, 2.0))
    first, second = file.getvalue().splitlines()
    assert first.endswith("  0 s left, about 20 s for all runs")
    # 10 s for the 5 steps to come, and 10 steps at 20 s for 15 steps.
    assert second.endswith("  10 s left, about 23 s for all runs")
