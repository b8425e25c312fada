"""Calls of entry points in compiled libraries, through ctypes."""

from __future__ import annotations

import ctypes
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from optdsl.backends.base import EntryPoint
from optdsl.ir.program import Program
from optdsl.plan.keys import pending
from optdsl.runtime.build.toolchain import BuildError
from optdsl.runtime.core.tasks import HyperGradients, ParameterTask


def opened(path: Path, names: Iterable[str]) -> dict[str, Callable[..., int]]:
    """The functions of a library, by their names.

    Raises:
        BuildError: it cannot be loaded, or lacks one of them.
    """
    try:
        library = ctypes.CDLL(str(path))
    except OSError as trouble:
        raise BuildError(f"{path.name} was built and cannot be loaded: {trouble}") from trouble
    try:
        return {name: getattr(library, name) for name in names}
    except AttributeError as trouble:
        raise BuildError(
            f"{path.name} was built and lacks a function ({trouble}): look at the flags in CC, such"
            f" as -fvisibility, or choose another compiler"
        ) from trouble


# What an entry point returns where a counter of random numbers is no finite number.
_NO_NUMBER = 2

# The threads of a process that was forked stay behind, and OpenMP would wait for them.
_after_fork = False


def _forked() -> None:
    global _after_fork
    _after_fork = True


os.register_at_fork(after_in_child=_forked)


def threads() -> int:
    """How many threads a call may use."""
    return 1 if _after_fork else torch.get_num_threads()


class Rows:
    """The different rows of hyperparameters of a call: t, the others, those of a pending step."""

    def __init__(self, hypers: Sequence[str], program: Program, width: int = 0) -> None:
        """None yet.

        Args:
            hypers: what they hold after t.
            program: whose step may be pending.
            width: how many numbers they have at least.
        """
        self.values = array("d")
        self.count = 0
        self._hypers = hypers
        self._filling = [0.0] * (width - 1 - len(hypers))
        self._names = [h.name for h in program.hypers]

    def of(
        self,
        works: Sequence[ParameterTask],
        counts: Sequence[float],
        held: tuple[list[list[float]], list[int]] | None,
    ) -> list[int]:
        """The row of each work, at its count of steps.

        Equal ones share a row.

        Args:
            works: the works.
            counts: of the step, by work.
            held: the different rows of what is pending, and which each work has.
        """
        _, _, _, hypers, *_ = zip(*works, strict=True)
        # All of them live meanwhile, and so do the identities.
        parts: list[list[float]] = [list(map(id, hypers)), list(counts)]
        if held is not None:
            parts.append(list(map(float, held[1])))
        if all(part.count(part[0]) == len(part) for part in parts):
            self._add(works[0], counts[0], held, 0)
            self.count = 1
            return [0] * len(works)
        keys = list(zip(*parts, strict=True))
        # Of equal ones any will do.
        some = {key: number for number, key in enumerate(keys)}
        places = {key: number for number, key in enumerate(some)}
        for number in some.values():
            self._add(works[number], counts[number], held, number)
        self.count = len(some)
        return list(map(places.__getitem__, keys))

    def _add(
        self,
        work: ParameterTask,
        t: float,
        held: tuple[list[list[float]], list[int]] | None,
        number: int,
    ) -> None:
        values = work.hypers
        if held is not None:
            names = map(pending, ("t", *self._names))
            values = values | dict(zip(names, held[0][held[1][number]], strict=True))
        self.values.append(t)
        self.values.extend(values[h] for h in self._hypers)
        self.values.extend(self._filling)


@dataclass(frozen=True)
class Call:
    """An entry point of a library."""

    entry: EntryPoint
    function: Callable[..., int]

    def __call__(
        self, count: int, table: array[int], rows: Rows, finish: Callable[[], None]
    ) -> HyperGradients:
        """Call it, and `finish` when it has done its work; the sums by name.

        Raises:
            MemoryError, ValueError: and then nothing has changed.
        """
        sums = array("d", [0.0] * len(self.entry.dots))
        arguments = (
            ctypes.c_int64(count),
            ctypes.c_void_p(table.buffer_info()[0]),
            ctypes.c_int64(rows.count),
            ctypes.c_void_p(rows.values.buffer_info()[0]),
            ctypes.c_void_p(sums.buffer_info()[0]),
            ctypes.c_int(threads()),
        )
        failed = 0
        try:
            failed = self.function(*arguments)
        finally:
            # An interrupt that came meanwhile is raised before the result is known.
            if not failed:
                finish()
        if failed == _NO_NUMBER:
            raise ValueError("random numbers are drawn at a counter which is no finite number")
        if failed:
            raise MemoryError("no memory for the step's working space")
        return dict(zip(self.entry.dots, sums, strict=True))
