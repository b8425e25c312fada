"""Comparisons from start to end, with small optimizers in place of compiled ones."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rich.console import Console
from torch.optim import SGD, Adam, Optimizer

from optdsl.training import (
    Comparison,
    Status,
    TrainingConfig,
    TrainingError,
    candidates as candidates_module,
    compare,
    configure,
    figure,
)
from optdsl.training.candidates import load_candidates
from optdsl.training.loop import learning_rate_factor, validation_loss
from optdsl.training.model import build_model, window_loss
from optdsl.training.text import load_corpus, spaced_windows

TEXT = "".join(f"{i} times {i + 1} is {i * (i + 1)}; the end of line {i}.\n" for i in range(300))


class Learner(Optimizer):
    """Descends along the sign of the gradient and pretends to learn a coefficient, rho."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, rho: float = 0.5) -> None:
        if not 0 <= rho <= 1:
            raise ValueError(f"rho must be in [0, 1], not {rho}")
        super().__init__(params, {"lr": lr, "rho": rho})
        self.steps = 0

    def metrics(self) -> dict[str, float]:
        known = {"rho": float(self.param_groups[0]["rho"])}
        # Like a real hyper-gradient, this one exists only after a step.
        return known | ({"hypergradient/rho": 0.25} if self.steps else {})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.steps += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())
            group["rho"] *= 0.9


class Noisy(Learner):
    """Draws from the global generator."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(1e-3 * torch.randn_like(parameter))


class Exploding(Learner):
    """Makes the parameters infinite in its fifth step."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        if self.steps == 5:
            for parameter in self.param_groups[0]["params"]:
                parameter.fill_(math.inf)


class Interrupting(Learner):
    """Stands for a user who stops the program in the optimizer's fourth step."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        if self.steps == 4:
            raise KeyboardInterrupt


class Broken(Learner):
    """Fails in its first step."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        raise RuntimeError("the state\nis gone")


class Rateless(Optimizer):
    """Has no learning rate."""

    def __init__(self, params: Iterable[Any]) -> None:
        super().__init__(params, {"rho": 0.5})


CLASSES: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "sgd": SGD,
    "learner": Learner,
    "noisy": Noisy,
    "exploding": Exploding,
    "interrupting": Interrupting,
    "broken": Broken,
    "rateless": Rateless,
    "dir/other.opt": Learner,
}


def load(name: str) -> type[Optimizer]:
    return CLASSES[name]


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Spares the tests that do not look at the figure the time of drawing it.

    Returns what draws it in earnest.
    """
    draw = figure.draw
    monkeypatch.setattr(figure, "draw", lambda _, path: path.write_bytes(b"figure"))
    return draw


Make = Callable[..., TrainingConfig]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    text = tmp_path / "text.txt"
    text.write_text(TEXT)

    def build(*optimizers: str, **fields: object) -> TrainingConfig:
        tiny = {
            "text": text,
            "out": tmp_path / "out",
            "steps": 6,
            "layers": 1,
            "width": 8,
            "heads": 2,
            "block": 8,
            "batch": 4,
            "validation_windows": 10,
            "evaluate_every": 3,
        }
        return configure(**(tiny | {"optimizers": optimizers} | fields))

    return build


def rows(comparison: Comparison) -> list[dict[str, str]]:
    with comparison.csv.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def losses(comparison: Comparison) -> list[list[tuple[float, float | None]]]:
    return [[(r.train_loss, r.validation_loss) for r in run.records] for run in comparison.runs]


def test_the_log_holds_every_step_of_every_optimizer(make: Make) -> None:
    comparison = compare(make("sgd", "learner"), load=load)
    table = rows(comparison)
    assert list(table[0]) == [
        "optimizer",
        "step",
        "train_loss",
        "validation_loss",
        "learning_rate",
        "tokens_per_second",
        "seconds",
        "rho",
        "hypergradient/rho",
    ]
    keys = [(row["optimizer"], int(row["step"])) for row in table]
    assert keys == [(name, step) for name in ("sgd", "learner") for step in range(1, 7)]
    for row in table:
        assert (row["validation_loss"] != "") == (int(row["step"]) in (3, 6))
        assert (row["rho"] != "") == (row["optimizer"] == "learner")
        assert float(row["tokens_per_second"]) > 0
    learner = comparison.runs[1]
    logged = [float(row["train_loss"]) for row in table[6:]]
    assert logged == [record.train_loss for record in learner.records]
    assert float(table[-1]["rho"]) == pytest.approx(0.5 * 0.9**6)
    assert learner.coefficients == pytest.approx({"rho": 0.5 * 0.9**6})
    assert all(run.status is Status.FINISHED for run in comparison.runs)
    assert not comparison.interrupted


def test_the_same_seed_gives_the_same_numbers(make: Make) -> None:
    torch.manual_seed(7)
    first = compare(make("adam", "noisy", "learner"), load=load)
    torch.manual_seed(8)
    again = compare(make("adam", "noisy", "learner"), load=load)
    alone = compare(make("noisy"), load=load)
    other = compare(make("adam", seed=1), load=load)
    assert losses(first) == losses(again)
    assert losses(alone)[0] == losses(first)[1]
    assert losses(other)[0] != losses(first)[0]


def test_the_global_random_state_is_left_as_found(make: Make) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    compare(make("noisy"), load=load)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_optimizer_gets_the_same_weights_and_batches(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[torch.Tensor, list[torch.Tensor]]] = []

    def spy(model: torch.nn.Module, windows: torch.Tensor) -> torch.Tensor:
        if torch.is_grad_enabled():  # a training step
            weights = [parameter.detach().clone() for parameter in model.parameters()]
            seen.append((windows, weights))
        return window_loss(model, windows)

    monkeypatch.setattr("optdsl.training.loop.window_loss", spy)
    compare(make("adam", "learner"), load=load)
    adam, learner = seen[:6], seen[6:]
    assert len(learner) == 6
    for (batch, _), (same, _) in zip(adam, learner, strict=True):
        assert torch.equal(batch, same)
    assert not torch.equal(adam[0][0], adam[1][0])
    assert all(torch.equal(a, b) for a, b in zip(adam[0][1], learner[0][1], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(adam[5][1], learner[5][1], strict=True))


def test_trials_leave_the_parameters_alone(make: Make) -> None:
    config = make("exploding", "learner")
    model = build_model(config, 20)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    (_, learner) = load_candidates(config, load, model.parameters())
    assert learner.metrics == ("rho", "hypergradient/rho")
    for parameter, value in zip(model.parameters(), before, strict=True):
        assert torch.equal(parameter, value)
        assert parameter.grad is None


def test_the_loss_falls_below_the_unigram_entropy(make: Make) -> None:
    config = make(
        "adam",
        steps=150,
        width=32,
        block=16,
        batch=16,
        evaluate_every=50,
        overrides={"adam": {"lr": 1e-2}},
    )
    comparison = compare(config, load=load)
    (run,) = comparison.runs
    assert run.records[0].train_loss == pytest.approx(math.log(comparison.vocabulary), abs=0.3)
    assert run.final_train_loss is not None
    assert run.final_validation_loss is not None
    assert run.final_train_loss < comparison.unigram_entropy - 0.5
    assert run.final_validation_loss < comparison.unigram_entropy - 0.5
    assert comparison.best is run


def test_validation_uses_the_fixed_windows(make: Make) -> None:
    config = make("sgd", steps=1, overrides={"sgd": {"lr": 0.0}})
    comparison = compare(config, load=load)
    assert config.text is not None
    corpus = load_corpus(config.text, config.block)
    windows = spaced_windows(corpus.validation, config.block, config.validation_windows)
    model = build_model(config, len(corpus.vocabulary))
    assert comparison.runs[0].final_validation_loss == validation_loss(model, windows, 4)


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
    assert comparison.best is comparison.runs[0]
    with Image.open(comparison.figure) as image:
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
    assert comparison.figure.is_file()


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
    assert comparison.best is learner
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


def test_the_default_learning_rate_is_used_and_can_be_overridden(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(candidates_module, "DEFAULT_LEARNING_RATES", {"sgd": 0.25})

    def peak(config: TrainingConfig) -> list[float]:
        runs = compare(config, load=load).runs
        return [max(record.learning_rate for record in run.records) for run in runs]

    assert peak(make("sgd", "learner")) == [0.25, 1e-3]
    assert peak(make("sgd", overrides={"sgd": {"lr": 0.125}})) == [0.125]


def test_the_schedule_warms_up_and_ends_at_a_tenth() -> None:
    factor = learning_rate_factor(100)
    rates = [factor(step) for step in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
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
    stale = [config.out / "training.png", config.out / "summary.json"]
    for path in stale:
        path.write_text("old")
    left: list[bool] = []

    class Looking(Learner):
        def step(self, closure: object = None) -> None:  # type: ignore[override]
            super().step()
            left.extend(path.exists() for path in stale)

    compare(config, load=lambda _: Looking)
    assert left[:4] == [True] * 4  # the trial steps
    assert not any(left[4:])
    assert {path.name for path in config.out.iterdir()} == {
        "training.csv",
        "training.png",
        "summary.json",
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
    if not terminal:
        assert "learner    step 6/6  loss " in output
        assert " tokens/s  0 s left\n" in output
