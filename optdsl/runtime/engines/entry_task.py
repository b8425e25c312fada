"""What an entry point of a module is called with, whatever language it is in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from optdsl.backends.base import EntryPoint
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.segment_columns import SegmentColumns
from optdsl.runtime.engines.tensor_table import TensorTable


class Task(NamedTuple):
    """A call of an entry point.

    Attributes:
        entry: the entry point.
        works: what it is for.
        columns: the tensors or the parts of them, as the kernels expect them.
        counts: of the step, by work, from 1.
        pending: the different rows of `PENDING_HYPERS`, and which each work has; None where the
            entry point does not ask for them.
        own: what is kept for the entry point from call to call.
        finish: notes what was done.
    """

    entry: EntryPoint
    works: Sequence[ParameterTask]
    columns: TensorTable | SegmentColumns
    counts: Sequence[float]
    pending: tuple[list[list[float]], list[int]] | None
    own: StepCache
    finish: Callable[[], None]
