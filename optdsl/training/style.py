"""The style of all panels of the figure."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from optdsl.training.curves import Band, Curve

GREY = "#666666"
SHADE = 0.2  # opacity of a band


def title(axes: Axes, text: str) -> None:
    """Puts a title at the left, above the axes, without interpreting dollar signs."""
    axes.set_title(text, loc="left", fontsize=10, parse_math=False)


def plain(legend: Legend) -> None:
    """Turns off the interpretation of dollar signs in the texts of a legend."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def shade(axes: Axes, curve: Curve, values: Band) -> None:
    """Fills the range of some values over the runs of a curve, if there are several."""
    if len(curve.runs) > 1:
        known = np.isfinite(values.mean)
        band = values.low[known], values.high[known]
        axes.fill_between(curve.steps[known], *band, color=curve.colour, alpha=SHADE, linewidth=0)


def clean(axes: Axes) -> None:
    """Removes the frame, draws a light grid, and puts the ticks of the step axis at whole steps."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.label.set_fontsize(10)
    axes.yaxis.label.set_fontsize(10)
    axes.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True))
