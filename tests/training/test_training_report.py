"""Tables, figures and files made from given results."""

import io
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from optdsl.training import Comparison, Entry, Record, Run, Setup, Status, TrainingError, configure
from optdsl.training.curves import moving_mean
from optdsl.training.figure import DPI, LINE_HEIGHT, draw
from optdsl.training.log import COLUMNS, CsvLog, write_atomically
from optdsl.training.report import table
from optdsl.training.results import is_coefficient

LEGACY = ("beta1", "beta2", "beta3", "rho", "c", "gamma")
LEARNED = {f"{name}": 0.1234567 for name in LEGACY} | {f"hypergradient/{n}": 9.0 for n in LEGACY}


def test_a_coefficient_of_groups_or_tensors_is_one() -> None:
    names = ["rho", "rho/0", "lr/mean", "hypergradient/rho", "hypergradient/rho/0"]
    assert [is_coefficient(name) for name in names] == [True, True, True, False, False]


def make_run(
    name: str,
    level: float,
    metrics: dict[str, float] | None = None,
    status: Status = Status.FINISHED,
    steps: int = 60,
) -> Run:
    records = []
    for step in range(1, steps + 1):
        loss = level + 3 * math.exp(-step / 10)
        evaluated = loss + 0.1 if step % 10 == 0 else None
        moved = {key: value * (1 + step / 100) for key, value in (metrics or {}).items()}
        records.append(Record(step, loss, evaluated, 1e-3, 1e4, step * 0.1, moved))
    return Run(name, status, tuple(records))


def make_comparison(*runs: Run) -> Comparison:
    config = configure(optimizers=tuple(run.optimizer for run in runs), steps=60)
    entries = tuple(Entry(run.optimizer, (run,), Setup(1e-3)) for run in runs)
    paths = Path("c"), (), Path("s")
    return Comparison(config, entries, 10_000, 50, 1234, 3.0, *paths, ceiling=math.log(50))


def render(comparison: Comparison, width: int) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table(comparison))
    return file.getvalue().splitlines()


@pytest.mark.parametrize("width", [80, 120])
def test_the_table_fits_and_breaks_between_coefficients(width: int) -> None:
    runs = [
        make_run("adam", 1.5),
        make_run("lion", 1.2, status=Status.DIVERGED, steps=12),
        make_run("[bold]", 1.4),
        make_run("mada_legacy", 1.6, LEARNED),
        Run("avgrad", Status.NOT_STARTED),
    ]
    lines = render(make_comparison(*runs), width)
    text = "\n".join(lines)
    assert max(map(len, lines)) <= width
    assert all(f"{name}=0.1975" in text for name in LEGACY)
    assert "hypergradient" not in text
    assert "[bold]" in text
    assert "…" not in text
    (best,) = (line for line in lines if "1.507 *" in line)
    assert "[bold]" in best
    assert "1.507" not in text.replace(best, "")
    assert "60 steps" in lines[0]
    assert "last 20 steps" in " ".join(text.split())


def test_columns_without_contents_are_left_out() -> None:
    text = "\n".join(render(make_comparison(make_run("adam", 1.5)), 80))
    assert "learned" not in text
    assert "outcome" not in text


def test_final_losses() -> None:
    run = make_run("adam", 1.0)
    expected = sum(record.train_loss for record in run.records[-20:]) / 20
    assert run.final_train_loss == pytest.approx(expected)
    assert run.final_validation_loss == run.records[59].validation_loss
    short = make_run("adam", 1.0, steps=25, status=Status.INTERRUPTED)
    assert short.final_validation_loss == short.records[19].validation_loss
    assert short.outcome == "interrupted at step 25"


def test_only_finished_runs_compete() -> None:
    runs = (
        make_run("a", 1.0, status=Status.INTERRUPTED, steps=30),
        make_run("b", 0.5, status=Status.DIVERGED, steps=30),
    )
    assert make_comparison(*runs).best is None
    with_c = make_comparison(*runs, make_run("c", 2.0))
    assert with_c.best is with_c.entries[2]


def colours(path: Path) -> set[object]:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return {colour for _, colour in image.convert("RGB").getcolors(2**24) or []}


def size_of(path: Path) -> tuple[int, int]:
    assert len(colours(path)) > 50
    with Image.open(path) as image:
        return image.size


def test_the_figure_has_the_expected_size_and_grows_with_coefficients(tmp_path: Path) -> None:
    plain, learned = tmp_path / "plain.png", tmp_path / "learned.png"
    adam = make_run("adam", 1.5)
    draw(make_comparison(adam), plain)
    draw(make_comparison(adam, make_run("mada_legacy", 1.4, LEARNED)), learned)
    width, height = size_of(plain)
    assert width == 10 * DPI
    assert 4 * DPI < height <= (4 + 4 * LINE_HEIGHT) * DPI  # the caption is below
    learned_width, learned_height = size_of(learned)
    assert learned_width == width
    assert learned_height - height == pytest.approx(2 * 2.2 * DPI, abs=1)


def test_each_run_is_drawn_in_its_own_colour(tmp_path: Path) -> None:
    blue, vermillion = (0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)
    draw(make_comparison(make_run("a", 1.0)), tmp_path / "one.png")
    draw(make_comparison(make_run("a", 1.0), make_run("b", 1.3)), tmp_path / "two.png")
    assert blue in colours(tmp_path / "one.png")
    assert vermillion not in colours(tmp_path / "one.png")
    assert {blue, vermillion} <= colours(tmp_path / "two.png")


def test_the_figure_copes_with_odd_runs(tmp_path: Path) -> None:
    record = Record(1, math.nan, None, 1e-3, 1.0, 1.0, {"rho": math.nan})
    runs = [
        Run("none", Status.NOT_STARTED),
        Run("nan", Status.DIVERGED, (record,)),
        make_run("one", 1.0, {"rho": 0.5}, steps=1, status=Status.INTERRUPTED),
        make_run("$a_$", 1.0, {"$_$": 0.5}),
    ]
    draw(make_comparison(*runs), tmp_path / "odd.png")
    draw(make_comparison(runs[0]), tmp_path / "none.png")
    draw(make_comparison(*runs[:2]), tmp_path / "nan.png")
    assert min(size_of(tmp_path / f"{name}.png")[0] for name in ("odd", "none", "nan")) > 1000


def test_more_runs_than_colours(tmp_path: Path) -> None:
    runs = [make_run(f"optimizer_{i}", 1 + i / 10, {"rho": 0.5}) for i in range(16)]
    draw(make_comparison(*runs), tmp_path / "many.png")
    assert min(size_of(tmp_path / "many.png")) > 1000


@pytest.mark.parametrize("window", [1, 4, 5, 100])
def test_moving_mean(window: int) -> None:
    values = np.arange(10.0) ** 2
    reach = window // 2
    expected = [np.mean([values[j] for j in range(10) if abs(i - j) <= reach]) for i in range(10)]
    np.testing.assert_allclose(moving_mean(values, window), expected)


def test_a_metric_named_like_a_column_is_kept_apart(tmp_path: Path) -> None:
    with CsvLog(tmp_path / "log.csv", ("rho", "step")) as log:
        log.write("a", 7, Record(1, 2.5, None, 1e-3, 1e4, 0.1, {"step": 0.25}))
    header, row = (tmp_path / "log.csv").read_text().splitlines()
    assert header == ",".join([*COLUMNS, "rho", "metric/step"])
    assert row == "a,7,1,2.5,,0.001,10000.0,0.1000,,0.25"


def test_an_atomic_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert path.read_text() == "new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone" / "file.txt"
    with pytest.raises(TrainingError, match="cannot write") as caught:
        write_atomically(path, lambda temporary: temporary.write_text("new"))
    assert str(path) in str(caught.value)
