"""What was measured in a cell of the grid of starts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

from optdsl.studies.catalog.comparison import TrainingStudy
from optdsl.studies.frame.values import Results
from optdsl.studies.runs.training import Training

Arms = dict[str, list[Training]]
"""Runs by label, one for each seed."""


@dataclass(frozen=True)
class CellRuns:
    """The runs of a learner, its members and its controls in a cell.

    Attributes:
        task: The task.
        start: The cell, in words.
        learner: The runs of the learner.
        members: Those of the members.
        others: Those of its controls, and at other rates of learning.
        noise: Pairs of runs, without and with a changed ε.
    """

    task: str
    start: str
    learner: list[Training]
    members: Arms
    others: Arms
    noise: list[tuple[list[Training], list[Training]]]

    @property
    def runs(self) -> Iterator[Training]:
        """All of them."""
        yield from self.learner
        for runs in (*self.members.values(), *self.others.values()):
            yield from runs
        for pair in self.noise:
            yield from (run for runs in pair for run in runs)


@dataclass(frozen=True)
class CellLosses:
    """The losses in a cell: means over seeds, infinite for what diverged, NaN for what is missing.

    Attributes:
        task: The task.
        start: The cell, in words.
        learner: That of the learner.
        members: Those of the members.
        others: Those of its controls, and at other rates of learning.
        noise: What chance does; see `StartsStudy.chapter`.
    """

    task: str
    start: str
    learner: float
    members: Mapping[str, float]
    others: Mapping[str, float]
    noise: float

    @property
    def complete(self) -> bool:
        """Whether all have been measured."""
        losses = (self.learner, self.noise, *self.members.values(), *self.others.values())
        return not any(map(math.isnan, losses))

    @property
    def best(self) -> str:
        """The label of the best member; the first one while losses are missing."""
        return min(self.members, key=lambda label: (math.isnan(x := self.members[label]), x))

    @property
    def median(self) -> float:
        """The loss of the median member."""
        losses = [*self.members.values()]
        return math.nan if any(map(math.isnan, losses)) else median(losses)

    def compare(self, ours: float, theirs: float) -> int:
        """-1 for a loss lower by more than the noise, 1 for one higher by more, 0 otherwise."""
        if ours == theirs:  # both diverged
            return 0
        difference = ours - theirs
        return 0 if abs(difference) <= self.noise else int(math.copysign(1, difference))


def describe(study: TrainingStudy, known: Results, cell: CellRuns) -> CellLosses:
    """Returns the losses of the runs of a cell."""

    def losses(arms: Arms) -> dict[str, float]:
        return {label: _loss(known, runs) for label, runs in arms.items()}

    pairs = [pair for pair in cell.noise if all(pair)]
    missing = any(known.of(run) is None for pair in pairs for runs in pair for run in runs)
    levels = [study.level(known, noisy, base) for base, noisy in pairs]
    finite = [level for level in levels if math.isfinite(level)]
    return CellLosses(
        cell.task,
        cell.start,
        _loss(known, cell.learner),
        losses(cell.members),
        losses(cell.others),
        math.nan if missing else max(finite, default=0.0),
    )


def _loss(known: Results, runs: Sequence[Training]) -> float:
    if not runs or any(known.of(run) is None for run in runs):
        return math.nan
    found = [known.number(run, "validation") for run in runs]
    return fmean(x if math.isfinite(x) else math.inf for x in found)
