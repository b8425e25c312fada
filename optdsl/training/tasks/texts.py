"""Tasks that learn to continue a text."""

from __future__ import annotations

import math
from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optdsl.training.config import TrainingError
from optdsl.training.loop import validation_loss
from optdsl.training.model import CharacterTransformer, window_loss
from optdsl.training.problem import Problem, Sources
from optdsl.training.tasks.base import Task, initialized
from optdsl.training.text import (
    Corpus,
    load_corpus,
    random_windows,
    read_standard_library,
    read_text,
    spaced_windows,
)

WINDOWS = 64  # of each evaluation


class CharacterTask(Task):
    """A transformer of characters."""

    name = "characters"
    summary = "a two-layer transformer on the characters of a text"
    unit = "nats per character"
    steps, quick_steps, learning_rate = 300, 30, 3e-3
    block, batch, layers, width = 64, 16, 2, 64

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        train, validation, symbols = self._symbols(sources.text)
        model = CharacterTransformer(symbols, self.block, self.layers, self.width, 4, seed)
        return text_problem(model, train, validation, self.block, self.batch, symbols)

    def _symbols(self, path: Path | None) -> tuple[Tensor, Tensor, int]:
        """Returns the indices to train on, those to validate on, and how many symbols exist."""
        corpus = _corpus(path, self.block)
        return corpus.train, corpus.validation, len(corpus.vocabulary)


class ByteTask(CharacterTask):
    """A wider transformer of bytes, with short blocks."""

    name = "bytes"
    summary = "a one-layer transformer on the bytes of a text"
    unit = "nats per byte"
    block, batch, layers, width = 32, 32, 1, 96

    def _symbols(self, path: Path | None) -> tuple[Tensor, Tensor, int]:
        data = _bytes(path)
        split = len(data) * 9 // 10
        if len(data) < 10 * (self.block + 1):
            raise TrainingError(f"the text has only {len(data)} bytes; give a longer one")
        return data[:split], data[split:], 256


class RecurrentTask(CharacterTask):
    """A recurrent network of characters."""

    name = "recurrent"
    summary = "a gated recurrent network on the characters of a text"
    steps, quick_steps, learning_rate = 300, 20, 5e-3
    block, batch = 32, 16

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        train, validation, symbols = self._symbols(sources.text)
        model = initialized(Recurrent(symbols, 64), seed)
        return text_problem(model, train, validation, self.block, self.batch, symbols)


class Recurrent(nn.Module):
    """Embeds symbols, and predicts the next one from the state of a GRU."""

    def __init__(self, symbols: int, width: int) -> None:
        """Creates the layers, with weights that are to be drawn anew."""
        super().__init__()
        self.embedding = nn.Embedding(symbols, width)
        self.cell = nn.GRU(width, width, batch_first=True)
        self.output = nn.Linear(width, symbols)

    def forward(self, symbols: Tensor) -> Tensor:
        """Returns next-symbol logits of shape (batch, time, symbols)."""
        hidden, _ = self.cell(F.layer_norm(self.embedding(symbols), (self.cell.input_size,)))
        logits: Tensor = self.output(hidden)
        return logits


def text_problem(
    model: nn.Module, train: Tensor, validation: Tensor, block: int, batch: int, symbols: int
) -> Problem:
    """Returns the problem of predicting each next symbol of a text."""
    return window_problem(
        model, train, spaced_windows(validation, block, WINDOWS), block, batch, symbols
    )


def window_problem(
    model: nn.Module, train: Tensor, windows: Tensor, block: int, batch: int, symbols: int
) -> Problem:
    """Returns the same problem with the windows of the validation loss, `batch` at a time."""

    def train_loss(generator: torch.Generator) -> Tensor:
        return window_loss(model, random_windows(train, block, batch, generator))

    def evaluated() -> float:
        return validation_loss(model, windows, batch)

    return Problem(model, train_loss, evaluated, batch * block, math.log(symbols))


@lru_cache(maxsize=4)
def _corpus(path: Path | None, block: int) -> Corpus:
    return load_corpus(path, block)


@lru_cache(maxsize=4)
def _bytes(path: Path | None) -> Tensor:
    text = read_standard_library() if path is None else read_text(path)
    return torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
