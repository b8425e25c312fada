"""What states note of their steps: their counts, and the hyperparameters of a pending step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from optdsl.runtime.core.owned_numbers import Owned
from optdsl.runtime.core.tasks import PENDING_HYPERS, StepCache


class NotedSteps(NamedTuple):
    """What states note of their steps.

    Attributes:
        steps: the counts.
        counts: their numbers.
        held: `PENDING_HYPERS`; None where an entry point does not complete anything.
        rows: the different ones, and which each state has; None where nobody asks for them.
    """

    steps: Owned
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
            pending = self.held.firsts()
        else:
            if 0.0 not in self.counts and all(row[0] for row in self.rows[0]):
                return []
            pending = [self.rows[0][place][0] for place in self.rows[1]]
        both = zip(self.counts, pending, strict=True)
        return [place for place, pair in enumerate(both) if not all(pair)]


def noted_hypers(states: Sequence[dict[str, Any]], own: StepCache) -> Owned:
    """What states with a step pending note of it."""
    return Owned.of([state[PENDING_HYPERS] for state in states], own, PENDING_HYPERS)
