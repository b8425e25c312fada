"""Comparisons from start to end, with small optimizers in place of compiled ones."""

import math

import pytest
import torch

import optdsl
from optdsl.training import (
    Status,
    compare,
)
from optdsl.training.candidates import load_candidates
from optdsl.training.loop import validation_loss
from optdsl.training.model import build_model, window_loss
from optdsl.training.text import load_corpus, spaced_windows

from .fakes import Make, load, losses, rows


def test_the_log_holds_every_step_of_every_optimizer(make: Make) -> None:
    comparison = compare(make("sgd", "learner"), load=load)
    table = rows(comparison)
    assert list(table[0]) == [
        "optimizer",
        "seed",
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
    assert {row["seed"] for row in table} == {"0"}
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


def test_models_are_evaluated_where_the_rule_says(make: Make) -> None:
    """Averages of weights change validation losses, and no step."""
    rules = {"plain": "adamw", "averaged": "adamw with ema_weights(beta = 0.9)"}
    comparison = compare(make(*rules), load=lambda name: optdsl.load(rules[name]))
    plain, averaged = (run.records for run in comparison.runs)
    assert [r.train_loss for r in plain] == [r.train_loss for r in averaged]
    for one, other in zip(plain, averaged, strict=True):
        assert one.validation_loss is None or one.validation_loss != other.validation_loss


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

    monkeypatch.setattr("optdsl.training.tasks.texts.window_loss", spy)
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
    (entry,) = comparison.entries
    assert comparison.ceiling == math.log(comparison.vocabulary or 0)
    assert run.records[0].train_loss == pytest.approx(comparison.ceiling, abs=0.3)
    assert comparison.unigram_entropy is not None
    assert run.final_train_loss is not None
    assert run.final_validation_loss is not None
    assert run.final_train_loss < comparison.unigram_entropy - 0.5
    assert run.final_validation_loss < comparison.unigram_entropy - 0.5
    assert comparison.best is entry


def test_validation_uses_the_fixed_windows(make: Make) -> None:
    config = make("sgd", steps=1, overrides={"sgd": {"lr": 0.0}})
    comparison = compare(config, load=load)
    assert config.text is not None
    corpus = load_corpus(config.text, config.block)
    windows = spaced_windows(corpus.validation, config.block, config.validation_windows)
    model = build_model(config, len(corpus.vocabulary))
    assert comparison.runs[0].final_validation_loss == validation_loss(model, windows, 4)
