"""Draws the pictures of docs/blending.md: python docs/pictures/draw_blends.py

The first one reads MADA from the library: which members share a buffer, and which of their
equations are mixed, is what the compiler says. The second one trains.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from torch import nn

import optdsl
from optdsl import Learn
from optdsl.specifications import library

HERE = Path(__file__).parent
BUFFER, SLOT, OWN, INK = "#56B4E9", "#E69F00", "#E8E8E8", "#222222"
MEMBERS = ("Adam", "AVGrad", "Yogi", "Adan", "Lion")
# From the gradient down to the parameter: a buffer, a slot with its gates, or what stays apart.
ROWS = (
    ("g_prev", None), ("n", None), ("m", None), ("num", "κ"), ("h", "κ"), ("s", "c"),
    ("v", None), ("V", None), ("vhat", "ρ"), ("update", None), ("theta'", "γ, κ"),
)  # fmt: skip


def box(axes: Axes, left: float, right: float, row: int, text: str, colour: str) -> None:
    """A rounded box over the columns [left, right]."""
    axes.add_patch(
        FancyBboxPatch(
            (left + 0.06, row + 0.16),
            right - left - 0.12,
            0.68,
            boxstyle="round,pad=0,rounding_size=0.12",
            facecolor=colour,
            edgecolor=INK,
            linewidth=0.8,
        )
    )
    axes.text((left + right) / 2, row + 0.5, text, ha="center", va="center", fontsize=9, color=INK)


def draw_mada(path: Path) -> None:
    """The members of MADA as columns, its buffers and slots as boxes across them."""
    found = library.specification(library.open_source("mada"))
    combinations = {c.slot: c.parts for c in found.combinations}
    figure = Figure(figsize=(8.4, 5.6), dpi=200)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    for column, member in enumerate(MEMBERS):
        axes.text(column + 0.5, -0.45, member, ha="center", va="center", fontsize=11, weight="bold")
    for row, (name, gate) in enumerate(ROWS):
        if gate is not None:
            used = [p.partition(".")[0] for p in combinations[name]]
            right = len(MEMBERS) if "Lion" in used else len(MEMBERS) - 1
            box(axes, 0, right, row, f"{name}   mixed by {gate}", SLOT)
            continue
        if name == "update":
            box(axes, 0, 4, row, "update = num / (sqrt(vhat) + eps)", OWN)
            box(axes, 4, 5, row, "update = sign(…)", OWN)
            continue
        for state in found.program.states:
            if state.name in {name, f"{name}_lion"}:
                columns = [MEMBERS.index(o.partition(".")[0]) for o in state.origins]
                box(axes, min(columns), max(columns) + 1, row, state.name, BUFFER)
    for text, colour, left in (
        ("a buffer: one tensor, however many members use it", BUFFER, 0.0),
        ("a slot: the members' own equations, mixed", SLOT, 2.45),
    ):
        axes.add_patch(
            FancyBboxPatch(
                (left + 0.06, len(ROWS) + 0.3),
                0.18,
                0.3,
                boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=colour,
                edgecolor=INK,
                linewidth=0.8,
            )
        )
        axes.text(left + 0.34, len(ROWS) + 0.46, text, va="center", fontsize=9, color=INK)
    axes.set_xlim(0, len(MEMBERS))
    axes.set_ylim(len(ROWS) + 0.8, -0.9)
    axes.axis("off")
    figure.savefig(path)


def path_of_weights(exponentiated: bool) -> list[tuple[float, ...]]:
    """The weights of a mixture while it fits a curve, from the corner that is Adam."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
    x = torch.randn(256, 8) * torch.logspace(-1, 0.5, 8)
    y = torch.sin(x @ torch.randn(8, 1))
    rate = 40.0 if exponentiated else 2.0
    learn = {"w": Learn("sgd", lr=rate, exponentiated=exponentiated)}
    start = {"w_adam": 1.0, "w_yogi": 0.0, "w_lion": 0.0}
    optimizer = optdsl.blend("adam", "yogi", "lion", learn=learn)(
        model.parameters(), lr=3e-3, **start
    )
    found = []
    for _ in range(300):
        found.append(tuple(optimizer.param_groups[0][name] for name in start))
        batch = torch.randint(0, 256, (32,))
        loss = (model(x[batch]) - y[batch]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return found


def draw_simplex(path: Path) -> None:
    """Two ways in which weights leave a corner."""
    corners = {"Adam": (0.0, 0.0), "Yogi": (1.0, 0.0), "Lion": (0.5, math.sqrt(3) / 2)}
    figure = Figure(figsize=(8.4, 3.6), dpi=200)
    FigureCanvasAgg(figure)
    titles = ("Euclidean projection", "exponentiated gradient")
    for column, (title, exponentiated) in enumerate(zip(titles, (False, True), strict=True)):
        axes = figure.add_axes((0.02 + 0.5 * column, 0.02, 0.46, 0.86))
        triangle = [*corners.values(), next(iter(corners.values()))]
        axes.plot(*zip(*triangle, strict=True), color=INK, linewidth=1)
        weights = path_of_weights(exponentiated)
        points = [
            tuple(sum(w * c[i] for w, c in zip(ws, corners.values(), strict=True)) for i in (0, 1))
            for ws in weights
        ]
        axes.plot(*zip(*points, strict=True), color="#0072B2", linewidth=1.4)
        axes.plot(*zip(*points[::10], strict=True), "o", color="#0072B2", markersize=3.5)
        axes.plot(*points[-1], "o", color="#D55E00", markersize=7)
        for name, (x, y) in corners.items():
            below = y == 0
            axes.text(x, y - 0.05 if below else y + 0.03, name, ha="center",
                      va="top" if below else "bottom", fontsize=10, color=INK)  # fmt: skip
        axes.set_title(title, fontsize=11)
        axes.set_aspect("equal")
        axes.set_xlim(-0.15, 1.15)
        axes.set_ylim(-0.15, 1.0)
        axes.axis("off")
    figure.savefig(path)


if __name__ == "__main__":
    draw_mada(HERE / "mada.png")
    draw_simplex(HERE / "simplex.png")
