"""Trajectories of coefficients that are learned from a sample of the elements, and from all.

`python -m benchmarks.sampled` trains the transformer of `optdsl train`, twice as wide and with
small batches, by MADA. It does so with several seeds, and with each of them twice: hyper-gradients
are sums over every element, or over an eighth of those of the large matrices. It prints how far the
two trajectories of a coefficient are apart, beside how far those of two seeds are, and draws all of
them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from torch.optim import Optimizer

import optdsl
from benchmarks.contestants import SAMPLE
from optdsl.training import Comparison, compare, configure

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "sampled.png"

# Where each coefficient starts, the rate at which it is learned, and its bounds. MADA's own rates
# are for longer training: with these, coefficients cross a good part of their bounds.
COEFFICIENTS = {
    "c": (0.5, 30.0, (0.0, 1.0)),
    "rho": (0.5, 1.5, (0.0, 1.0)),
    "kappa": (0.3, 1.5, (0.0, 1.0)),
    "gamma": (0.7, 0.1, (0.0, 1.0)),
    "beta1": (0.9, 0.01, (0.5, 0.99)),
    "beta2": (0.95, 0.01, (0.5, 0.99)),
}
LEARNING_RATE = 6e-4
# Two matrices in each layer, those of its perceptron, have 128 blocks of 2048 elements, which is
# just enough to be sampled: two thirds of all parameters. In a model of the default width none has
# as many.
MODEL = {"layers": 4, "width": 256, "block": 64, "batch": 4, "validation_windows": 16}
EVERY, SAMPLED = "every", "sampled"
# The colour-blind-safe palette of Okabe and Ito without yellow: one for each seed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000", "#56B4E9")

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Difference:
    """How far trajectories of a coefficient are apart: means over all steps.

    Attributes:
        sampled: between learning from a sample and from every element, over the seeds.
        seeds: between two seeds, both learning from every element, over all pairs of seeds.
    """

    sampled: float
    seeds: float


def difference(every: Floats, sampled: Floats) -> Difference:
    """The differences of the trajectories of one coefficient.

    Args:
        every: values learned from every element, shape (seeds, steps), with two seeds or more.
        sampled: those learned from a sample, of the same shape, with the same seeds.
    """
    if every.shape != sampled.shape or len(every) < 2:
        raise ValueError("trajectories of the same two or more seeds are needed")
    apart = [float(np.abs(a - b).mean()) for a, b in combinations(every, 2)]
    return Difference(float(np.abs(sampled - every).mean()), fmean(apart))


def load(name: str) -> type[Optimizer]:
    """MADA, learning from every element or from a sample."""
    options = {"sample": SAMPLE} if name == SAMPLED else {}
    learn = {
        coefficient: optdsl.Learn("sgd", lr=rate, bounds=bounds, **options)
        for coefficient, (_, rate, bounds) in COEFFICIENTS.items()
    }
    return optdsl.load("mada", learn=learn)


def trajectories(comparison: Comparison, label: str) -> dict[str, Floats]:
    """The values of each coefficient after every step, shape (seeds, steps)."""
    (entry,) = (entry for entry in comparison.entries if entry.optimizer == label)
    return {
        name: np.array([[r.metrics[name] for r in run.records] for run in entry.runs])
        for name in COEFFICIENTS
    }


def table(found: dict[str, Difference]) -> str:
    """The differences of all coefficients, in Markdown."""
    lines = [
        f"| | sample 1/{SAMPLE} and every element | two seeds | ratio |",
        "|---|---|---|---|",
    ]
    for name, apart in found.items():
        ratio = apart.sampled / apart.seeds
        lines.append(f"| `{name}` | {apart.sampled:.4f} | {apart.seeds:.4f} | {ratio:.2f} |")
    return "\n".join(lines)


def draw(every: dict[str, Floats], sampled: dict[str, Floats], path: Path) -> None:
    """A panel for each coefficient: a colour for each seed, dashes for what is sampled."""
    figure = Figure(figsize=(9.6, 5.4), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 3, sharex=True).flatten()
    for axes, name in zip(panels, COEFFICIENTS, strict=True):
        for seed, (full, part) in enumerate(zip(every[name], sampled[name], strict=True)):
            colour = COLOURS[seed % len(COLOURS)]
            steps = np.arange(1, len(full) + 1)
            axes.plot(steps, full, color=colour, linewidth=1.3, label="every element")
            axes.plot(
                steps, part, color=colour, linewidth=1.3, linestyle=(0, (3, 1.5)), label="sample"
            )
        axes.set_title(name, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#dddddd", linewidth=0.5)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
        axes.set_xlim(0, len(steps))
    for axes in panels[-3:]:
        axes.set_xlabel("step", fontsize=10)
    lines = panels[0].get_lines()[:2]
    figure.legend(
        lines,
        ["every element", f"sample 1/{SAMPLE}; one colour for each seed"],
        loc="outside upper right",
        ncols=2,
        fontsize=9,
        frameon=False,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Trains, prints and draws; 1 where a run diverged, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampled", description=__doc__)
    parser.add_argument("--steps", type=int, default=100, help="of each training (default: 100)")
    parser.add_argument("--seeds", type=int, default=6, help="two or more (default: 6)")
    parser.add_argument(
        "--out", type=Path, default=Path("sampled"), metavar="DIR", help="for losses and values"
    )
    parser.add_argument("--picture", type=Path, default=PICTURE, metavar="PNG", help="to draw")
    options = parser.parse_args(arguments)
    if options.seeds < 2 or options.steps < 1:
        parser.error("trajectories of two or more seeds, with a step or more, are compared")
    starts = {name: start for name, (start, _, _) in COEFFICIENTS.items()}
    hypers = {**starts, "lr": LEARNING_RATE}
    request = configure(
        optimizers=(EVERY, SAMPLED),
        steps=options.steps,
        seeds=options.seeds,
        overrides={EVERY: hypers, SAMPLED: hypers},
        out=options.out,
        evaluate_every=options.steps,
        **MODEL,
        formats=("png",),
    )
    comparison = compare(request, Console(), load)
    if comparison.interrupted:
        return 130
    lost = [entry.outcome for entry in comparison.entries if not entry.finished]
    if lost:
        print(f"Nothing is compared, since not all runs finished: {'; '.join(lost)}.")
        return 1
    every, sampled = (trajectories(comparison, label) for label in (EVERY, SAMPLED))
    print(table({name: difference(every[name], sampled[name]) for name in COEFFICIENTS}))
    draw(every, sampled, options.picture)
    print(f"drawn: {options.picture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
