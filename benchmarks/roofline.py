"""The picture: how far each step is from what memory allows.

The distance of a point from the line is a ratio measured side by side: the share of the bandwidth
at which a large tensor is updated in place. The scale of the times is that of the whole run's
median.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from benchmarks.campaign import Results
from benchmarks.contestants import CONTESTANTS
from benchmarks.findings import bandwidth, footprints
from benchmarks.placement import Label, place
from benchmarks.plan import COPY, SCALE

GREY = "#666666"
FONT = 8.5

WIDTH, HEIGHT = 8.2, 6.4  # inches of a panel
DPI = 200


@dataclass(frozen=True)
class Family:
    """Contestants that look alike; the colours are of Okabe and Ito's colour-blind-safe palette."""

    name: str
    colour: str
    marker: str


OURS = Family("compiled by optdsl", "#0072B2", "o")
THEIRS = Family("pytorch_optimizer", "#D55E00", "s")
TORCH = Family("plain PyTorch", "#000000", "^")


@dataclass(frozen=True)
class Point:
    """A contestant in the picture: bytes and nanoseconds are per parameter."""

    bytes: float
    nanoseconds: float
    label: str
    family: Family


def draw(results: Results, path: Path) -> bool:
    """Writes the picture of the sizes that stream from memory; False when there are none."""
    panels = {
        size: (_points(results, size, roof.median), roof.median)
        for size in results.options.sizes
        if (roof := bandwidth(results, size, SCALE))
    }
    if not panels:
        return False
    figure = Figure(figsize=(WIDTH * len(panels), HEIGHT), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for ax, (size, (points, limit)) in zip(axes, panels.items(), strict=True):
        copy = bandwidth(results, size, COPY)
        assert copy is not None
        _panel(ax, size, points, limit, copy.median)
    times = [p.nanoseconds for points, _ in panels.values() for p in points]
    # The legend stands above the points on the left.
    left = [p.nanoseconds for points, _ in panels.values() for p in points if p.bytes < 50]
    axes[0].set_ylim(min(times) / 2.5, max(*times, *(4 * t for t in left)) * 1.6)
    axes[0].set_ylabel("time of a step (nanoseconds per parameter)")
    machine = results.machine
    figure.suptitle(
        f"{machine['processor']}, {machine['threads']} threads, torch {machine['torch']}",
        fontsize=9,
        color=GREY,
        x=0.01,
        ha="left",
    )
    figure.canvas.draw()  # the layout, which labels go by
    figure.set_layout_engine("none")
    for ax, (points, _) in zip(axes, panels.values(), strict=True):
        _label(ax, points)
    figure.savefig(path, format="png")
    return True


def _points(results: Results, size: str, roof: float) -> list[Point]:
    """Who ran at a size, where scaling in place moves that many bytes per second."""
    points = []
    for footprint in footprints(results):
        if footprint.size == size:
            name, contestant = footprint.contestant, CONTESTANTS[footprint.contestant]
            share = footprint.shares[SCALE].median
            family = OURS if contestant.ours else THEIRS if name.startswith("their-") else TORCH
            label = contestant.label.removeprefix("pytorch_optimizer ").removeprefix("torch ")
            percent = f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"
            time = 1e9 * contestant.floor / (share * roof)
            points.append(Point(contestant.floor, time, f"{label}  {percent}", family))
    return points


def _panel(ax: Axes, size: str, points: Sequence[Point], roof: float, copy: float) -> None:
    """The points of a size, and the lines of both bandwidths in bytes per second."""
    low, high = 14.0, 180.0
    ends = [low, high]
    line = [1e9 * x / roof for x in ends]
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.fill_between(ends, line, 1e-6, color="#eeeeee", linewidth=0, zorder=0)
    in_place = f"scaling in place, {roof / 1e9:.0f} GB/s"
    ax.plot(ends, line, color=GREY, linewidth=1.2, zorder=1, label=in_place)
    copied = [1e9 * x / copy for x in ends]
    ax.plot(
        ends,
        copied,
        color=GREY,
        linewidth=1.0,
        linestyle=(0, (4, 3)),
        zorder=1,
        label=f"a copy, {copy / 1e9:.0f} GB/s",
    )
    for family in (OURS, THEIRS, TORCH):
        some = [p for p in points if p.family is family]
        ax.scatter(
            [p.bytes for p in some],
            [p.nanoseconds for p in some],
            color=family.colour,
            marker=family.marker,
            s=38,
            edgecolor="white",
            linewidth=0.6,
            zorder=4,
            label=family.name,
        )
    ax.set_xlim(low, high)
    ax.xaxis.set_major_locator(FixedLocator(sorted({p.bytes for p in points})))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_minor_locator(NullLocator())
    plain = FuncFormatter(lambda value, _: f"{value:g}")
    ax.xaxis.set_major_formatter(plain)
    ax.yaxis.set_major_formatter(plain)
    ax.set_xlabel("bytes per parameter that the step has to move")
    ax.set_title(f"{size} parameters", loc="left", fontsize=10)
    ax.grid(color="#dddddd", linewidth=0.5)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)
    ax.legend(
        loc="upper left",
        frameon=False,
        fontsize=9,
    )


def _label(ax: Axes, points: Sequence[Point]) -> None:
    """Names the points, with lines to them where the names stand apart."""
    scale = 72 / DPI  # points a pixel
    positions = [scale * ax.transData.transform((p.bytes, p.nanoseconds)) for p in points]
    left, bottom, right, top = (scale * float(x) for x in ax.get_window_extent().extents)
    labels = [
        Label(float(x), float(y), FONT * 0.56 * len(p.label), FONT * 1.25)
        for p, (x, y) in zip(points, positions, strict=True)
    ]
    places = place(labels, (left, bottom, right, top))
    for p, label, (x, y) in zip(points, labels, places, strict=True):
        ax.annotate(
            p.label,
            (p.bytes, p.nanoseconds),
            xytext=(x - label.x, y - label.y),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=FONT,
            color=p.family.colour,
            arrowprops={"arrowstyle": "-", "color": GREY, "linewidth": 0.4, "shrinkB": 3},
            bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.6},
            zorder=3,
            parse_math=False,
        )
