"""A small benchmark: many tasks, one configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import Annotated, ClassVar, Literal, Self

from matplotlib.figure import Figure

from optdsl.pages.charts import COLOURS, legend_beside
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Table
from optdsl.pages.statistics import z_test
from optdsl.studies.catalog.comparison import CONTROLS, TrainingStudy
from optdsl.studies.catalog.contestants import (
    ADAMW,
    DIRECTION,
    MADA,
    PAPER,
    PEERS,
    SIGN,
    absent,
    installed,
)
from optdsl.studies.catalog.settings import DIFFERENT, SOME, Started, Task
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.controls import Control
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.training import Training
from optdsl.training.tasks import TASKS

FAIR = 0.75  # of its steps after which tuned AdamW's loss is the target
LONGER = 2  # how many times as many steps contestants have; a miss counts as so many
RATE = 3e-3  # the one learning rate of rules that follow AdamW's scale
LEVEL = 0.05  # of the test
MARKERS = "o^sD"  # of the first eight optimizers, of the next eight, and so on


def _at(contestant: Contestant, rate: float = RATE) -> Contestant:
    return contestant.with_hypers(lr=rate)


class WorkloadsStudy(TrainingStudy):
    """Steps to a target that AdamW, tuned on each task, reaches.

    Attributes:
        contestants: The optimizers, each with one configuration for all tasks.
        learner: The label of the one whose controls are run.
    """

    study: Literal["workloads"] = "workloads"
    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT] = tuple(TASKS)
    contestants: Annotated[tuple[Started, ...], DIFFERENT] = (
        *map(_at, (ADAMW, MADA, PAPER, SIGN, DIRECTION)),
        *PEERS,
    )
    learner: str = "mada"

    title: ClassVar[str] = "Twelve workloads"
    summary: ClassVar[str] = "steps to a target, with one configuration for all tasks"
    trajectories: ClassVar[bool] = False

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        tasks = ("mlp", "autoencoder", "diffusion", "logistic", "least_squares", "rosenbrock")
        return cls(
            seeds=2,
            scale=0.2,
            tasks=(*tasks, "saddle"),
            multipliers=(0.3, 1.0, 3.0),
        )

    def training(
        self,
        task: str,
        contestant: Contestant,
        seed: int,
        control: Control | None = None,
        constant: bool = True,
        longer: int = LONGER,
    ) -> Training:
        """See `TrainingStudy`; longer, and with a constant learning rate."""
        return super().training(task, contestant, seed, control, constant, longer)

    def _trials(self, task: str) -> list[Training]:
        return self.trials(task, ADAMW, constant=True)

    def _reference(self, known: Results, task: str) -> list[Training]:
        """Returns the runs of AdamW at its best rate on a task."""
        tuned = self.tuned(known, self._trials(task))
        return [] if tuned is None else self.repeated(task, tuned)

    def _entries(self, known: Results, task: str) -> dict[str, list[Training]]:
        """Returns the runs on a task that are named so far, by label: all but the reference."""
        found = {c.label: self.repeated(task, c) for c in installed(self.contestants)}
        for contestant in self.contestants:
            if contestant.label == ADAMW.label:
                found[f"{contestant.label}, ε + 0.1 %"] = self.noise(task, contestant)
            if contestant.label == self.learner:
                controls = self.controlled(known, task, contestant)
                found |= {f"{self.learner}, {kind}": runs for kind, runs in controls.items()}
        return found

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        runs: list[Run] = []
        for task in self.tasks:
            runs += self._trials(task)
            runs += self._reference(known, task)
            for found in self._entries(known, task).values():
                runs += found
        return runs

    def _target(self, known: Results, task: str) -> float:
        """Returns the mean loss of tuned AdamW after a part of its steps."""
        losses = []
        for run in self._reference(known, task):
            pairs = zip(known.series(run, "step"), known.series(run, "validation"), strict=True)
            reached = [loss for step, loss in pairs if step <= FAIR * self.steps(task)]
            losses.append(min(reached) if reached else math.nan)
        return fmean(losses) if losses else math.nan

    def _reached(self, known: Results, run: Training, target: float) -> float | None:
        """Returns the steps to a target; None for a miss, NaN for a run without a result."""
        if known.of(run) is None and run not in known:
            return math.nan
        steps, losses = known.series(run, "step"), known.series(run, "validation")
        reached = (step for step, loss in zip(steps, losses, strict=True) if loss <= target)
        return next(reached, None)

    def _steps_to(self, known: Results, run: Training, target: float) -> float:
        """Returns the steps to a target; a miss counts as all steps of the run."""
        reached = self._reached(known, run, target)
        return float(run.steps) if reached is None else reached

    def missed(self, known: Results) -> set[tuple[str, str]]:
        """Returns the labels and tasks of which a run has not reached the target."""
        return {
            (label, task)
            for task in self.tasks
            if math.isfinite(target := self._target(known, task))
            for label, runs in self._entries(known, task).items()
            if any(self._reached(known, run, target) is None for run in runs)
        }

    def ratios(self, known: Results) -> dict[str, dict[str, float]]:
        """Returns the logarithms of the ratios of steps by label and task, means over seeds."""
        found: dict[str, dict[str, float]] = {}
        for task in self.tasks:
            target, reference = self._target(known, task), self._reference(known, task)
            base = [self._steps_to(known, run, target) for run in reference]
            for label, runs in self._entries(known, task).items():
                steps = [self._steps_to(known, run, target) for run in runs]
                pairs = [(x, y) for x, y in zip(steps, base, strict=False) if math.isfinite(target)]
                logs = [math.log(x / y) for x, y in pairs]
                found.setdefault(label, {})[task] = fmean(logs) if logs else math.nan
        return found

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        introduction = (
            f"{len(self.tasks)} tasks, {self.seeds} seeds. AdamW's learning rate is tuned on each "
            f"task ({', '.join(f'{m:g}' for m in self.multipliers)} times the task's own); every "
            f"other optimizer has one configuration for all tasks. The target is the best loss of "
            f"tuned AdamW in its first {FAIR:.0%} of a run; others have {LONGER} times the steps, "
            "and a miss counts as all of them. The learning rate is constant after a warm-up, so "
            "that a schedule does not decide when a target is reached. Controls of the learner: "
            "coefficients fixed at their start, or at the values at which it ended, a random walk, "
            "and a straight path; AdamW with ε changed by a thousandth shows the noise."
        )
        return Chapter(
            self.study, self.title, introduction + absent(self.contestants), [self._claim(known)]
        )

    def _claim(self, known: Results) -> Claim:
        ratios = self.ratios(known)
        score = {label: math.exp(fmean(found.values())) for label, found in ratios.items()}
        z = {label: z_test(list(found.values())) for label, found in ratios.items()}
        tuned = "tuned AdamW"
        others = (tuned, ADAMW.label, *(f"{self.learner}, {kind}" for kind in CONTROLS))

        def judged(other: str) -> tuple[str, bool | None]:
            ours, p = ratios[self.learner], z[self.learner][1]
            if other != tuned:
                pairs = ((ours[t], ratios[other][t]) for t in self.tasks)
                differences = [a - b for a, b in pairs]
                mean, p = fmean(differences), z_test(differences)[1]
            else:
                mean = fmean(ours.values())
            told = f"{math.exp(mean):.3f} times the steps"
            if math.isfinite(p):  # without differences there is none
                told += f", p = {p:.2g}"
            if not math.isfinite(mean):
                return told, None
            return told, mean < 0 and p < LEVEL

        criteria = tuple(
            Criterion(f"fewer steps than {other}, with p < {LEVEL} by a z-test over tasks",
                      *judged(other))
            for other in others
            if self.learner in ratios and (other == tuned or other in ratios)
        )  # fmt: skip
        missed = self.missed(known)
        rows = tuple(
            (label, f"{score[label]:.3f}", f"{z[label][0]:+.2f}", f"{z[label][1]:.2g}",
             *(f"{math.exp(found[task]):.2f}{' *' if (label, task) in missed else ''}"
               for task in self.tasks))
            for label, found in ratios.items()
        )  # fmt: skip
        columns = ("optimizer", "score", "z", "p", *self.tasks)
        caption = "Score: geometric mean; then each task, * where a run missed its target"

        def draw(figure: Figure) -> None:
            axes = figure.subplots()
            for index, (label, found) in enumerate(ratios.items()):
                colour = COLOURS[index % len(COLOURS)]
                shift = 0.8 * ((index + 0.5) / len(ratios) - 0.5)
                places = [i + shift for i in range(len(self.tasks))]
                values = [math.exp(found[task]) for task in self.tasks]
                marker = MARKERS[index // len(COLOURS) % len(MARKERS)]
                axes.plot(places, values, marker, color=colour, label=label, markersize=4)
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
            (Table(caption, columns, rows),),
        )
