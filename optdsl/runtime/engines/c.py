"""The engine for emitted C, called through a plain C interface."""

from __future__ import annotations

from collections.abc import Callable

import torch

from optdsl.artifact import Artifact
from optdsl.backends.base import SourceModule
from optdsl.runtime.build.library_cache import discard, shared_library
from optdsl.runtime.build.toolchain import BuildError
from optdsl.runtime.core.tasks import HyperGradients
from optdsl.runtime.engines.call_arguments import Call, Rows, opened
from optdsl.runtime.engines.entry_task import Task
from optdsl.runtime.engines.origins import Origins
from optdsl.runtime.engines.packed import PackedEngine

# From how many operations on elements on a call is divided among threads. Waking them takes as long
# as some hundred thousand operations.
_WORTH_THREADS = 2**20


class CEngine(PackedEngine):
    """Runs the C backend's kernels on the CPU; see `optdsl.runtime.core.tasks.Engine`."""

    def __init__(self, artifact: Artifact) -> None:
        """Build what was compiled.

        Raises:
            NoCompiler, BuildError: as `optdsl.runtime.build.library_cache.shared_library`.
        """
        super().__init__(artifact, torch.device("cpu"))
        functions = functions_of(self.module)
        self._calls = {
            name: Call.typed(entry, functions[name]) for name, entry in self.module.entries.items()
        }

    def _called(self, task: Task) -> HyperGradients:
        """See `PackedEngine`.

        Raises:
            MemoryError: there is none for the working space.
            RuntimeError: a tensor has lost its memory, or numbers are drawn for one of which it is
                not known which of which optimizer it is.
            ValueError: random numbers are drawn at a counter that is no finite number.
            In all cases nothing has changed.
        """
        rows = Rows(task.entry.hypers, self._program)
        numbers = rows.of(task.works, task.counts, task.pending)
        origins = task.own.get(Origins).of(task.works, self._program) if self._draws else None
        table = task.columns.table(numbers, task.entry.states, self._slots, task.own, origins)
        if table is None:
            raise RuntimeError(f"{self._program.name}: a tensor has no memory of its own")
        sizes = task.columns.sizes
        work = sum(sizes) * len(self._program.operations)
        call = self._calls[task.entry.name]
        return call(len(sizes), table, rows, task.finish, alone=work < _WORTH_THREADS)


def functions_of(module: SourceModule) -> dict[str, Callable[..., int]]:
    """The entry points of a module, built or from the cache."""
    library = shared_library(module.text, module.name)
    try:
        return opened(library, module.entries)
    except BuildError:
        # Something has changed since it was built and kept, or the entry is another's.
        discard(library)
        return opened(shared_library(module.text, module.name), module.entries)
