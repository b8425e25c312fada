"""A comparison as one HTML file, in the form of the reports of studies."""

from __future__ import annotations

import shlex
from pathlib import Path

from optdsl.pages.claims import Chapter, Chart, Claim, Table
from optdsl.pages.html import Page, render
from optdsl.training import figure
from optdsl.training.report import headline, number, rate, rates_in_words
from optdsl.training.results import Comparison
from optdsl.words import counted

FIGURES = "figures"  # the directory of the page's figures, as files


def write_page(comparison: Comparison, path: Path) -> None:
    """Writes the page; its figures also go as PNG and SVG to the directory `figures` beside it."""
    figures = comparison.config.out / FIGURES
    figures.mkdir(exist_ok=True)
    path.write_text(render(_page(comparison), figures), encoding="utf-8")


def _page(comparison: Comparison) -> Page:
    config = comparison.config
    what = config.task or "a character transformer"
    charts = [
        Chart(
            "losses",
            f"Training and validation losses. {figure.caption_of(comparison)}",
            lambda empty: figure.draw_loss_panels(empty, comparison),
            (9.0, 3.6),
        )
    ]
    height = figure.coefficient_height(comparison)
    if height:
        charts.append(
            Chart(
                "coefficients",
                "The learned coefficients after every step.",
                lambda empty: figure.draw_coefficient_panels(empty, comparison),
                (9.0, height),
            )
        )
    best = comparison.best
    claim = Claim(
        "Losses",
        "",
        f"{rates_in_words(comparison)} Losses in {comparison.unit}."
        + ("" if best is None else f" The lowest validation loss is that of {best.optimizer}."),
        (),
        tuple(charts),
        (_losses(comparison), *_coefficients(comparison)),
        judged=False,
    )
    introduction = f"{what}, {counted(comparison.parameters, 'parameter')}, {headline(comparison)}."
    failures = [
        f"{run.optimizer}, seed {run.seed}: {run.outcome}"
        for run in comparison.runs
        if run.status.value != "finished"
    ]
    return Page(
        "Optimizers compared",
        [introduction],
        [Chapter("comparison", "Results", "Every optimizer had the same batches.", [claim])],
        {"comparison": _command(comparison)},
        failures,
    )


def _losses(comparison: Comparison) -> Table:
    rows = tuple(
        (
            entry.optimizer,
            rate(entry.setup),
            number(entry.train_loss),
            number(entry.validation_loss),
            f"{entry.seconds:.1f} s",
        )
        for entry in comparison.entries
    )
    return Table("Losses", ("optimizer", "learning rate", "train", "validation", "time"), rows)


def _coefficients(comparison: Comparison) -> tuple[Table, ...]:
    rows = tuple(
        (f"{entry.optimizer}: {name}", f"{spread.mean:.4g}")
        for entry in comparison.entries
        for name, spread in entry.coefficients.items()
    )
    return (Table("Coefficients at the end", ("coefficient", "value"), rows),) if rows else ()


def _command(comparison: Comparison) -> str:
    config = comparison.config
    words = ["optdsl", "train", "--optimizers", ",".join(config.optimizers)]
    for name in ("task", "text", "images"):
        value = getattr(config, name)
        words += [] if value is None else [f"--{name}", Path(value).name]
    words += ["--steps", str(config.steps), "--seed", str(config.seed)]
    words += ["--seeds", str(config.seeds)] if config.seeds > 1 else []
    words += ["--tuned"] if config.tuned else []
    for label, hypers in config.overrides.items():
        for hyper, value in hypers.items():
            words += ["--set", f"{label}.{hyper}={value!r}"]
    return shlex.join(words)
