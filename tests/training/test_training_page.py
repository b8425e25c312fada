"""The page of a comparison."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from optdsl.training import TrainingError, compare
from optdsl.training.page import write_page

from .fakes import Make, load


def test_a_comparison_has_a_page(make: Make) -> None:
    config = make("adam", "learner", "exploding", overrides={"adam": {"lr": 0.01}}, seeds=2)
    comparison = compare(config, load=load)
    path = config.out / "report.html"
    assert path.read_text() == "page"  # of the fixture, which spares other tests the time
    write_page(comparison, path)
    text = path.read_text(encoding="utf-8")
    assert text.count("<figure") == 2
    assert "<script" not in text
    assert "exploding, seed 0: diverged at step" in text
    assert "adam.lr=0.01" in text
    assert "learner: rho" in text
    assert (config.out / "figures" / "losses.svg").is_file()


def test_a_comparison_can_be_logged_for_tensorboard(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[str, str, float, int]] = []

    class SummaryWriter:
        def __init__(self, directory: str) -> None:
            self.name = Path(directory).name

        def add_scalar(self, tag: str, value: float, step: int) -> None:
            seen.append((self.name, tag, value, step))

        def close(self) -> None:
            seen.append((self.name, "closed", 0.0, 0))

    module = ModuleType("torch.utils.tensorboard")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    with pytest.raises(TrainingError, match="pip install tensorboard"):
        compare(make("learner", tensorboard=True), load=load)
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    comparison = compare(make("learner", tensorboard=True), load=load)
    (run,) = comparison.runs
    losses = [(value, step) for _, tag, value, step in seen if tag == "loss/train"]
    assert losses == [(record.train_loss, record.step) for record in run.records]
    validation = [value for _, tag, value, _ in seen if tag == "loss/validation"]
    assert validation[-1] == run.final_validation_loss
    assert {name for name, *_ in seen} == {"learner-seed0"}
    assert {"optimizer/rho", "optimizer/hypergradient/rho", "closed"} <= {s[1] for s in seen}
