"""The comparison as a picture."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from optdsl.training.results import Comparison, Run, Status

# The colour-blind-safe palette of Okabe and Ito without yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")  # the next one each time the colours are used up

WIDTH = 10.0  # inches
LOSS_HEIGHT = 4.0  # inches
COEFFICIENT_HEIGHT = 2.2  # inches, per row of panels
PANELS = 3  # coefficient panels side by side
DPI = 200
GREY = "#666666"
SETTLED = 0.1  # part of the run after which losses are of interest


@dataclass(frozen=True)
class Curve:
    """A run as arrays of equal length, with the style it is drawn in."""

    run: Run
    steps: NDArray[np.float64]
    train: NDArray[np.float64]
    smooth: NDArray[np.float64]
    validation: NDArray[np.float64]
    colour: str
    marker: str
    dash: str


def draw(comparison: Comparison, path: Path) -> None:
    """Writes a picture of the losses and, where some are learned, of the coefficients.

    Args:
        comparison: The results, which may be incomplete.
        path: The PNG file to write.
    """
    window = max(1, comparison.config.steps // 40)
    curves = [
        _curve(run, index, window) for index, run in enumerate(comparison.runs) if run.records
    ]
    names = list(dict.fromkeys(name for curve in curves for name in curve.run.coefficients))
    rows = math.ceil(len(names) / PANELS)
    height = COEFFICIENT_HEIGHT * rows

    figure = Figure(figsize=(WIDTH, LOSS_HEIGHT + height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    top: Figure | SubFigure = figure
    if rows:
        parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[LOSS_HEIGHT, height])
        top = parts[0, 0]
        _draw_coefficients(parts[1, 0], curves, names, rows)
    _draw_losses(top, comparison, curves, window)
    figure.savefig(path, format="png")


def _curve(run: Run, index: int, window: int) -> Curve:
    train = np.array([record.train_loss for record in run.records])
    validation = [record.validation_loss for record in run.records]
    return Curve(
        run=run,
        steps=np.array([record.step for record in run.records], dtype=np.float64),
        train=train,
        smooth=moving_mean(train, window),
        validation=np.array([math.nan if loss is None else loss for loss in validation]),
        colour=COLOURS[index % len(COLOURS)],
        marker=MARKERS[index % len(MARKERS)],
        dash=DASHES[index // len(COLOURS) % len(DASHES)],
    )


def moving_mean(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """Returns the mean over a centred window, which is cut off at both ends of the values.

    Args:
        values: Shape (steps,).
        window: Number of values in the window; an even number counts as the next odd one.
    """
    reach = window // 2
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def loss_limits(curves: Sequence[Curve]) -> tuple[float, float] | None:
    """Returns limits of the loss axis that leave out the fall at the start of training.

    Runs that diverged do not count unless all did.  None means that there is nothing to go by.
    """
    healthy = [curve for curve in curves if curve.run.status is not Status.DIVERGED] or curves
    start = SETTLED * max((len(curve.steps) for curve in healthy), default=0)
    values = [
        losses[(curve.steps > start) & np.isfinite(losses)]
        for curve in healthy
        for losses in (curve.smooth, curve.validation)
    ]
    joined = np.concatenate(values) if values else np.array([])
    if not len(joined) or np.ptp(joined) == 0:
        return None
    margin = 0.05 * float(np.ptp(joined))
    return float(joined.min()) - margin, float(joined.max()) + margin


def _last_step(curves: Sequence[Curve]) -> float:
    """Returns the end of the step axis, with room for half a marker after the last step."""
    return 1.015 * max((len(curve.steps) for curve in curves), default=1)


def _draw_losses(
    figure: Figure | SubFigure, comparison: Comparison, curves: Sequence[Curve], window: int
) -> None:
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    for curve in curves:
        left.plot(curve.steps, curve.train, color=curve.colour, linewidth=0.5, alpha=0.18)
    for curve in curves:
        left.plot(
            curve.steps, curve.smooth, color=curve.colour, linestyle=curve.dash, linewidth=1.6
        )
        known = np.isfinite(curve.validation)
        right.plot(
            curve.steps[known],
            curve.validation[known],
            color=curve.colour,
            linestyle=curve.dash,
            linewidth=1.2,
            marker=curve.marker,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    limits = loss_limits(curves)
    if limits:
        left.set_ylim(*limits)
    left.set_xlim(0, _last_step(curves))
    averaged = window // 2 * 2 + 1
    detail = f" (mean of {averaged} steps; faint: each step)" if averaged > 1 else ""
    _title(left, f"Training{detail}")
    _title(right, "Validation")
    left.set_ylabel("loss (nats per character)")
    for axes in (left, right):
        axes.set_xlabel("step")
        _clean(axes)
    right.tick_params(labelleft=True)
    _draw_legend(right, curves)
    if comparison.interrupted:
        figure.suptitle("Interrupted before the end", fontsize=10, color=GREY)


def _draw_legend(axes: Axes, curves: Sequence[Curve]) -> None:
    """Lists the curves beside the axes, in the order in which they end."""

    def rank(curve: Curve) -> float:
        loss = curve.run.final_validation_loss
        return -math.inf if loss is None else -loss

    handles = []
    for curve in sorted(curves, key=rank):
        run = curve.run
        loss = run.final_validation_loss
        label = run.optimizer if loss is None else f"{run.optimizer}  {loss:.3f}"
        if run.status is not Status.FINISHED:
            label += f"\n({run.outcome})"
        (handle,) = axes.plot(
            [],
            [],
            color=curve.colour,
            linestyle=curve.dash,
            linewidth=1.6,
            marker=curve.marker,
            markersize=5,
            markeredgecolor="white",
            markeredgewidth=0.5,
            label=label,
        )
        handles.append(handle)
    if not handles:
        return
    legend = axes.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(1.01, 1.0),
        borderaxespad=0,
        frameon=False,
        fontsize=9,
        title="final validation loss",
        title_fontsize=9,
        alignment="left",
    )
    for text in legend.get_texts():
        text.set_parse_math(False)  # a dollar sign in a file's name is only that


def _draw_coefficients(
    figure: SubFigure, curves: Sequence[Curve], names: Sequence[str], rows: int
) -> None:
    panels = figure.subplots(rows, PANELS, sharex=True, squeeze=False).flatten()
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
        for curve in curves:
            values = [record.metrics.get(name, math.nan) for record in curve.run.records]
            axes.plot(curve.steps, values, color=curve.colour, linestyle=curve.dash, linewidth=1.4)
        _widen(axes)
        _title(axes, name)
        _clean(axes)
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.set_xlim(0, _last_step(curves))
        if index + PANELS >= len(names):  # the lowest panel of its column
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("step")
        if index % PANELS == 0:
            axes.set_ylabel("coefficient")


def _widen(axes: Axes) -> None:
    """Keeps a coefficient that hardly moves from looking as if it moved a lot."""
    low, high = axes.get_ylim()
    lacking = 0.02 * max(abs(low), abs(high)) - (high - low)
    if lacking > 0:
        axes.set_ylim(low - lacking / 2, high + lacking / 2)


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=10, parse_math=False)


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.label.set_fontsize(10)
    axes.yaxis.label.set_fontsize(10)
