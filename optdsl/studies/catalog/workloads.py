"""A small benchmark: many tasks, one configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar, Literal, Self

from matplotlib.figure import Figure

from optdsl.pages.charts import COLOURS, legend_beside
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Table
from optdsl.pages.statistics import z_test
from optdsl.studies.catalog.comparison import TrainingStudy
from optdsl.studies.catalog.contestants import (
    ADAMW,
    MADA,
    MADA_SOON,
    PEERS,
    SIGN,
    absent,
    installed,
)
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.training import Training
from optdsl.training.tasks import TASKS

FAIR = 0.75  # of its steps after which tuned AdamW's loss is the target
LONGER = 2  # how many times as many steps contestants have; a miss counts as so many
RATE = 3e-3  # the one learning rate of rules that follow AdamW's scale
LEVEL = 0.05  # of the test


def _at(contestant: Contestant, rate: float = RATE) -> Contestant:
    return contestant.with_hypers(lr=rate)


class WorkloadsStudy(TrainingStudy):
    """Steps to a target that AdamW, tuned on each task, reaches.

    Attributes:
        contestants: The optimizers, each with one configuration for all tasks.
    """

    study: Literal["workloads"] = "workloads"
    tasks: tuple[str, ...] = tuple(TASKS)
    contestants: tuple[Contestant, ...] = (
        _at(ADAMW),
        _at(MADA),
        _at(MADA).frozen().model_copy(update={"label": "mada, start"}),
        _at(SIGN),
        *PEERS,
    )

    title: ClassVar[str] = "Twelve workloads"
    summary: ClassVar[str] = "steps to a target, with one configuration for all tasks"

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        tasks = ("mlp", "autoencoder", "diffusion", "logistic", "least_squares", "rosenbrock")
        quick = tuple(
            _at(MADA_SOON).model_copy(update={"label": "mada"}) if c.label == "mada" else c
            for c in cls.model_fields["contestants"].default
        )
        return cls(
            seeds=2,
            scale=0.2,
            tasks=(*tasks, "saddle"),
            multipliers=(0.3, 1.0, 3.0),
            contestants=quick,
        )

    def _trials(self, task: str) -> list[Training]:
        return self.trials(task, ADAMW, constant=True)

    def _reference(self, known: Results, task: str) -> list[Training]:
        """Returns the runs of AdamW at its best rate on a task."""
        tuned = self.tuned(known, self._trials(task))
        return [] if tuned is None else self._runs(task, tuned)

    def _runs(self, task: str, contestant: Contestant) -> list[Training]:
        return [
            self.training(task, contestant, seed, None, constant=True, longer=LONGER)
            for seed in range(self.seeds)
        ]

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        runs: list[Run] = []
        for task in self.tasks:
            runs += self._trials(task)
            runs += self._reference(known, task)
            for contestant in installed(self.contestants):
                runs += self._runs(task, contestant)
        return runs

    def _target(self, known: Results, task: str) -> float:
        """Returns the mean loss of tuned AdamW after a part of its steps."""
        losses = []
        for run in self._reference(known, task):
            pairs = zip(known.series(run, "step"), known.series(run, "validation"), strict=True)
            reached = [loss for step, loss in pairs if step <= FAIR * self.steps(task)]
            losses.append(min(reached) if reached else math.nan)
        return fmean(losses) if losses else math.nan

    def _steps_to(self, known: Results, run: Training, target: float) -> float:
        """Returns the steps to a target; a miss counts as all steps of the run."""
        if known.of(run) is None and run not in known:
            return math.nan
        steps, losses = known.series(run, "step"), known.series(run, "validation")
        reached = (step for step, loss in zip(steps, losses, strict=True) if loss <= target)
        return next(reached, float(run.steps))

    def ratios(self, known: Results, contestant: Contestant) -> dict[str, float]:
        """Returns the logarithm of the ratio of steps by task, mean over seeds."""
        found = {}
        for task in self.tasks:
            target = self._target(known, task)
            pairs = zip(self._runs(task, contestant), self._reference(known, task), strict=False)
            logs = [
                math.log(self._steps_to(known, ours, target) / self._steps_to(known, base, target))
                for ours, base in pairs
                if math.isfinite(target)
            ]
            found[task] = fmean(logs) if logs else math.nan
        return found

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        introduction = (
            f"{len(self.tasks)} tasks, {self.seeds} seeds. AdamW's learning rate is tuned on each "
            f"task ({', '.join(f'{m:g}' for m in self.multipliers)} times the task's own); every "
            f"other optimizer has one configuration for all tasks. The target is the best loss of "
            f"tuned AdamW in its first {FAIR:.0%} of a run; others have {LONGER} times the steps, "
            "and a miss counts as all of them. The learning rate is constant after a warm-up, so "
            "that a schedule does not decide when a target is reached."
        )
        return Chapter(
            self.study, self.title, introduction + absent(self.contestants), [self._claim(known)]
        )

    def _claim(self, known: Results) -> Claim:
        contestants = installed(self.contestants)
        ratios = {c.label: self.ratios(known, c) for c in contestants}
        score = {label: math.exp(fmean(found.values())) for label, found in ratios.items()}
        z = {label: z_test(list(found.values())) for label, found in ratios.items()}
        frozen = "mada, start"

        def judged(other: str) -> tuple[str, bool | None]:
            ours, p = ratios["mada"], z["mada"][1]
            if other != "tuned AdamW":
                pairs = ((ours[t], ratios[other][t]) for t in self.tasks)
                differences = [a - b for a, b in pairs]
                mean, p = fmean(differences), z_test(differences)[1]
            else:
                mean = fmean(ours.values())
            told = f"{math.exp(mean):.3f} times the steps, p = {p:.2g}"
            if not math.isfinite(mean):
                return told, None
            return told, mean < 0 and p < LEVEL

        criteria = tuple(
            Criterion(f"fewer steps than {other}, with p < {LEVEL} by a z-test over tasks",
                      *judged(other))
            for other in ("tuned AdamW", ADAMW.label, frozen)
            if other == "tuned AdamW" or other in ratios
        )  # fmt: skip
        rows = tuple(
            (label, f"{score[label]:.3f}", f"{z[label][0]:+.2f}", f"{z[label][1]:.2g}",
             *(f"{math.exp(found[task]):.2f}" for task in self.tasks))
            for label, found in ratios.items()
        )  # fmt: skip
        columns = ("optimizer", "score", "z", "p", *self.tasks)

        def draw(figure: Figure) -> None:
            axes = figure.subplots()
            for index, (label, found) in enumerate(ratios.items()):
                colour = COLOURS[index % len(COLOURS)]
                places = [i + 0.1 * (index - len(ratios) / 2) for i in range(len(self.tasks))]
                values = [math.exp(found[task]) for task in self.tasks]
                axes.plot(places, values, "o", color=colour, label=label, markersize=4)
            axes.axhline(1, color="#999999", linewidth=0.8)
            axes.set_yscale("log", base=2)
            axes.set_xticks(range(len(self.tasks)), self.tasks, rotation=35, ha="right")
            axes.set_ylabel("steps over those of tuned AdamW")
            legend_beside(axes)

        return Claim(
            "One configuration of MADA is as good as tuning",
            "MADA needs less tuning than Adam, since it learns its coefficients (Ozkara et al., "
            "2024); the paper has no benchmark of many tasks.",
            "The geometric mean over tasks of steps to the target over those of tuned AdamW.",
            criteria,
            (Chart("workloads", "Steps to the target, relative; below 1 is faster.", draw),),
            (Table("Score: geometric mean; then each task", columns, rows),),
        )
