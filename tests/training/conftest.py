"""What the tests of comparisons share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from optdsl.training import (
    TrainingConfig,
    configure,
    engine,
    figure,
)

from .fakes import TEXT, Make


@pytest.fixture(autouse=True)
def quick_figure(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Spares the tests that do not look at the figure the time of drawing it.

    Returns what draws it in earnest.
    """
    draw = figure.draw
    monkeypatch.setattr(figure, "draw", lambda _, path: path.write_bytes(b"figure"))
    monkeypatch.setattr(engine, "write_page", lambda _, path: path.write_text("page"))
    return draw


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
