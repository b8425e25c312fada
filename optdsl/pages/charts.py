"""Drawing: what all figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK = "#1b1b1b"  # text and axes; in a page it takes the colour of the page's text
# Distinct for most kinds of colour vision, and on light and dark pages (Okabe and Ito, 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a6fc0", "#7f7f7f")
STYLES = ("-", "--", "-.", ":")

SETTINGS: dict[str, Any] = {
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",
    "font.family": "sans-serif",
}


def line_style(index: int) -> dict[str, Any]:
    """Returns the colour and dashes of a line, distinct for the first 32."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": STYLES[index // len(COLOURS) % len(STYLES)],
        "linewidth": 1.4,
    }


def band(
    axes: Axes, index: int, label: str, xs: Sequence[float], runs: Sequence[Sequence[float]]
) -> None:
    """Draws the mean of some runs, and their range from lowest to highest."""
    whole = [run for run in runs if len(run) == len(xs)]
    if not whole or not len(xs):
        return
    values = np.array(whole)
    style = line_style(index)
    axes.plot(xs, values.mean(axis=0), label=label, **style)
    if len(whole) > 1:
        low, high = values.min(axis=0), values.max(axis=0)
        axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def legend_beside(axes: Axes) -> None:
    """Puts the legend at the right of the axes, if there is anything to name."""
    handles, _ = axes.get_legend_handles_labels()
    if handles:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def heat_maps(
    figure: Figure,
    titles: Sequence[str],
    maps: Sequence[Sequence[Sequence[float]]],
    rows: Sequence[float],
    columns: Sequence[float],
    labels: tuple[str, str],
) -> None:
    """Draws pairs of maps, each pair in a row and on one scale, with their numbers; blue is low.

    Args:
        figure: Where to draw.
        titles: Of the maps.
        maps: Values by row and column; NaN where there is none.
        rows: Values of the rows.
        columns: Values of the columns.
        labels: What rows and columns are.
    """
    panels = figure.subplots(math.ceil(len(maps) / 2), 2, squeeze=False)
    for pair, left in zip(panels, range(0, len(maps), 2), strict=True):
        arrays = [np.array(values, dtype=float) for values in maps[left : left + 2]]
        known = np.concatenate([array[np.isfinite(array)] for array in arrays])
        low, high = (known.min(), known.max()) if known.size else (0.0, 1.0)
        for axes, title, array in zip(pair, titles[left : left + 2], arrays, strict=False):
            axes.imshow(array, cmap="RdYlBu_r", vmin=low, vmax=high, aspect="auto")
            axes.set_title(title)
            axes.set_xticks(range(len(columns)), [f"{x:g}" for x in columns])
            axes.set_yticks(range(len(rows)), [f"{x:g}" for x in rows])
            axes.set_ylabel(labels[0])
            axes.set_xlabel(labels[1])
            for (row, column), value in np.ndenumerate(array):
                text = f"{value:.3f}" if math.isfinite(value) else "–"
                # The ends of the scale are dark, whatever the page around it is.
                edge = abs(value - (low + high) / 2) > 0.35 * (high - low)
                colour = "#ffffff" if edge else "#000000"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=colour)
