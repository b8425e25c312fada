"""Rows of hyperparameters on the device, and the views of them in the states of parameters."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.core.owned_numbers import Owned
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PENDING_HYPERS
from optdsl.runtime.engines.launch_arguments import check_not_captured, sent
from optdsl.runtime.engines.triton import TritonEngine
from optdsl.schedule import Role

_STEP, _PENDING = itemgetter("step"), itemgetter(PENDING_HYPERS)


class DeviceHyperparameters:
    """The rows of hyperparameters of some tasks, which stay on the device from step to step.

    Attributes:
        rows: float64, shape (rows, width), on the device: t and the hyperparameters, then those of
            the pending step.
        numbers: the index of the group of each task.
        places: the row of each task.
        groups: the index of the group of each row.
        given: float64, shape (rows, hyperparameters), on the device: the values that users set.
        later: float64, on the device: the uniform values that the completion of each row will use.
        launches: cached arguments of launches, by the name of the entry point.
        captured: whether a graph has captured a step with these rows.
    """

    def __init__(
        self, engine: TritonEngine, groups: Sequence[int], states: Sequence[dict[str, Any]]
    ) -> None:
        """Make rows from the states and the group indices of tasks; the host waits for the device.

        If the states already hold views of rows, as those of a copied optimizer do, it does not.
        """
        hypers, device = len(engine.names), engine.device
        self.numbers = list(groups)
        noted = engine.plan.computes_again
        pending = bool(noted and states and PENDING_HYPERS in states[0])
        # A row for each parameter, since each counts its own steps.
        self.rows, self.places = _there(engine, states, pending) or _new(engine, states, pending)
        group_of = dict(zip(self.places, groups, strict=True))
        self.groups = [group_of[n] for n in range(len(group_of))]
        count = len(self.groups)
        self.given = torch.zeros(count, max(hypers, 1), dtype=torch.float64, device=device)
        self._group_of = sent(self.groups or [0], torch.int64, device)
        widths = engine.built.WIDTHS
        wide = widths[Role.COMPLETE][0] if Role.COMPLETE in widths else 0
        self.later = torch.zeros(max(count * wide, 1), dtype=torch.float64, device=device)
        self._ready: int | None = None
        self._set: list[Any] | None = None
        self.states = list(states)
        self._own_steps = [self.rows[n, 0] for n in self.places]
        self._own_kept = [self.rows[n, 1 + hypers :] for n in self.places] if noted else []
        self.launches = StepCache()
        self.captured = False
        self.adopt(pending)

    @property
    def ready(self) -> bool:
        """Whether `later` is up to date, that is, no row was written to since it was computed."""
        return self._ready == self.rows._version

    @ready.setter
    def ready(self, now: bool) -> None:
        self._ready = self.rows._version if now else None

    def adopt(self, pending: bool) -> None:
        """Put views of the rows into the states."""
        for state, step in zip(self.states, self._own_steps, strict=True):
            state["step"] = step
        for state, kept in zip(self.states, self._own_kept, strict=True) if pending else ():
            state[PENDING_HYPERS] = kept

    def serves(self, states: Sequence[dict[str, Any]], pending: bool) -> bool:
        """Whether the rows are those of these states, which still hold the views."""
        return (
            len(states) == len(self.states)
            and all(map(operator.is_, states, self.states))
            and all(map(operator.is_, map(_STEP, states), self._own_steps))
            and (
                not pending
                or not self._own_kept
                or all(map(operator.is_, map(_PENDING, states), self._own_kept))
            )
        )

    def send(self, settings: Sequence[Sequence[float | Tensor]]) -> None:
        """Copy the values that users set, by group, to the device if they have changed.

        Tensors on the device are copied at every step.
        """
        if self.groups and settings and settings[0]:
            if settings != self._set:
                check_not_captured(self.given.device, "a hyperparameter was set")
                numbers = [[0.0 if isinstance(x, Tensor) else x for x in row] for row in settings]
                new = sent(numbers, torch.float64, self.given.device)
                self.given.copy_(new[self._group_of])
                self._set = list(settings)
            for group, values in enumerate(settings):
                for place, value in enumerate(values):
                    if isinstance(value, Tensor):
                        column = self.given[:, place]
                        chosen = torch.where(self._group_of == group, value.reshape(()), column)
                        column.copy_(chosen)


def _there(
    engine: TritonEngine, states: Sequence[dict[str, Any]], pending: bool
) -> tuple[Tensor, list[int]] | None:
    """The rows of which the states already hold views, as a copied optimizer's do; else None."""
    steps = [state["step"] for state in states]
    width, kept = engine.width, 1 + len(engine.names)
    if {type(x) for x in steps} != {Tensor} or {x.device for x in steps} != {engine.device}:
        return None
    storage = steps[0].untyped_storage()
    offsets = [x.storage_offset() for x in steps]
    ends = [(state[PENDING_HYPERS], n + kept) for state, n in zip(states, offsets, strict=True)
            if pending]  # fmt: skip
    lie = [(x, n) for x, n in zip(steps, offsets, strict=True)] + ends
    if (
        {x.dtype for x, _ in lie} != {torch.float64}
        or {x.untyped_storage().data_ptr() for x, _ in lie} != {storage.data_ptr()}
        or any(x.storage_offset() != n for x, n in ends)
        or sorted(offsets) != list(range(0, width * len(steps), width))
        or storage.nbytes() != 8 * width * len(steps)
    ):
        return None
    rows = steps[0].as_strided((len(steps), width), (width, 1), 0)
    return rows, [offset // width for offset in offsets]


def _new(
    engine: TritonEngine, states: Sequence[dict[str, Any]], pending: bool
) -> tuple[Tensor, list[int]]:
    """New rows with the numbers of the states, for which the host waits for the device."""
    blank = [0.0] * (1 + len(engine.names))
    counts = Owned([state["step"] for state in states]).numbers()
    held = [blank] * len(states)
    if pending:
        found, places = Owned([state[PENDING_HYPERS] for state in states]).rows()
        held = [found[n] for n in places]
    values = [
        [count, *blank[1:], *kept][: engine.width] for count, kept in zip(counts, held, strict=True)
    ]
    return sent(values, torch.float64, engine.device), list(range(len(values)))
