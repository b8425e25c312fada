"""Files of results: a CSV log that survives interruption, and atomic replacement."""

import csv
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

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


class BoardLog:
    """The losses and metrics of every step for TensorBoard; a run per optimizer and seed."""

    def __init__(self, directory: Path) -> None:
        """Writes no file yet.

        Raises:
            TrainingError: TensorBoard is not installed.
        """
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise TrainingError(
                "logging for TensorBoard needs it installed: pip install tensorboard"
            ) from None
        self._directory = directory
        self._make: Callable[[str], Any] = SummaryWriter
        self._writers: dict[str, Any] = {}

    def __enter__(self) -> Self:
        """Returns the log itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        for writer in self._writers.values():
            writer.close()

    def write(self, optimizer: str, seed: int, record: Record) -> None:
        """Adds the scalars of one training step."""
        run = f"{optimizer}-seed{seed}"
        if run not in self._writers:
            self._writers[run] = self._make(str(self._directory / run))
        scalars = {"loss/train": record.train_loss, "learning_rate": record.learning_rate}
        if record.validation_loss is not None:
            scalars["loss/validation"] = record.validation_loss
        scalars |= {f"optimizer/{name}": value for name, value in record.metrics.items()}
        for tag, value in scalars.items():
            self._writers[run].add_scalar(tag, value, record.step)


class Rows(Protocol):
    """What takes note of every step."""

    def write(self, optimizer: str, seed: int, record: Record) -> None:
        """Takes note of one training step."""


class Both:
    """Two logs as one."""

    def __init__(self, first: Rows, second: Rows) -> None:
        """Writes to the first one first."""
        self._logs = first, second

    def write(self, optimizer: str, seed: int, record: Record) -> None:
        """See `Rows`."""
        for log in self._logs:
            log.write(optimizer, seed, record)


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
