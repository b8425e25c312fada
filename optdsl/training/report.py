"""The comparison as a table and as a JSON summary."""

import json
import math
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from optdsl.training.results import TAIL, Comparison, Run, Status


def table(comparison: Comparison) -> Table:
    """Returns the final table; columns in which every row would be empty are left out."""
    best = comparison.best
    learned = any(run.coefficients for run in comparison.runs)
    partial = any(run.status is not Status.FINISHED for run in comparison.runs)
    title = f"{comparison.config.steps} steps, seed {comparison.config.seed}"
    result = Table(
        title=f"{title} (interrupted)" if comparison.interrupted else title,
        caption=(
            f"Losses in nats per character (unigram entropy {comparison.unigram_entropy:.3f}). "
            f"Train: mean over the last {min(TAIL, comparison.config.steps)} steps. "
            "Validation: after the last evaluation"
            + (", * lowest." if best else ".")
            + " Time: training steps only."
        ),
        box=box.SIMPLE_HEAD,
        padding=(0, 1),
        caption_justify="left",
        title_justify="left",
    )
    result.add_column("optimizer", no_wrap=True, overflow="ellipsis")
    result.add_column("train", justify="right", no_wrap=True)
    result.add_column("validation", justify="right", no_wrap=True)
    result.add_column("time", justify="right", no_wrap=True)
    if partial:
        result.add_column("outcome", min_width=11)
    if learned:
        result.add_column("learned coefficients", ratio=1)
    for run in comparison.runs:
        style = "bold green" if run is best else ""
        validation = _number(run.final_validation_loss) + (" *" if run is best else "  ")
        cells = [
            Text(run.optimizer),
            Text(_number(run.final_train_loss)),
            Text(validation, style=style),
            Text(f"{run.seconds:.1f} s" if run.records else "-"),
        ]
        if partial:
            ended_well = run.status is Status.FINISHED
            cells.append(Text(run.outcome, style="" if ended_well else "yellow"))
        if learned:
            cells.append(Text(_coefficients(run)))
        result.add_row(*cells)
    return result


def write_summary(comparison: Comparison, path: Path) -> None:
    """Writes the request and the final results as JSON."""
    summary = {
        "config": comparison.config.model_dump(mode="json"),
        "interrupted": comparison.interrupted,
        "characters": comparison.characters,
        "vocabulary": comparison.vocabulary,
        "parameters": comparison.parameters,
        "unigram_entropy": comparison.unigram_entropy,
        "best": comparison.best.optimizer if comparison.best else None,
        "runs": [
            {
                "optimizer": run.optimizer,
                "status": run.status.value,
                "steps": len(run.records),
                "seconds": run.seconds,
                "final_train_loss": run.final_train_loss,
                "final_validation_loss": run.final_validation_loss,
                # JSON knows no NaN.
                "coefficients": {
                    name: value if math.isfinite(value) else None
                    for name, value in run.coefficients.items()
                },
            }
            for run in comparison.runs
        ],
    }
    path.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _coefficients(run: Run) -> str:
    # No space within a pair, so that lines break between pairs only.
    return "  ".join(f"{name}={value:.4g}" for name, value in run.coefficients.items())
