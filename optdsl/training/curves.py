"""The runs of each optimizer as arrays, and the limits of the axes."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from optdsl.training.results import Comparison, Entry, Record, Run, Space

# The colour-blind-safe palette of Okabe and Ito without yellow, which is too pale for lines.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
DASHES = ("-", "--", ":", "-.")  # one for each time that all colours have been used

SETTLED = 0.1  # the losses of this part of the run do not count for the limits of the axis
BULK = 0.95  # this part of the other losses of each optimizer lies within the limits
LEAST_SPAN = 0.05  # the least part of a coefficient's interval that its axis shows

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """The mean over the seeds at each step, and the lowest and highest value; NaN for none."""

    mean: Floats
    low: Floats
    high: Floats


@dataclass(frozen=True)
class Curve:
    """An optimizer's runs as arrays over the steps, with the style they are drawn in."""

    entry: Entry
    runs: tuple[Run, ...]
    steps: Floats
    train: Floats  # of the first run, not smoothed
    smooth: Band
    validation: Band
    colour: str
    marker: str
    dash: str

    @property
    def line(self) -> dict[str, Any]:
        """How Matplotlib draws its lines."""
        return {"color": self.colour, "linestyle": self.dash}

    def marks(self, size: float) -> dict[str, Any]:
        """How Matplotlib draws its markers, of a size in points."""
        edge = {"markeredgecolor": "white", "markeredgewidth": 0.5}
        return {"marker": self.marker, "markersize": size, **edge}

    def metric(self, name: str) -> Band:
        """Returns a metric over the steps."""
        return band(self.runs, lambda record: record.metrics.get(name, math.nan))


def curves_of(comparison: Comparison, window: int) -> list[Curve]:
    """Returns the curves of the optimizers that were trained, in the order of the request.

    Args:
        comparison: The results.
        window: Steps over which training losses are averaged.
    """
    return [
        Curve(
            entry=entry,
            runs=runs,
            steps=np.arange(1.0, max(len(run.records) for run in runs) + 1),
            train=np.array([record.train_loss for record in runs[0].records]),
            smooth=band(runs, lambda record: record.train_loss, window),
            validation=band(runs, lambda record: record.validation_loss),
            colour=COLOURS[index % len(COLOURS)],
            marker=MARKERS[index % len(MARKERS)],
            dash=DASHES[index // len(COLOURS) % len(DASHES)],
        )
        for index, entry in enumerate(comparison.entries)
        if (runs := entry.shown)
    ]


def band(runs: Sequence[Run], value: Callable[[Record], float | None], window: int = 1) -> Band:
    """Returns a value of the records over the steps of the longest run.

    Args:
        runs: Runs, at least one of them with a record.
        value: Maps a record to the value, or None where it has none.
        window: Steps over which the values of each run are averaged first.
    """
    values = np.full((len(runs), max(len(run.records) for run in runs)), math.nan)
    for row, run in zip(values, runs, strict=True):
        known = [value(record) for record in run.records]
        row[: len(known)] = moving_mean(
            np.array([math.nan if v is None else v for v in known], dtype=np.float64), window
        )
    values[~np.isfinite(values)] = math.nan
    counts = np.isfinite(values).sum(axis=0)
    mean = np.nansum(values, axis=0) / np.where(counts, counts, math.nan)
    low = np.nanmin(values, axis=0, initial=math.inf)
    high = np.nanmax(values, axis=0, initial=-math.inf)
    return Band(mean, np.where(counts, low, math.nan), np.where(counts, high, math.nan))


def moving_mean(values: Floats, window: int) -> Floats:
    """Returns the mean over a centred window, which is cut off at both ends of the values.

    Args:
        values: Shape (steps,).
        window: Number of values in the window; an even number counts as the next odd one.
    """
    reach = window // 2
    return np.array([values[max(0, i - reach) : i + reach + 1].mean() for i in range(len(values))])


def loss_limits(curves: Sequence[Curve], highest: float) -> tuple[float, float] | None:
    """Returns limits of the loss axis that show most of the losses, or None without losses.

    The limits follow from the lowest value and the quantile `BULK` of each curve after the start
    of training, so that a spike does not matter.  Optimizers that diverged count only if all did.

    Args:
        curves: The curves to be drawn.
        highest: The highest upper limit, unless all losses are above it.
    """
    healthy = [curve for curve in curves if curve.entry.validation_loss is not None] or curves
    start = SETTLED * max((len(curve.steps) for curve in healthy), default=0)
    lows, highs = [], []
    for curve in healthy:
        for losses in (curve.smooth, curve.validation):
            known = (curve.steps > start) & np.isfinite(losses.mean)
            if known.any():
                lows.append(float(losses.low[known].min()))
                highs.append(float(np.quantile(losses.high[known], BULK, method="higher")))
    if not lows:
        return None
    low, high = min(lows), max(highs)
    if low < highest < high:
        high = highest
    if low == high:
        return None
    margin = 0.05 * (high - low)
    return low - margin, high + margin


def coefficient_limits(low: float, high: float, space: Space | None) -> tuple[float, float] | None:
    """Returns limits of a coefficient's axis, within the coefficient's bounds.

    The axis shows at least `LEAST_SPAN` of the interval between the bounds, or a fiftieth of the
    value without bounds, so that small changes of the coefficient look small.

    Args:
        low: The lowest value that is drawn.
        high: The highest value that is drawn.
        space: The coefficient's bounds, if known.
    """
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    bounds = (-math.inf, math.inf) if space is None else (space.low, space.high)
    whole = bounds[1] - bounds[0]
    least = LEAST_SPAN * whole if math.isfinite(whole) else 0.02 * max(abs(low), abs(high))
    span = max(1.1 * (high - low), least)
    if span == 0:
        return None
    middle = (low + high) / 2
    bottom, top = middle - span / 2, middle + span / 2
    # A part that is cut off at one bound is added at the other end.
    if bottom < bounds[0]:
        bottom, top = bounds[0], min(bounds[1], bounds[0] + span)
    elif top > bounds[1]:
        bottom, top = max(bounds[0], bounds[1] - span), bounds[1]
    return bottom, top
