"""The figure of a comparison."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, FigureBase

from optdsl.training.curves import Curve, curves_of, loss_limits
from optdsl.training.panels import draw_panels, panels_of, rows_of
from optdsl.training.report import headline, number, rate, rates_in_words
from optdsl.training.results import Comparison
from optdsl.training.style import GREY, clean, plain, shade, title

WIDTH = 10.0  # inches
LOSS_HEIGHT = 4.0  # inches
COEFFICIENT_HEIGHT = 2.2  # inches, per row of panels
LINE_HEIGHT = 0.17  # inches, per line of the caption
CAPTION = 140  # characters in a line of the caption
DPI = 200
RASTER = 2000  # with so many steps, vector files contain the faint lines as an image

# Without dates and random identifiers, equal figures have almost equal files.  (The layout of the
# panels may still differ in the last bit.)
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}


def draw(comparison: Comparison, path: Path) -> None:
    """Writes a figure of the losses and of the learned coefficients, if any.

    Args:
        comparison: The results, which may be incomplete.
        path: The file to write, with the suffix of its format.
    """
    kind = path.suffix.removeprefix(".")
    with rc_context({"svg.hashsalt": "optdsl", "pdf.fonttype": 42}):
        build(comparison).savefig(path, format=kind, metadata=_UNDATED.get(kind))


def build(comparison: Comparison) -> Figure:
    """Returns the figure that `draw` writes."""
    window = max(1, comparison.config.steps // 40)
    curves = curves_of(comparison, window)
    # The step axis has room for half a marker after the last step.
    last = 1.015 * max((len(curve.steps) for curve in curves), default=1)
    panels = panels_of(curves)
    caption = textwrap.wrap(caption_of(comparison), CAPTION)
    heights = [LOSS_HEIGHT, COEFFICIENT_HEIGHT * rows_of(panels), LINE_HEIGHT * (len(caption) + 1)]
    kept = [height for height in heights if height]

    figure = Figure(figsize=(WIDTH, sum(kept)), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    parts = figure.subfigures(len(kept), 1, squeeze=False, height_ratios=kept).flatten()
    _draw_losses(parts[0], comparison, curves, window, last)
    if panels:
        draw_panels(parts[1], panels, last)
    parts[-1].text(
        0.01, 0.95, "\n".join(caption), fontsize=8.5, color=GREY, va="top", parse_math=False
    )
    return figure


def draw_loss_panels(figure: Figure, comparison: Comparison) -> None:
    """Draws the losses alone, on an empty figure."""
    window = max(1, comparison.config.steps // 40)
    curves = curves_of(comparison, window)
    last = 1.015 * max((len(curve.steps) for curve in curves), default=1)
    _draw_losses(figure, comparison, curves, window, last)


def draw_coefficient_panels(figure: Figure, comparison: Comparison) -> None:
    """Draws the learned coefficients alone, on an empty figure, if there are any."""
    curves = curves_of(comparison, max(1, comparison.config.steps // 40))
    panels = panels_of(curves)
    if panels:
        last = 1.015 * max((len(curve.steps) for curve in curves), default=1)
        draw_panels(figure, panels, last)


def coefficient_height(comparison: Comparison) -> float:
    """Returns the height of the panels of coefficients in inches; 0 if nothing is learned."""
    return COEFFICIENT_HEIGHT * rows_of(panels_of(curves_of(comparison, 1)))


def caption_of(comparison: Comparison) -> str:
    """Returns the caption: steps, seeds, learning rates, and the meaning of lines and bands."""
    rates = ", ".join(f"{entry.optimizer} {rate(entry.setup)}" for entry in comparison.entries)
    sentences = [
        f"{headline(comparison)}.",
        rates_in_words(comparison),
        f"Learning rates: {rates}.",
    ]
    if comparison.config.seeds > 1:
        sentences.append("Lines: mean over the seeds; bands: lowest to highest.")
    return " ".join(sentences)


def _draw_losses(
    figure: FigureBase,
    comparison: Comparison,
    curves: Sequence[Curve],
    window: int,
    last: float,
) -> None:
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    several = comparison.config.seeds > 1
    faint: dict[str, Any] = {"linewidth": 0.5, "alpha": 0.18}
    for curve in [] if several else curves:
        raster = len(curve.steps) >= RASTER
        left.plot(curve.steps, curve.train, color=curve.colour, rasterized=raster, **faint)
    for curve in curves:
        left.plot(curve.steps, curve.smooth.mean, **curve.line, linewidth=1.6)
        known = np.isfinite(curve.validation.mean)
        means = curve.validation.mean[known]
        right.plot(curve.steps[known], means, **curve.line, **curve.marks(4.5), linewidth=1.2)
        shade(left, curve, curve.smooth)
        shade(right, curve, curve.validation)
    highest = math.inf if comparison.ceiling is None else comparison.ceiling
    limits = loss_limits(curves, highest)
    if limits:
        left.set_ylim(*limits)
    left.set_xlim(0, last)
    averaged = window // 2 * 2 + 1
    detail = f" (mean of {averaged} steps{'' if several else '; faint: each step'})"
    title(left, f"Training{detail if averaged > 1 else ''}")
    title(right, "Validation")
    left.set_ylabel(f"loss ({comparison.unit})", parse_math=False)
    for axes in (left, right):
        axes.set_xlabel("step")
        clean(axes)
    right.tick_params(labelleft=True)
    _draw_legend(right, curves, limits)
    if comparison.interrupted:
        figure.suptitle("Interrupted before the end", fontsize=10, color=GREY)


def _draw_legend(axes: Axes, curves: Sequence[Curve], limits: tuple[float, float] | None) -> None:
    """Draws the legend beside the axes, in the order of the final losses."""

    def rank(curve: Curve) -> float:
        loss = curve.entry.validation_loss
        return -math.inf if loss is None else -loss.mean

    handles = []
    for curve in sorted(curves, key=rank):
        entry = curve.entry
        loss = entry.validation_loss
        label = entry.optimizer if loss is None else f"{entry.optimizer}  {number(loss)}"
        if not entry.finished:
            label += f"\n({entry.outcome})"
        elif limits and loss is not None and loss.mean > limits[1]:
            label += "\n(above the range shown)"
        (handle,) = axes.plot([], [], **curve.line, **curve.marks(5), linewidth=1.6, label=label)
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
    plain(legend)
