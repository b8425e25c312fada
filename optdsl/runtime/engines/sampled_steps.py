"""Steps of tensors of which hyper-gradients are estimated from a sample of the elements.

A step of all tensors is a few calls: one of small tensors, whose sums count once; one of the
sampled elements of large ones, whose sums are multiplied by their weight; and one of all other
elements, which take the plain step. Where elements of a tensor have to do with each other, a step
is of whole tensors, and of the tangents that it leaves those of sampled elements are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from optdsl.backends.base import EntryPoint
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import HyperGradients
from optdsl.runtime.engines.entry_task import Task
from optdsl.runtime.engines.sampled.shares import Segments, Shares
from optdsl.runtime.engines.segment_columns import SegmentColumns
from optdsl.runtime.engines.tensor_table import TensorTable
from optdsl.runtime.learning.scopes import add
from optdsl.schedule import Role


class _Call(NamedTuple):
    """A call for parts of tensors, and what its sums are multiplied by."""

    entry: str
    segments: Segments
    weight: int


def in_parts(
    task: Task,
    entries: Mapping[str, EntryPoint],
    called: Callable[[Task], HyperGradients],
) -> HyperGradients:
    """Run a task by parts of its tensors; the weighted sums.

    Args:
        task: the task, whose columns are tensors.
        entries: the entry points of its module.
        called: calls one of them, and then what the task says to finish with.

    Raises:
        MemoryError: there is no room for working space. Where it is the first call of several that
            fails, nothing has changed.
    """
    columns = task.columns
    assert isinstance(columns, TensorTable)
    shares = columns.shares
    if shares is None or task.entry.name == Role.INITIALIZE:
        return called(task)
    if Role.STEP_OUTSIDE not in entries and task.entry.name != Role.COMPLETE:
        return _gathered(task, columns, shares, called)
    if shares.alike:
        return called(task)
    sums: HyperGradients = dict.fromkeys(task.entry.dots, 0.0)
    calls = [call for call in _calls(task.entry.name, shares) if call.segments.lengths]

    def go_on() -> None:
        # The next call finishes the one before, so that an interrupt leaves no step half done.
        if not calls:
            task.finish()
            return
        entry, segments, weight = calls.pop(0)
        own = task.own.get(StepCache, entry, weight)
        parts = SegmentColumns(columns, segments, own)
        one = task._replace(entry=entries[entry], columns=parts, own=own, finish=go_on)
        found = called(one)
        add(sums, {name: weight * value for name, value in found.items()})

    go_on()
    return sums


def _calls(entry: str, shares: Shares) -> list[_Call]:
    """The calls that an entry point of whole tensors stands for."""
    outside = [_Call(Role.STEP_OUTSIDE, shares.others, 0)]
    measured = [_Call(entry, shares.sampled, shares.weight), _Call(entry, shares.small, 1)]
    if entry == Role.COMPLETE:
        return measured
    if entry == Role.FUSED:
        return [*measured, *outside]
    return [_Call(entry, shares.stepped, 1), *outside]


class _Scratch:
    """Room for the tangents of all elements of the largest tensor, kept from step to step."""

    def __init__(self) -> None:
        self._room: dict[str, Tensor] = {}

    def of(self, name: str, like: Tensor, dtype: torch.dtype) -> Tensor:
        """Room for a state of a tensor, of its shape; it has any numbers."""
        room = self._room.get(name)
        if room is None or room.numel() < like.numel() or room.dtype is not dtype:
            room = self._room[name] = torch.empty(like.numel(), dtype=dtype, device=like.device)
        return room[: like.numel()].view(like.shape)


def _gathered(
    task: Task, columns: TensorTable, shares: Shares, called: Callable[[Task], HyperGradients]
) -> HyperGradients:
    """A step of whole tensors, of whose tangents those of sampled elements are kept."""
    scratch = task.own.get(_Scratch)
    large = dict(shares.gathered)
    others = [n for n in range(len(task.works)) if n not in large]
    turns: list[Sequence[int]] = [[n] for n in large]
    if others:
        turns.append(others)

    def go_on() -> None:
        if not turns:
            task.finish()
            return
        numbers = turns.pop(0)
        sample = large.get(numbers[0])
        own = task.own.get(StepCache, numbers[0] if sample else -1)
        room: dict[str, Tensor] = {}
        if sample is not None:
            like = columns.parameters[numbers[0]]
            room = {n: scratch.of(n, like, kept.dtype) for n, kept in columns.kept_of(numbers[0])}

        def finish() -> None:
            if sample is not None:
                index = sample.index(columns.parameters[numbers[0]].device)
                for name, kept in columns.kept_of(numbers[0]):
                    torch.index_select(room[name].reshape(-1), 0, index, out=kept)
            go_on()

        pending = task.pending
        assert pending is None
        called(
            task._replace(
                works=[task.works[n] for n in numbers],
                columns=columns.part(numbers, room),
                counts=[task.counts[n] for n in numbers],
                own=own,
                finish=finish,
            )
        )

    go_on()
    return {}
