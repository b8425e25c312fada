"""The comparison as a table and as a JSON summary."""

import json
import math
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from optdsl.training import tuning
from optdsl.training.loop import schedule_in_words
from optdsl.training.results import TAIL, Comparison, Entry, Setup, Spread
from optdsl.words import counted


def table(comparison: Comparison) -> Group:
    """Returns the final tables, without columns that would be empty, and their caption."""
    parts = [_losses(comparison)]
    learned = [(entry.optimizer, x) for entry in comparison.entries if (x := _coefficients(entry))]
    if learned:
        parts.append(_table(None))
        parts[-1].add_column("learned coefficients")
        for row in learned:
            parts[-1].add_row(*map(Text, row))
    return Group(*parts, Text(_caption(comparison), style="dim italic"))


def _losses(comparison: Comparison) -> Table:
    best = comparison.best
    partial = any(not entry.finished for entry in comparison.entries)
    title = headline(comparison)
    result = _table(f"{title} (interrupted)" if comparison.interrupted else title)
    result.add_column("learning rate", no_wrap=True)
    for name in ("train", "validation", "time"):
        result.add_column(name, justify="right", no_wrap=True)
    if partial:
        result.add_column("outcome", min_width=11)
    for entry in comparison.entries:
        style = "bold green" if entry is best else ""
        validation = number(entry.validation_loss) + (" *" if entry is best else "  ")
        started = any(run.records for run in entry.runs)
        cells = [
            Text(entry.optimizer),
            Text(rate(entry.setup)),
            Text(number(entry.train_loss)),
            Text(validation, style=style),
            Text(f"{entry.seconds:.1f} s" if started else "-"),
        ]
        if partial:
            cells.append(Text(entry.outcome, style="" if entry.finished else "yellow"))
        result.add_row(*cells)
    return result


def _table(title: str | None) -> Table:
    """Returns a table with a column for the optimizers' names."""
    style: dict[str, Any] = {"padding": (0, 1), "collapse_padding": True, "pad_edge": False}
    result = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left", **style)
    result.add_column("optimizer", no_wrap=True, overflow="ellipsis")
    return result


def headline(comparison: Comparison) -> str:
    """Returns steps and seeds in words."""
    config = comparison.config
    seeds = config.all_seeds
    told = f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"
    return f"{counted(config.steps, 'step')}, {told}"


def rates_in_words(comparison: Comparison) -> str:
    """Returns a sentence on the origin of the learning rates and on their schedule."""
    config = comparison.config
    origins = {entry.setup.origin for entry in comparison.entries}
    told = {
        "file": "each file's own default" if len(origins) == 1 else "the file's own default",
        "set": "set: by --set",
        "tuned": f"tuned: {tuning.budget_in_words(config)}",
    }
    where = "; ".join(words for origin, words in told.items() if origin in origins)
    schedule = schedule_in_words(config.steps)
    return f"Learning rate at its peak ({where}); schedule: {schedule}."


def rate(setup: Setup) -> str:
    """Returns a learning rate, with its origin unless that is the file."""
    marked = "" if setup.origin == "file" else f" ({setup.origin})"
    return f"{setup.learning_rate:.4g}{marked}"


def number(spread: Spread | None) -> str:
    """Returns a loss with its standard deviation over the seeds, if there are several."""
    if spread is None:
        return "-"
    return f"{spread.mean:.3f}" + ("" if spread.deviation is None else f" ± {spread.deviation:.3f}")


def _caption(comparison: Comparison) -> str:
    config = comparison.config
    sentences = [
        f"Losses in {comparison.unit}{_entropy(comparison)}.",
        f"Train: mean over the last {counted(min(TAIL, config.steps), 'step')}.",
        "Validation: after the last evaluation" + (", * lowest." if comparison.best else "."),
        "Mean ± standard deviation over the seeds." if config.seeds > 1 else "",
        rates_in_words(comparison),
        "Time: training steps only.",
    ]
    return " ".join(sentence for sentence in sentences if sentence)


def _entropy(comparison: Comparison) -> str:
    entropy = comparison.unigram_entropy
    return "" if entropy is None else f" (unigram entropy {entropy:.3f})"


def write_summary(comparison: Comparison, path: Path) -> None:
    """Writes the request and the final results as JSON."""
    summary = {
        "config": comparison.config.model_dump(mode="json"),
        "interrupted": comparison.interrupted,
        "characters": comparison.characters,
        "vocabulary": comparison.vocabulary,
        "unit": comparison.unit,
        "parameters": comparison.parameters,
        "unigram_entropy": comparison.unigram_entropy,
        "best": comparison.best.optimizer if comparison.best else None,
        "schedule": schedule_in_words(comparison.config.steps),
        "optimizers": [
            {
                "optimizer": entry.optimizer,
                "learning_rate": _json(entry.setup.learning_rate),
                "learning_rate_from": entry.setup.origin,
                "train_loss": _spread(entry.train_loss),
                "validation_loss": _spread(entry.validation_loss),
                "search": [
                    {"learning_rate": t.learning_rate, "validation_loss": t.validation_loss}
                    for t in comparison.searches.get(entry.optimizer, ())
                ],
            }
            for entry in comparison.entries
        ],
        "runs": [
            {
                "optimizer": run.optimizer,
                "seed": run.seed,
                "status": run.status.value,
                "steps": len(run.records),
                "seconds": run.seconds,
                "final_train_loss": run.final_train_loss,
                "final_validation_loss": run.final_validation_loss,
                "coefficients": {name: _json(value) for name, value in run.coefficients.items()},
            }
            for run in comparison.runs
        ],
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _json(value: float) -> float | None:
    return value if math.isfinite(value) else None  # JSON has no NaN


def _spread(spread: Spread | None) -> dict[str, float | None] | None:
    return None if spread is None else {"mean": spread.mean, "deviation": spread.deviation}


def _coefficients(entry: Entry) -> str:
    # There are no spaces within a pair, so that lines break between pairs only.
    return "  ".join(
        f"{name}={spread.mean:.4g}"
        + ("" if spread.deviation is None else f"±{spread.deviation:.2g}")
        for name, spread in entry.coefficients.items()
    )
