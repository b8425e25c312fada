"""What is known of the tensors of a call before it, and what a call leaves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.tensor_table import TensorTable


@dataclass
class Prepared:
    """The tensors of the next call, where it is known that they are plain.

    They are those of a call that completed steps, for the call that takes the next ones in the same
    step of the optimizer: what lies between moves coefficients, and no tensor. Or they are those of
    the step before, and were looked at already (see `Look`). Nothing is kept from one step to the
    next.

    Attributes:
        works: those of the call; None where nothing is known.
        columns: their tensors.
        apart: whether they overlap with nothing, gradients included.
        noted: whether their counts and `PENDING_HYPERS` are those in `NumbersKept`.
    """

    works: Sequence[ParameterTask] | None = None
    columns: TensorTable | None = None
    apart: bool = False
    noted: bool = False

    def put(
        self, works: Sequence[ParameterTask], columns: TensorTable, *, apart: bool, noted: bool
    ) -> None:
        """Note what is known of the next call."""
        self.works, self.columns, self.apart, self.noted = works, columns, apart, noted

    def take(self, works: Sequence[ParameterTask]) -> Prepared:
        """What is known of a call, and forget it; nothing where it was noted for other works."""
        found = Prepared()
        if works is self.works and self.columns is not None:
            found = Prepared(works, self.columns, self.apart, self.noted)
        self.works = self.columns = None
        return found


@dataclass
class Left:
    """What the calls of an engine in one step leave, for whoever asks before the step.

    Attributes:
        asked: whether somebody asks.
        works: those of the last call, all of whose tensors were plain and apart from each other;
            None where there was none.
        columns: their tensors after it.
        buffers: in whose memory states are after each call; see `EntryPoint.buffers`.
    """

    asked: bool = False
    works: Sequence[ParameterTask] | None = None
    columns: TensorTable | None = None
    buffers: list[Mapping[str, str]] = field(default_factory=list)

    def ask(self) -> None:
        """Begin a step."""
        self.asked, self.works, self.columns, self.buffers = True, None, None, []

    def note(
        self, works: Sequence[ParameterTask], columns: TensorTable, buffers: Mapping[str, str]
    ) -> None:
        """Note a call, if somebody asks."""
        if self.asked:
            self.works, self.columns = works, columns.exchanged(buffers)
            self.buffers.append(buffers)

    def forget(self) -> None:
        """End a step, so that no gradient is kept."""
        self.asked, self.works, self.columns, self.buffers = False, None, None, []
