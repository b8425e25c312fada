"""Files of results: a CSV log that survives interruption, and atomic replacement."""

import csv
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from optdsl.training.config import TrainingError
from optdsl.training.results import Record

_PACE = ("learning_rate", "tokens_per_second", "seconds")
COLUMNS = ("optimizer", "seed", "step", "train_loss", "validation_loss", *_PACE)


class CsvLog:
    """A CSV file with a row per optimizer, seed and step, flushed after every row.

    The columns are `COLUMNS`, then the metrics of all optimizers; a cell is empty where an
    optimizer has no such metric or the validation loss was not evaluated.
    """

    def __init__(self, path: Path, metrics: Sequence[str]) -> None:
        """Creates the file, replacing an older one, and writes the header.

        Raises:
            TrainingError: The file cannot be written.
        """
        self._metrics = tuple(metrics)
        try:
            self._file = path.open("w", encoding="utf-8", newline="")
        except OSError as error:
            raise TrainingError(f"cannot write '{path}': {error.strerror or error}") from None
        self._writer = csv.writer(self._file)
        # A metric may have the name of a fixed column; the columns' names must be distinct.
        self._write([*COLUMNS, *(f"metric/{m}" if m in COLUMNS else m for m in self._metrics)])

    def __enter__(self) -> Self:
        """Returns the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the file."""
        self._file.close()

    def write(self, optimizer: str, seed: int, record: Record) -> None:
        """Appends the row of one training step."""
        self._write(
            [
                optimizer,
                seed,
                record.step,
                record.train_loss,
                "" if record.validation_loss is None else record.validation_loss,
                record.learning_rate,
                f"{record.tokens_per_second:.1f}",
                f"{record.seconds:.4f}",
                *(record.metrics.get(metric, "") for metric in self._metrics),
            ]
        )

    def _write(self, row: Sequence[object]) -> None:
        self._writer.writerow(row)
        self._file.flush()


def prepare_directory(path: Path) -> None:
    """Creates a directory unless it exists, and checks that files can be created in it.

    Raises:
        TrainingError: It is not a directory or not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except FileExistsError:
        raise TrainingError(f"'{path}' is a file; give a directory for the results") from None
    except OSError as error:
        raise TrainingError(
            f"cannot write to directory '{path}': {error.strerror or error}; give another one"
        ) from None


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file atomically.

    Args:
        path: The file to create or replace.
        write: Writes the new contents to the path it is given, which has the same suffix.

    Raises:
        TrainingError: The file cannot be written.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        write(temporary)
        temporary.replace(path)
    except OSError as error:
        raise TrainingError(f"cannot write '{path}': {error.strerror or error}") from None
    finally:
        temporary.unlink(missing_ok=True)
