"""Requests: defaults, validation, and settings from the command line."""

import subprocess
import sys

import pytest

from optdsl.training import DEFAULT_OPTIMIZERS, TrainingError, configure, parse_overrides


def test_defaults_name_every_optimizer_of_the_default_run() -> None:
    config = configure()
    assert config.optimizers == DEFAULT_OPTIMIZERS
    assert config.labels == DEFAULT_OPTIMIZERS
    assert config.evaluation_interval == config.steps // 20


def test_a_path_is_labelled_by_its_stem() -> None:
    assert configure(optimizers=("adam", "some/dir/mine.v2.opt")).labels == ("adam", "mine.v2")


def test_evaluation_interval_of_a_short_run_is_positive() -> None:
    assert configure(steps=3).evaluation_interval == 1
    assert configure(steps=100, evaluate_every=7).evaluation_interval == 7


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"steps": 0}, "steps"),
        ({"steps": "many"}, "steps"),
        ({"seed": -1}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"optimizers": ()}, "optimizers"),
        ({"optimizers": ("adam", "")}, "empty"),
        ({"optimizers": ("adam", "adam")}, "'adam' is listed twice"),
        ({"optimizers": ("adam", "x/adam.opt")}, "'adam' is listed twice"),
        ({"optimizers": ("adam",), "overrides": {"lion": {"lr": 1.0}}}, "'lion'"),
        ({"overrides": {"adam": {"lr": float("inf")}}}, "overrides.adam.lr"),
        ({"width": 30, "heads": 4}, "multiple of 4 heads"),
        ({"stepps": 5}, "stepps"),
    ],
)
def test_an_invalid_request_is_one_clear_line(fields: dict[str, object], said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        configure(**fields)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        configure().steps = 7


def test_settings_are_grouped_by_optimizer_and_the_last_one_wins() -> None:
    settings = ["lion.lr=3e-4", "adam.beta1=0.8", "lion.lr=1e-3", "my.v2.rho = 0.5"]
    assert parse_overrides(settings) == {
        "lion": {"lr": 1e-3},
        "adam": {"beta1": 0.8},
        "my.v2": {"rho": 0.5},
    }


@pytest.mark.parametrize(
    "setting",
    ["lr=1", "lion.lr", "lion.=1", ".lr=1", "lion.lr=", "lion.lr=big", "lion.lr=nan", "", "="],
)
def test_a_malformed_setting_is_quoted(setting: str) -> None:
    with pytest.raises(TrainingError) as caught:
        parse_overrides([setting])
    assert f"'{setting}'" in str(caught.value)


def test_the_request_can_be_built_without_heavy_imports() -> None:
    code = (
        "import sys, optdsl.training.config as c; c.TrainingConfig();"
        "print({'matplotlib', 'rich'} & set(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"
