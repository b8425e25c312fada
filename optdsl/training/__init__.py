"""Comparison of optimizers on a small character-level transformer.

`compare` trains the same model with each optimizer, once per seed, from the same initial weights
and on the same sequence of batches, and writes a CSV file, a figure and a summary.  Importing this
package is cheap: PyTorch, Matplotlib and the rest are imported when `compare` is first looked up.
"""

from typing import TYPE_CHECKING

from optdsl.training.config import (
    DEFAULT_OPTIMIZERS,
    TrainingConfig,
    TrainingError,
    configure,
    parse_overrides,
)
from optdsl.training.results import Comparison, Entry, Record, Run, Setup, Space, Status

if TYPE_CHECKING:
    from optdsl.training.engine import compare

__all__ = [
    "DEFAULT_OPTIMIZERS",
    "Comparison",
    "Entry",
    "Record",
    "Run",
    "Setup",
    "Space",
    "Status",
    "TrainingConfig",
    "TrainingError",
    "compare",
    "configure",
    "parse_overrides",
]


def __getattr__(name: str) -> object:
    if name != "compare":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from optdsl.training.engine import compare

    return compare


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
