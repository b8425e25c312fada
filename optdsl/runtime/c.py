"""The engine for emitted C, called through a plain C interface."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from optdsl.backends.base import EntryPoint
from optdsl.backends.c import CBackend
from optdsl.ir.program import Program
from optdsl.runtime.cache import shared_library
from optdsl.runtime.calls import Call, Rows, opened
from optdsl.runtime.columns import Columns
from optdsl.runtime.engines import Known, Sums, Work
from optdsl.runtime.tables import TableEngine


class CEngine(TableEngine):
    """Runs the C backend's kernels on the CPU; see `optdsl.runtime.engines.Engine`."""

    def __init__(self, program: Program, dtype: torch.dtype, order: str) -> None:
        """Build a differentiated program for parameters of one dtype.

        Raises:
            NoCompiler, BuildError: as `optdsl.runtime.cache.shared_library`.
        """
        super().__init__(program, dtype, order, CBackend(), torch.device("cpu"))
        library = opened(shared_library(self.module.text, self.module.name))
        self._calls = {
            name: Call(entry, getattr(library, name)) for name, entry in self.module.entries.items()
        }

    def _called(
        self,
        entry: EntryPoint,
        works: Sequence[Work],
        columns: Columns,
        counts: Sequence[tuple[float, Tensor]],
        own: Known,
        finish: Callable[[], None],
    ) -> Sums:
        """See `TableEngine`.

        Raises:
            MemoryError: there is none for the working space.
            RuntimeError: a tensor has lost its memory.
            In both cases nothing has changed.
        """
        rows = Rows(entry.hypers, self._program)
        numbers = rows.of(works, counts)
        table = columns.table(numbers, entry.states, self._slots, own)
        if table is None:
            raise RuntimeError(f"{self._program.name}: a tensor has no memory of its own")
        return self._calls[entry.name](len(works), table, rows, finish)
