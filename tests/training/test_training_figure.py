"""What the figure shows: its ranges, panels, bands, caption and formats."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optdsl.training import (
    Comparison,
    Entry,
    Record,
    Run,
    Setup,
    Space,
    Status,
    compare,
    configure,
)
from optdsl.training.curves import coefficient_limits
from optdsl.training.figure import build, caption_of, draw

from .fakes import Make, load

STEPS = 60
SPACES = {
    "w_adam": Space(0, 1, "w"),
    "w_lion": Space(0, 1, "w"),
    "rho": Space(0, 1),
    "beta1": Space(0.5, 0.99),
}
LEARNED = {"w_adam": 0.75, "w_lion": 0.25, "rho": 1.0, "beta1": 0.9}


def make_run(
    name: str,
    level: float,
    seed: int = 0,
    spike: range = range(0),
    metrics: dict[str, float] | None = None,
) -> Run:
    records = []
    for step in range(1, STEPS + 1):
        loss = 1000.0 if step in spike else level + math.exp(-step / 10)
        evaluated = loss if step % 10 == 0 else None
        records.append(Record(step, loss, evaluated, 1e-3, 1e4, step * 0.1, metrics or {}))
    return Run(name, Status.FINISHED, tuple(records), seed)


def make_comparison(*entries: Entry, seeds: int = 1) -> Comparison:
    names = tuple(entry.optimizer for entry in entries)
    config = configure(optimizers=names, steps=STEPS, seeds=seeds)
    paths = Path("c"), (), Path("s")
    return Comparison(config, entries, 10_000, 50, 1234, 3.0, *paths, ceiling=math.log(50))


def entry(name: str, level: float, **fields: object) -> Entry:
    run = make_run(name, level, **fields)  # type: ignore[arg-type]
    return Entry(name, (run,), Setup(1e-3, spaces=SPACES))


def drawn(comparison: Comparison) -> tuple[Figure, dict[str, Axes]]:
    """The figure and its visible panels by title."""
    figure = build(comparison)
    figure.canvas.draw()
    parts = [axes for part in figure.subfigs for axes in part.axes if axes.get_visible()]
    return figure, {axes.get_title(loc="left"): axes for axes in parts}


def test_one_early_spike_does_not_set_the_range() -> None:
    calm = make_comparison(entry("a", 1.5), entry("b", 2.0))
    spiked = make_comparison(entry("a", 1.5, spike=range(8, 9)), entry("b", 2.0))
    for comparison in (calm, spiked):
        _, panels = drawn(comparison)
        for axes in panels.values():
            low, high = axes.get_ylim()
            assert low < 1.55
            assert 2.1 < high < 3.0


def test_what_is_worse_than_guessing_does_not_set_the_range() -> None:
    _, panels = drawn(make_comparison(entry("good", 1.5), entry("bad", 30.0)))
    low, high = panels["Validation"].get_ylim()
    assert low < 1.5
    assert high < math.log(50) + 0.5
    legend = panels["Validation"].get_legend()
    assert legend is not None
    assert "above the range shown" in legend.get_texts()[0].get_text()
    _, panels = drawn(make_comparison(entry("bad", 30.0), entry("worse", 40.0)))
    low, high = panels["Validation"].get_ylim()
    assert low < 30 < 40 < high


@given(
    st.floats(-10, 10),
    st.floats(0, 20),
    st.floats(0, 1),
    st.floats(0, 1),
)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_axis_of_a_coefficient_ends_at_its_bounds(
    low: float, width: float, first: float, second: float
) -> None:
    space = Space(low, low + width)
    values = [min(space.high, low + width * part) for part in sorted((first, second))]
    limits = coefficient_limits(values[0], values[1], space)
    if limits is None:
        assert width == 0 or values[0] == values[1]
        return
    assert space.low <= limits[0] <= limits[1] <= space.high
    tolerance = 1e-12 * (1 + abs(low) + width)
    assert limits[0] <= values[0] + tolerance
    assert limits[1] >= values[1] - tolerance


def test_weights_of_one_simplex_are_one_panel_and_others_end_at_their_bounds() -> None:
    comparison = make_comparison(entry("blend", 1.5, metrics=LEARNED), entry("plain", 1.6))
    _, panels = drawn(comparison)
    assert list(panels)[2:] == ["rho in [0, 1]", "beta1 in [0.5, 0.99]", "w of blend (sum 1)"]
    weights = panels["w of blend (sum 1)"]
    assert weights.get_ylim() == (0.0, 1.0)
    assert [line.get_label() for line in weights.get_lines()] == ["adam", "lion"]
    assert [line.get_ydata()[-1] for line in weights.get_lines()] == [0.75, 0.25]
    assert panels["rho in [0, 1]"].get_ylim()[1] == 1.0
    low, high = panels["beta1 in [0.5, 0.99]"].get_ylim()
    assert 0.5 <= low < 0.9 < high <= 0.99


def test_every_panel_has_tick_labels_on_both_axes() -> None:
    many = {f"x{index}": 0.5 for index in range(7)}
    _, panels = drawn(make_comparison(entry("a", 1.5, metrics=many)))
    assert len(panels) == 2 + 7
    for axes in panels.values():
        for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
            assert any(label.get_visible() and label.get_text() for label in labels)


def test_several_seeds_are_a_mean_and_a_band() -> None:
    levels = (1.0, 1.2, 1.7)
    runs = tuple(make_run("a", level, seed) for seed, level in enumerate(levels))
    _, panels = drawn(make_comparison(Entry("a", runs, Setup(1e-3)), seeds=3))
    for axes in panels.values():
        (collection,) = axes.collections
        (path,) = collection.get_paths()
        line = axes.get_lines()[0]
        end = path.vertices[path.vertices[:, 0] == STEPS, 1]
        if axes is panels["Validation"]:
            rest = math.exp(-STEPS / 10)
            assert line.get_ydata()[-1] == pytest.approx(1.3 + rest)
            assert (end.min(), end.max()) == pytest.approx((1.0 + rest, 1.7 + rest))
        assert np.ptp(end) == pytest.approx(0.7)


def test_the_caption_tells_learning_rates_schedule_and_seeds() -> None:
    runs = tuple(make_run("a", 1.0, seed) for seed in range(2))
    entries = (
        Entry("a", runs, Setup(1e-3)),
        Entry("b", runs, Setup(3e-4, "set")),
        Entry("c", runs, Setup(0.1, "tuned")),
    )
    caption = caption_of(make_comparison(*entries, seeds=2))
    assert "60 steps, seeds 0 to 1." in caption
    assert "a 0.001, b 0.0003 (set), c 0.1 (tuned)" in caption
    assert "a linear warm-up over the first 3 steps, then a cosine down to a tenth" in caption
    assert "0.1, 0.3, 1, 3, 10 times the default after 12 steps each" in caption
    assert "mean over the seeds" in caption


def test_a_short_run_is_shown_whole_with_whole_steps_and_its_caption() -> None:
    records = tuple(
        Record(step, loss, loss, 0.1, 1.0, 1.0, {"rho": 0.5})
        for step, loss in ((1, 9.0), (2, 5.0), (3, 4.0))
    )
    names = ("MADA" * 10, "ADAMW" * 8, "SGD" * 13, "mmmmmmmmm" * 5)
    run = Run("m", Status.FINISHED, records)
    figure = build(make_comparison(*(Entry(name, (run,), Setup(1e-3)) for name in names)))
    figure.canvas.draw()
    for axes in (a for part in figure.subfigs for a in part.axes if a.get_visible()):
        assert all(tick == round(tick) for tick in axes.get_xticks())
        if axes.get_ylabel().startswith("loss"):
            assert axes.get_ylim()[1] > 9
    (caption,) = figure.subfigs[-1].texts
    assert caption.get_window_extent().x1 <= figure.bbox.x1


def test_the_formats_are_what_they_say_and_have_no_dates(tmp_path: Path) -> None:
    comparison = make_comparison(entry("a", 1.5, metrics=LEARNED))
    for suffix, start, date in (
        ("png", b"\x89PNG", b"Creation"),
        ("svg", b"<?xml", b"dc:date"),
        ("pdf", b"%PDF", b"/CreationDate"),
    ):
        path = tmp_path / f"figure.{suffix}"
        draw(comparison, path)
        assert path.read_bytes().startswith(start)
        assert date not in path.read_bytes()


def test_the_formats_that_were_asked_for_are_written(make: Make) -> None:
    config = make("adam", formats=("pdf",))
    comparison = compare(config, load=load)
    assert comparison.figures == (config.out / "training.pdf",)
    assert {path.name for path in config.out.iterdir()} == {
        "report.html",
        "training.csv",
        "training.pdf",
        "summary.json",
    }


def test_bounds_and_weight_vectors_are_those_of_the_specification(
    make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "pair.opt"
    from optdsl.compose import blend_source

    path.write_text(blend_source(["adam", "lion"], None, str(tmp_path)).text)
    comparison = compare(make("mada", "hyperadam", str(path), steps=2))
    mada, betas, pair = (dict(entry.setup.spaces) for entry in comparison.entries)
    assert mada == {"rho": Space(0, 1)}
    assert betas["beta1"] == Space(0.01, 0.999)
    assert pair == {"w_adam": Space(0, 1, "w"), "w_lion": Space(0, 1, "w")}
    assert dataclasses.asdict(comparison.entries[0].setup)["learning_rate"] == 6e-4
