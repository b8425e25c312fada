"""Rows of hyperparameters on the device, and the views of them that states have."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.engines import PENDING_HYPERS, Known
from optdsl.runtime.launches import check_not_captured, sent
from optdsl.runtime.triton import TritonEngine

_STEP, _PENDING = itemgetter("step"), itemgetter(PENDING_HYPERS)


class DeviceRows:
    """The rows of hyperparameters of some works, which stay on the device from step to step.

    Attributes:
        rows: float64, on the device: t and the hyperparameters, then those of the pending step.
        numbers: the group of each work.
        places: the row of each work.
        groups: the group of each row.
        given: float64, what was set of the hyperparameters of each row.
        later: float64, the uniform values with which each row will be settled.
        ready: whether `later` is up to date.
        launches: what is kept for entry points, by name.
        captured: whether a step of these rows is part of a graph.
    """

    def __init__(
        self, engine: TritonEngine, groups: Sequence[int], states: Sequence[dict[str, Any]]
    ) -> None:
        """Make rows for works as they are now, which waits for the device.

        Args:
            engine: the engine.
            groups: the group of each work.
            states: the state of each.
        """
        hypers, device = len(engine.names), engine.device
        self.numbers = list(groups)
        noted = engine.plan.kind in {"live", "replay"}
        known: dict[int, tuple[float, ...]] = {}

        def read(x: Tensor | None) -> tuple[float, ...]:
            if x is None:
                return ()
            if id(x) not in known:
                known[id(x)] = tuple(x.reshape(-1).tolist())
            return known[id(x)]

        rows: dict[tuple[Any, ...], int] = {}
        self.places: list[int] = []
        for group, state in zip(groups, states, strict=True):
            pending = state.get(PENDING_HYPERS) if noted else None
            key = (group, read(state["step"]), read(pending))
            self.places.append(rows.setdefault(key, len(rows)))
        blank = [0.0] * (1 + hypers)
        values = [
            [*step, *blank[1:], *(pending or blank)][: engine.width] for _, step, pending in rows
        ]
        self.groups = [group for group, _, _ in rows]
        self.rows = sent(values, torch.float64, device)
        self.given = torch.zeros(len(rows), max(hypers, 1), dtype=torch.float64, device=device)
        widths = engine.built.WIDTHS
        wide = widths["settle"][0] if "settle" in widths else 0
        self.later = torch.zeros(max(len(rows) * wide, 1), dtype=torch.float64, device=device)
        self.ready = False
        self._set: list[Any] | None = None
        self._steps = [self.rows[n, 0] for n in range(len(rows))]
        self._kept = [self.rows[n, 1 + hypers :] for n in range(len(rows))] if noted else []
        self.states = list(states)
        self._own_steps = [self._steps[n] for n in self.places]
        self._own_kept = [self._kept[n] for n in self.places] if noted else []
        self.launches: Known = {}
        self.captured = False
        self.adopt(pending=bool(noted and states and PENDING_HYPERS in states[0]))

    def adopt(self, pending: bool) -> None:
        """Make the views of rows what the states have."""
        for state, step in zip(self.states, self._own_steps, strict=True):
            state["step"] = step
        for state, kept in zip(self.states, self._own_kept, strict=True) if pending else ():
            state[PENDING_HYPERS] = kept

    def serves(self, states: Sequence[dict[str, Any]], pending: bool) -> bool:
        """Whether these are the states that it has rows for."""
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
        """What was set of the hyperparameters, by group, where it has changed.

        Tensors on the device are read there, at every step.
        """
        wanted = [settings[group] for group in self.groups]
        if wanted != self._set and wanted and wanted[0]:
            check_not_captured(self.given.device, "a hyperparameter was set")
            numbers = [[0.0 if isinstance(x, Tensor) else x for x in row] for row in wanted]
            self.given.copy_(sent(numbers, torch.float64, self.given.device), non_blocking=True)
            self._set = wanted
        for row, values in enumerate(wanted):
            for place, value in enumerate(values):
                if isinstance(value, Tensor):
                    self.given[row, place].copy_(value)
