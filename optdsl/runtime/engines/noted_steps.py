"""What states note of their steps: their counts, and the hyperparameters of a pending step."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.ir.program import Program
from optdsl.runtime.core.owned_numbers import Owned, made
from optdsl.runtime.core.tasks import HYPERS, PENDING_HYPERS, ParameterTask, pending_hypers

_STEP, _HYPERS = itemgetter("step"), itemgetter(PENDING_HYPERS)


class NotedSteps(NamedTuple):
    """What states note of their steps.

    Attributes:
        steps: the counts; None where a step is not counted.
        counts: their numbers.
        held: `PENDING_HYPERS`; None where an entry point does not complete anything.
        rows: the different ones, and which each state has; None where nobody asks for them.
    """

    steps: Owned | None
    counts: list[float]
    held: Owned | None
    rows: tuple[list[list[float]], list[int]] | None

    def idle(self) -> list[int]:
        """The places of states that have no step pending, whatever they keep.

        Somebody has set the count, or that of the pending step, to 0.
        """
        if self.held is None:
            return []
        if self.rows is None:
            pending = self.held.numbers()
        else:
            if 0.0 not in self.counts and all(row[0] for row in self.rows[0]):
                return []
            pending = [self.rows[0][place][0] for place in self.rows[1]]
        both = zip(self.counts, pending, strict=True)
        return [place for place, pair in enumerate(both) if not all(pair)]


@dataclass
class NumbersKept:
    """What is kept of the numbers of states, for all entry points of an engine together.

    So none of them keeps tensors that states no longer have.

    Attributes:
        steps: the counts of steps.
        held: `PENDING_HYPERS`.
        spare: the counts and the `PENDING_HYPERS` of the states that `complete` was called for,
            which are used again by the step that follows it.
        idle: the parameters, by identity, that `complete` found to have no step pending.
    """

    steps: Owned | None = None
    held: Owned | None = None
    spare: tuple[list[Tensor], list[Tensor]] = field(default_factory=lambda: ([], []))
    idle: frozenset[int] = frozenset()

    def counts_of(self, states: Sequence[dict[str, Any]]) -> Owned:
        """The counts of states."""
        self.steps = Owned.of(list(map(_STEP, states)), self.steps)
        return self.steps

    def hypers_of(self, states: Sequence[dict[str, Any]]) -> Owned:
        """The `PENDING_HYPERS` of states, all of which have a step pending."""
        self.held = Owned.of(list(map(_HYPERS, states)), self.held)
        return self.held

    def room(self, states: Sequence[dict[str, Any]], width: int) -> Owned:
        """Give states `PENDING_HYPERS`: the tensors that they had before, where these are spare.

        Args:
            states: the states, none of which has it.
            width: how many numbers it has.
        """
        (before, tensors), self.spare = self.spare, ([], [])
        counts = [state["step"] for state in states]
        if len(before) != len(counts) or not all(map(operator.is_, before, counts)):
            rows = torch.zeros(len(counts), width, dtype=torch.float64, device="cpu")
            tensors = made(rows)
        for state, tensor in zip(states, tensors, strict=True):
            state[PENDING_HYPERS] = tensor
        return self.hypers_of(states)


def hyper_rows(
    program: Program, works: Sequence[ParameterTask], counts: Sequence[float]
) -> tuple[list[list[float]], list[int]]:
    """With which hyperparameters a step was taken: the different rows, and which each work has.

    Args:
        program: the rule.
        works: the works.
        counts: of the step, by work.
    """
    apart = list(map(id, map(HYPERS, works)))
    if apart.count(apart[0]) == len(apart) and counts.count(counts[0]) == len(counts):
        return [pending_hypers(program, counts[0], works[0].hypers)], [0] * len(apart)
    rows: dict[tuple[int, float], int] = {}
    values: list[list[float]] = []
    places = []
    for (_, _, _, hypers, *_), t in zip(works, counts, strict=True):
        place = rows.setdefault((id(hypers), t), len(values))
        if place == len(values):
            values.append(pending_hypers(program, t, hypers))
        places.append(place)
    return values, places
