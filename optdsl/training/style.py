"""What all panels of the figure have in common."""

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

GREY = "#666666"
SHADE = 0.2  # opacity of a band


def title(axes: Axes, text: str) -> None:
    """Puts a title at the left, above the axes; a dollar sign in it is only that."""
    axes.set_title(text, loc="left", fontsize=10, parse_math=False)


def whole_steps() -> MaxNLocator:
    """Returns what places the ticks of a step axis: there is no half of a step."""
    return MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10], integer=True)


def clean(axes: Axes) -> None:
    """Removes the frame, and draws a light grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9)
    axes.xaxis.label.set_fontsize(10)
    axes.yaxis.label.set_fontsize(10)
