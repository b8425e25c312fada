"""What every backend makes and how it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from optdsl.plan import Kind
from optdsl.schedule import Kernel

# How the elements of a parameter may be stored.
DTYPES = ("float32", "float64", "bfloat16", "float16")


@dataclass(frozen=True)
class EntryPoint:
    """A function of an emitted module: what it takes and what it returns, in order.

    Attributes:
        name: the function's name.
        states: the states it takes by position, after the parameter and its gradient.
        hypers: the hyperparameters it takes.
        keywords: the keywords under which it takes them.
        takes_step: whether it takes the step count, as keyword ``t`` or before the others.
        results: the names of what it returns: ``theta`` and states.
        dots: what it sums over all elements, by hyperparameter.
        buffers: in whose memory a state is afterwards, where that is another state's.
    """

    name: str
    states: tuple[str, ...]
    hypers: tuple[str, ...]
    keywords: tuple[str, ...]
    takes_step: bool
    results: tuple[str, ...]
    dots: tuple[str, ...] = ()
    buffers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SourceModule:
    """Emitted source text and its entry points by name."""

    name: str
    language: str
    text: str
    entries: Mapping[str, EntryPoint]


class Backend(Protocol):
    """A way to spell kernels in some language."""

    name: str
    plans: tuple[Kind, ...]
    """The ways to have tangents that it can run."""

    def emit(
        self, kernels: Mapping[str, Kernel], dtype: str, order: str = "overlapped"
    ) -> SourceModule:
        """The source text of a rule's kernels.

        Args:
            kernels: by name, as `schedule` makes them.
            dtype: of `DTYPES`, that of the parameters.
            order: when coefficients move, which says what kernels are needed.
        """

    def spellings(self) -> frozenset[str]:
        """The operations that the backend can spell."""
