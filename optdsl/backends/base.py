"""What every backend makes and how it is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from optdsl.schedule import Kernel


@dataclass(frozen=True)
class EntryPoint:
    """A function of an emitted module: what it takes and what it returns, in order.

    Attributes:
        name: the function's name.
        states: the states it takes by position, after the parameter and its gradient.
        hypers: the hyperparameters it takes.
        keywords: the keywords under which it takes them.
        takes_step: whether it takes the step count as keyword ``t``.
        results: the names of what it returns: ``theta``, states, ``tangent/<hyper>``.
    """

    name: str
    states: tuple[str, ...]
    hypers: tuple[str, ...]
    keywords: tuple[str, ...]
    takes_step: bool
    results: tuple[str, ...]


@dataclass(frozen=True)
class SourceModule:
    """Emitted source text and its two entry points."""

    name: str
    language: str
    text: str
    initialize: EntryPoint
    step: EntryPoint


class Backend(Protocol):
    """A way to spell kernels in some language."""

    name: str

    def emit(self, kernels: Sequence[Kernel]) -> SourceModule:
        """The source text of a rule's kernels, `initialize` and `step`."""

    def spellings(self) -> frozenset[str]:
        """The operations that the backend can spell."""
