"""Several seeds, and the search for learning rates."""

import io
import json
import statistics

import pytest
from rich.console import Console

from optdsl.training import Status, TrainingError, compare
from optdsl.training.tuning import MULTIPLIERS

from .fakes import Learner, Make, load, losses, rows


def test_each_seed_is_a_comparison_of_its_own(make: Make) -> None:
    both = compare(make("adam", "noisy", seed=3, seeds=2), load=load)
    alone = [compare(make("adam", "noisy", seed=seed), load=load) for seed in (3, 4)]
    assert [(run.optimizer, run.seed) for run in both.runs] == [
        ("adam", 3),
        ("adam", 4),
        ("noisy", 3),
        ("noisy", 4),
    ]
    one, other = (losses(comparison) for comparison in alone)
    assert losses(both) == [one[0], other[0], one[1], other[1]]


def test_the_log_has_the_seed_of_every_row(make: Make) -> None:
    comparison = compare(make("sgd", "learner", seeds=2), load=load)
    keys = {(row["optimizer"], int(row["seed"]), int(row["step"])) for row in rows(comparison)}
    wanted = {(n, s, t) for n in ("sgd", "learner") for s in (0, 1) for t in range(1, 7)}
    assert keys == wanted
    assert len(rows(comparison)) == len(wanted)


def test_table_and_summary_have_mean_and_deviation(make: Make) -> None:
    console = Console(file=io.StringIO(), width=120)
    comparison = compare(make("learner", seeds=3), console, load=load)
    final = [run.final_validation_loss or 0.0 for run in comparison.runs]
    mean, deviation = statistics.mean(final), statistics.stdev(final)
    assert deviation > 0
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"{mean:.3f} ± {deviation:.3f} *" in output
    assert "seeds 0 to 2" in output
    assert "learner  seed 2  run 3 of 3  step 6/6" in output
    summary = json.loads(comparison.summary.read_text())
    assert summary["optimizers"][0]["validation_loss"] == pytest.approx(
        {"mean": mean, "deviation": deviation}
    )
    assert [run["seed"] for run in summary["runs"]] == [0, 1, 2]


def test_an_optimizer_that_diverged_with_one_seed_has_no_mean(make: Make) -> None:
    class Unlucky(Learner):
        built = 0

        def __init__(self, params: object, lr: float = 1e-3) -> None:
            super().__init__(params, lr)  # type: ignore[arg-type]
            Unlucky.built += 1
            if Unlucky.built == 3:  # one for the trial, and the second seed
                self.param_groups[0]["lr"] = float("inf")

    comparison = compare(make("x", seeds=3), load=lambda _: Unlucky)
    (entry,) = comparison.entries
    assert [run.status for run in entry.runs].count(Status.DIVERGED) == 1
    assert entry.validation_loss is None
    assert entry.outcome.startswith("seed 1 diverged at step")
    assert comparison.best is None


def test_an_interrupt_leaves_every_optimizer_with_the_earlier_seeds(make: Make) -> None:
    class Impatient(Learner):
        built = 0

        def step(self, closure: object = None) -> None:  # type: ignore[override]
            if Impatient.built == 3:
                raise KeyboardInterrupt
            super().step()

        def __init__(self, params: object, lr: float = 1e-3) -> None:
            super().__init__(params, lr)  # type: ignore[arg-type]
            Impatient.built += 1

    classes = {"sgd": load("sgd"), "x": Impatient}
    comparison = compare(make("sgd", "x", seeds=3), load=classes.__getitem__)
    assert [[run.status.value for run in entry.runs] for entry in comparison.entries] == [
        ["finished", "finished", "not started"],
        ["finished", "interrupted", "not started"],
    ]
    assert comparison.entries[1].validation_loss is not None


def test_the_search_is_the_same_for_everyone_and_takes_the_best(make: Make) -> None:
    taken: dict[str, int] = {"one": 0, "two": 0}

    def counting(name: str) -> type[Learner]:
        class Counting(Learner):
            def step(self, closure: object = None) -> None:  # type: ignore[override]
                taken[name] += 1
                super().step()

        return Counting

    console = Console(file=io.StringIO(), width=200)
    overrides = {"two": {"lr": 4e-3}}
    config = make("one", "two", steps=20, seeds=2, tuned=True, overrides=overrides)
    comparison = compare(config, console, load=counting)
    output = console.file.getvalue()  # type: ignore[attr-defined]
    summary = json.loads(comparison.summary.read_text())
    assert [len(told["search"]) for told in summary["optimizers"]] == [5, 5]
    assert "the best of 0.1, 0.3, 1, 3, 10 times the default after 4 steps each" in output
    assert taken == dict.fromkeys(taken, 2 + 5 * 4 + 2 * 20)  # the trial, the search, the seeds
    for entry, centre in zip(comparison.entries, (1e-3, 4e-3), strict=True):
        trials = comparison.searches[entry.optimizer]
        rates = [trial.learning_rate for trial in trials]
        assert rates == [multiplier * centre for multiplier in MULTIPLIERS]
        # Each is what a comparison of its own gives, with the seed after the last.
        for trial in trials:
            short = make("x", steps=4, seed=2, overrides={"x": {"lr": trial.learning_rate}})
            assert (
                trial.validation_loss
                == compare(short, load=lambda _: Learner).runs[0].final_validation_loss
            )
        best = min(trials, key=lambda trial: trial.validation_loss or 0.0)
        assert entry.setup.learning_rate == best.learning_rate
        assert entry.setup.origin == "tuned"
        peaks = [max(record.learning_rate for record in run.records) for run in entry.runs]
        assert peaks == [best.learning_rate] * 2
        assert f"{best.learning_rate:.4g} (tuned)" in output


def test_rates_that_an_optimizer_refuses_or_diverges_with_are_not_taken(make: Make) -> None:
    class Narrow(Learner):
        def __init__(self, params: object, lr: float = 0.1) -> None:
            if lr > 0.5:
                raise ValueError("lr must be at most 0.5")
            super().__init__(params, lr)  # type: ignore[arg-type]

    console = Console(file=io.StringIO(), width=200)
    comparison = compare(make("x", "exploding", steps=25, tuned=True), console,
                         load=lambda name: Narrow if name == "x" else load(name))  # fmt: skip
    narrow, exploding = (comparison.searches[name] for name in ("x", "exploding"))
    assert [trial.validation_loss is None for trial in narrow] == [False, False, False, False, True]
    assert comparison.entries[0].setup.learning_rate <= 0.5
    # Its fifth step is the last of a short run, and what it leaves behind is not finite.
    assert [trial.validation_loss for trial in exploding] == [None] * 5
    assert comparison.entries[1].setup.learning_rate == 1e-3
    assert comparison.entries[1].setup.origin == "file"
    output = console.file.getvalue()  # type: ignore[attr-defined]
    assert "none works, and it keeps its rate" in output


def test_a_search_around_zero_is_refused(make: Make) -> None:
    config = make("sgd", tuned=True, overrides={"sgd": {"lr": 0.0}})
    with pytest.raises(TrainingError, match=r"the learning rate of optimizer 'sgd' is 0"):
        compare(config, load=load)
    assert not config.out.exists()
