"""Calls of entry points in compiled libraries, through ctypes."""

from __future__ import annotations

import ctypes
import functools
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from optdsl.backends.base import EntryPoint
from optdsl.ir.program import Program
from optdsl.plan.keys import pending
from optdsl.runtime.build.toolchain import BuildError
from optdsl.runtime.core.tasks import HYPERS, HyperGradients, ParameterTask


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


# Of an entry point: the number of tensors, their table, the number of rows, the rows, the sums, and
# the number of threads.
_ARGUMENTS = (
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_int64,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_int,
)
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
        self._program = program

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
        # All of them live meanwhile, and so do the identities.
        hypers = list(map(id, map(HYPERS, works)))
        one = hypers.count(hypers[0]) == len(works) and counts.count(counts[0]) == len(works)
        if one and (held is None or len(held[0]) == 1):
            self._add(works[0], counts[0], held, 0)
            self.count = 1
            return [0] * len(works)
        parts: list[Sequence[float]] = [hypers, counts, *([] if held is None else [held[1]])]
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
            names = _pending_names(tuple([h.name for h in self._program.hypers]))
            values = values | dict(zip(names, held[0][held[1][number]], strict=True))
        self.values.append(t)
        self.values.extend([values[h] for h in self._hypers])
        self.values.extend(self._filling)


@functools.lru_cache(maxsize=64)
def _pending_names(hypers: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(pending, ("t", *hypers)))


@dataclass(frozen=True)
class Call:
    """An entry point of a library."""

    entry: EntryPoint
    function: Callable[..., int]

    @classmethod
    def typed(cls, entry: EntryPoint, function: Any) -> Call:
        """One that ctypes has found, and to which it passes numbers without being told their types.

        Args:
            entry: the entry point.
            function: what it is in the library.
        """
        function.argtypes = _ARGUMENTS
        return cls(entry, function)

    def __call__(
        self,
        count: int,
        table: array[int],
        rows: Rows,
        finish: Callable[[], None],
        alone: bool = False,
    ) -> HyperGradients:
        """Call it, and `finish` when it has done its work; the sums by name.

        Args:
            count: the number of tensors.
            table: their table.
            rows: the rows of hyperparameters.
            finish: notes what was done.
            alone: whether this thread does all of it.

        Raises:
            MemoryError, ValueError: and then nothing has changed.
        """
        sums = array("d", bytes(8 * len(self.entry.dots)))
        addresses = [numbers.buffer_info()[0] for numbers in (table, rows.values, sums)]
        arguments = count, addresses[0], rows.count, *addresses[1:], 1 if alone else threads()
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
