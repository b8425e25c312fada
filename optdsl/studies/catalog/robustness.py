"""Robustness: good and bad starts of the betas."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import Annotated, ClassVar, Literal, Self

from matplotlib.figure import Figure
from pydantic import model_validator

from optdsl.pages.charts import heat_maps
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Table
from optdsl.studies.catalog.comparison import TrainingStudy, control_table
from optdsl.studies.catalog.contestants import DIRECTION, HYPERADAM, MADA, PAPER
from optdsl.studies.catalog.settings import (
    BESIDE_ADAMW,
    DIFFERENT,
    SOME,
    Beta,
    Listed,
    Positive,
    Task,
    startable,
)
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.training import Training
from optdsl.training.tasks import find_task

BASE = "adamw"


class RobustnessStudy(TrainingStudy):
    """The grid of starts (β1, β2), all at one learning rate.

    Attributes:
        beta1s: Starts of β1.
        beta2s: Starts of β2.
        contestants: The optimizers beside AdamW.
        learner: The label of the one whose controls are run, at the corners of the grid.
        rate: The learning rate, as a factor of the task's own.
    """

    study: Literal["robustness"] = "robustness"
    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT] = ("characters", "cnn")
    beta1s: Annotated[tuple[Beta, ...], SOME, DIFFERENT] = (0.5, 0.7, 0.9, 0.95, 0.98)
    beta2s: Annotated[tuple[Beta, ...], SOME, DIFFERENT] = (0.6, 0.8, 0.95, 0.99)
    contestants: Annotated[tuple[Listed, ...], DIFFERENT, BESIDE_ADAMW] = (
        MADA,
        PAPER,
        HYPERADAM,
        DIRECTION,
    )
    learner: str = "mada"
    rate: Positive = 1.0

    title: ClassVar[str] = "Robustness"
    summary: ClassVar[str] = "the grid of starts of β1 and β2, training and validation"
    trajectories: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        return cls(
            seeds=1,
            scale=0.1,
            tasks=("cnn",),
            beta1s=(0.5, 0.9, 0.98),
            beta2s=(0.6, 0.95),
            contestants=(MADA, DIRECTION),
        )

    @model_validator(mode="after")
    def _startable(self) -> Self:
        for number, contestant in enumerate(self.contestants):
            cells = (self._started(self.tasks[0], contestant, *cell) for cell in self._cells())
            startable(("contestants", number), cells)
        return self

    def _started(self, task: str, contestant: Contestant, beta1: float, beta2: float) -> Contestant:
        rate = self.rate * find_task(task).learning_rate
        return contestant.with_hypers(lr=rate, beta1=beta1, beta2=beta2)

    def _cell(
        self, task: str, contestant: Contestant, beta1: float, beta2: float
    ) -> list[Training]:
        return self.repeated(task, self._started(task, contestant, beta1, beta2))

    def _all(self) -> tuple[Contestant, ...]:
        return (Contestant(label=BASE, rule="adamw"), *self.contestants)

    def _cells(self) -> list[tuple[float, float]]:
        return [(b1, b2) for b1 in self.beta1s for b2 in self.beta2s]

    def _corners(self) -> list[tuple[float, float]]:
        first, second = ((min(betas), max(betas)) for betas in (self.beta1s, self.beta2s))
        return list(dict.fromkeys(product(first, second)))

    def _controlled(self, task: str) -> list[tuple[Contestant, str]]:
        """Returns the learner at each corner, and where that is, in words."""
        return [
            (self._started(task, c, b1, b2), f" from β1 {b1:g}, β2 {b2:g}")
            for c in self.contestants
            if c.label == self.learner
            for b1, b2 in self._corners()
        ]

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        runs = [
            run
            for task in self.tasks
            for contestant in self._all()
            for cell in self._cells()
            for run in self._cell(task, contestant, *cell)
        ]
        for task in self.tasks:
            for learner, _ in self._controlled(task):
                for found in self.every_control(known, task, learner).values():
                    runs += found
        return runs

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        introduction = (
            f"{len(self._cells())} starts of (β1, β2), {self.seeds} seeds, at "
            f"{self.rate:g} times each task's learning rate. The paper's heat map shows training "
            "losses; validation losses stand beside them here. The controls of the learner start "
            "at the corners of the grid; the study of starts has more of them."
        )
        claims = [self._claim(known, task, c) for task in self.tasks for c in self.contestants]
        return Chapter(self.study, self.title, introduction, claims)

    def _mean(self, known: Results, runs: Sequence[Run], name: str) -> float:
        return fmean(self.numbers(known, runs, name))

    def _claim(self, known: Results, task: str, contestant: Contestant) -> Claim:
        base = self._all()[0]
        found: dict[str, list[list[float]]] = {}
        better: dict[str, int] = {}
        cells = self._cells()
        for name in ("train", "validation"):
            for who in (base, contestant):
                found[f"{who.label}, {name}"] = [
                    [self._mean(known, self._cell(task, who, b1, b2), name) for b2 in self.beta2s]
                    for b1 in self.beta1s
                ]
            ours, theirs = (
                [x for row in found[f"{who.label}, {name}"] for x in row]
                for who in (contestant, base)
            )
            better[name] = sum(
                not math.isfinite(b) or a < b
                for a, b in zip(ours, theirs, strict=True)
                if math.isfinite(a)
            )
        ended = all(run in known for who in (base, contestant) for c in cells
                    for run in self._cell(task, who, *c))  # fmt: skip
        criteria = tuple(
            Criterion(
                f"lower {words} than AdamW from the same start in at least 80 % of the starts",
                f"in {better[name]} of {len(cells)}",
                better[name] >= 0.8 * len(cells) if ended else None,
            )
            for name, words in (("train", "training loss"), ("validation", "validation loss"))
        )

        def draw(figure: Figure) -> None:
            labels = ("start of β1", "start of β2")
            heat_maps(figure, list(found), list(found.values()), self.beta1s, self.beta2s, labels)

        rows = tuple(
            (title, *(f"{min(xs):.4g}" if xs else "–", f"{max(xs):.4g}" if xs else "–"))
            for title, values in found.items()
            for xs in [[x for row in values for x in row if math.isfinite(x)]]
        )
        controls = [
            control_table(self, known, task, learner, where)
            for learner, where in self._controlled(task)
            if learner.label == contestant.label
        ]
        name = f"robustness-{task}-{self.contestants.index(contestant)}"
        caption = (
            f"{contestant.label} and AdamW on {task}: training loss, then validation loss, by the "
            "starts of β1 (rows) and β2 (columns); blue is low."
        )
        return Claim(
            f"{contestant.label} is robust to bad starts: {task}",
            "MADA's training loss is lower than Adam's in 269 of 275 starts of (β1, β2) on "
            "Shakespeare (Ozkara et al., 2024, section 5); by the authors' logs its validation "
            "loss is lower in 7 of 274.",
            "Final losses, means over seeds, cell by cell.",
            criteria,
            (Chart(name, caption, draw, (8, 2.8 + 0.6 * len(self.beta1s))),),
            (Table("Range over the starts", ("loss", "lowest", "highest"), rows), *controls),
        )
