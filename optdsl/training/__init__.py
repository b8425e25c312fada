"""Comparison of optimizers on a small character-level transformer.

`compare` trains the same model once per optimizer, from the same initial weights and on the same
sequence of batches, and writes a CSV file, a figure and a summary.  Importing this package is
cheap: PyTorch, Matplotlib and the rest are imported when `compare` is first looked up.
"""

from typing import TYPE_CHECKING

from optdsl.training.config import (
    DEFAULT_LEARNING_RATES,
    DEFAULT_OPTIMIZERS,
    TrainingConfig,
    TrainingError,
    configure,
    parse_overrides,
)

if TYPE_CHECKING:
    from optdsl.training.engine import compare
    from optdsl.training.results import Comparison, Record, Run, Status

__all__ = [
    "DEFAULT_LEARNING_RATES",
    "DEFAULT_OPTIMIZERS",
    "Comparison",
    "Record",
    "Run",
    "Status",
    "TrainingConfig",
    "TrainingError",
    "compare",
    "configure",
    "parse_overrides",
]


def __getattr__(name: str) -> object:
    if name == "compare":
        from optdsl.training import engine

        return engine.compare
    if name in {"Comparison", "Record", "Run", "Status"}:
        from optdsl.training import results

        return getattr(results, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
