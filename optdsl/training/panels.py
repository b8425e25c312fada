"""The panels of learned coefficients in the figure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

from optdsl.training.curves import DASHES, MARKERS, Curve, coefficient_limits
from optdsl.training.results import Space
from optdsl.training.style import clean, plain, shade, title

PANELS = 3  # side by side


@dataclass(frozen=True)
class Panel:
    """A panel, with one coefficient of some optimizers or with one optimizer's weight vector.

    Attributes:
        title: The title.
        lines: The curve, metric and label of each line; the label is "" if the colour suffices.
        space: The bounds of the values, if known.
        simplex: Whether it shows a weight vector.
    """

    title: str
    lines: tuple[tuple[Curve, str, str], ...]
    space: Space | None = None
    simplex: bool = False


def panels_of(curves: Sequence[Curve]) -> list[Panel]:
    """Returns the panels: first one per coefficient, then one per optimizer and weight vector."""
    single: dict[tuple[str, Space | None], list[tuple[Curve, str, str]]] = {}
    vectors: dict[tuple[str, str], list[tuple[Curve, str, str]]] = {}
    for curve in curves:
        for name in curve.entry.coefficients:
            space = curve.entry.setup.space(name)
            if space is None or space.simplex is None:
                single.setdefault((name, space), []).append((curve, name, ""))
            else:
                weight, *group = name.partition("/")  # "w_adam/0" is the weight of a group
                key = (curve.entry.optimizer, "".join([space.simplex, *group]))
                label = weight.removeprefix(f"{space.simplex}_")
                vectors.setdefault(key, []).append((curve, name, label))
    return [
        *(Panel(_title(name, space), tuple(x), space) for (name, space), x in single.items()),
        *(
            Panel(f"{vector} of {optimizer} (sum 1)", tuple(x), Space(0, 1), True)
            for (optimizer, vector), x in vectors.items()
        ),
    ]


def _title(name: str, space: Space | None) -> str:
    if space is None or not math.isfinite(space.high - space.low):
        return name
    return f"{name} in [{space.low:g}, {space.high:g}]"


def rows_of(panels: Sequence[Panel]) -> int:
    """Returns the number of rows that the panels take."""
    return math.ceil(len(panels) / PANELS)


def draw_panels(figure: FigureBase, panels: Sequence[Panel], last_step: float) -> None:
    """Draws the panels in rows of `PANELS`."""
    axes_of = figure.subplots(rows_of(panels), PANELS, squeeze=False).flatten()
    for axes in axes_of[len(panels) :]:
        axes.set_visible(False)
    for index, (axes, panel) in enumerate(zip(axes_of, panels, strict=False)):
        _draw(axes, panel, last_step)
        if index + PANELS >= len(panels):  # the lowest panel of its column
            axes.set_xlabel("step")
        if index % PANELS == 0:
            axes.set_ylabel("weight" if panel.simplex else "coefficient")


def _draw(axes: Axes, panel: Panel, last_step: float) -> None:
    bands = []
    for number, (curve, metric, label) in enumerate(panel.lines):
        values = curve.metric(metric)
        bands.append(values)
        axes.plot(
            curve.steps,
            values.mean,
            color=curve.colour,
            linestyle=DASHES[number % len(DASHES)] if panel.simplex else curve.dash,
            linewidth=1.4,
            marker=MARKERS[number % len(MARKERS)] if panel.simplex else None,
            markevery=max(1, len(curve.steps) // 6),
            markersize=4,
            label=label,
            clip_on=False,  # a line along a bound would otherwise lose half of its width
            zorder=3,
        )
        shade(axes, curve, values)
    lows = np.concatenate([values.low for values in bands])
    highs = np.concatenate([values.high for values in bands])
    limits: tuple[float, float] | None = (0.0, 1.0) if panel.simplex else None
    if not panel.simplex and np.isfinite(lows).any():
        limits = coefficient_limits(float(np.nanmin(lows)), float(np.nanmax(highs)), panel.space)
    if limits is not None:
        axes.set_ylim(*limits)
    title(axes, panel.title)
    clean(axes)
    axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_xlim(0, last_step)
    if panel.simplex:
        plain(axes.legend(fontsize=8, frameon=False, ncols=2, handlelength=2.5))
