"""What studies that train tasks share: tuning with one budget, controls, and tables."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Annotated, Literal, get_args

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from optdsl.pages.charts import band, legend_beside
from optdsl.pages.claims import Chart, Table
from optdsl.pages.statistics import Paired, paired, spread
from optdsl.studies.catalog.settings import DIFFERENT, SOME, Positive, Task, learns
from optdsl.studies.frame.study import Study
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.controls import Control
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.training import Training
from optdsl.training.tasks import find_task

TUNING_SEED = 1000  # which no measurement uses
EPS_CHANGE = 1.001  # of the control that shows the noise
ControlKind = Literal["start", "final", "walk", "path"]
CONTROLS: tuple[ControlKind, ...] = get_args(ControlKind)
NAMES: dict[str, str] = {
    "start": "fixed at the start",
    "final": "fixed at the end",
    "walk": "random walk",
    "path": "straight path",
}


class TrainingStudy(Study):
    """Trains tasks with optimizers at learning rates that were searched with one budget for all.

    Attributes:
        tasks: Names of tasks.
        scale: Steps of a run, as a factor of the task's own.
        multipliers: Factors of the learning rate of the task that are tried; see `Contestant` for
            optimizers with rates of another scale.
        text: A text for the tasks of texts.
        images: A directory for the tasks of images.
    """

    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT]
    scale: Positive = 1.0
    multipliers: Annotated[tuple[Positive, ...], SOME, DIFFERENT] = (0.1, 0.3, 1.0, 3.0)
    text: Path | None = None
    images: Path | None = None

    def steps(self, task: str) -> int:
        """Returns the steps of a run."""
        return max(2, round(self.scale * find_task(task).steps))

    def training(
        self,
        task: str,
        contestant: Contestant,
        seed: int,
        control: Control | None = None,
        constant: bool = False,
        longer: int = 1,
    ) -> Training:
        """Returns a run of this study."""
        return Training(
            task=task,
            contestant=contestant,
            seed=seed,
            steps=longer * self.steps(task),
            constant=constant,
            control=control,
            text=self.text,
            images=self.images,
        )

    def trials(self, task: str, contestant: Contestant, constant: bool = False) -> list[Training]:
        """Returns the runs that search for a learning rate."""
        centre = contestant.centre or contestant.scale * find_task(task).learning_rate
        return [
            self.training(
                task,
                contestant.with_hypers(lr=m * centre),
                TUNING_SEED,
                constant=constant,
                longer=1,
            )
            for m in self.multipliers
        ]

    def tuned(self, known: Results, trials: Sequence[Training]) -> Contestant | None:
        """Returns the optimizer with the best rate by validation loss; None while not known."""
        if not all(run in known for run in trials):
            return None

        def loss(run: Training) -> float:
            found = known.number(run, "validation")
            return found if math.isfinite(found) else math.inf

        best = min(trials, key=loss)
        return best.contestant if math.isfinite(loss(best)) else None

    def repeated(self, task: str, contestant: Contestant) -> list[Training]:
        """Returns a run for each seed."""
        return [self.training(task, contestant, seed) for seed in range(self.seeds)]

    def controlled(
        self,
        known: Results,
        task: str,
        learner: Contestant,
        kinds: Sequence[ControlKind] = CONTROLS,
    ) -> dict[str, list[Training]]:
        """Returns the controls of a learner that can be named so far, by kind, each seed's own.

        There are none of an optimizer that learns nothing.
        """
        if not learns(learner):
            return {}
        learned = [run for run in self.repeated(task, learner) if known.of(run) is not None]
        return {
            kind: self.repeated(task, learner.frozen())
            if kind == "start"
            else [
                self.training(task, learner, run.seed, Control(kind=kind, of=run.key))
                for run in learned
            ]
            for kind in kinds
        }

    def every_control(
        self, known: Results, task: str, learner: Contestant
    ) -> dict[str, list[Training]]:
        """Returns all controls of a learner that can be named so far, and its noise, by label."""
        found = {NAMES[kind]: runs for kind, runs in self.controlled(known, task, learner).items()}
        return found | {"ε + 0.1 %": self.noise(task, learner)}

    def noise(self, task: str, contestant: Contestant) -> list[Training]:
        """Returns the runs with ε changed by a thousandth; none of a rule without ε."""
        defaults = {} if contestant.foreign else contestant.elaboration().program.defaults
        eps = contestant.hypers.get("eps", defaults.get("eps"))
        return [] if eps is None else self.repeated(task, _noisy(contestant, eps))

    def level(self, known: Results, noise: Sequence[Run], base: Sequence[Run]) -> float:
        """Returns the noise: mean and deviation over seeds of what a changed ε does to the loss.

        NaN where runs are missing or have diverged.
        """
        found = self.compared(known, noise, base)
        spread = found.deviation if math.isfinite(found.deviation) else 0.0
        return abs(found.mean) + spread

    def numbers(self, known: Results, runs: Sequence[Run], name: str) -> list[float]:
        """Returns a number of each run; NaN where there is none."""
        return [known.number(run, name) for run in runs]

    def compared(
        self, known: Results, ours: Sequence[Run], theirs: Sequence[Run], name: str = "validation"
    ) -> Paired:
        """Compares runs seed by seed."""
        if len(ours) != len(theirs):
            return Paired(math.nan, math.nan, 0, math.nan)
        return paired(self.numbers(known, ours, name), self.numbers(known, theirs, name))

    def budget(self) -> str:
        """Describes the search in words."""
        factors = ", ".join(f"{m:g}" for m in self.multipliers)
        return (
            f"Learning rates: the best of {factors} times the task's (for Lion a tenth of it, for "
            "Prodigy, D-Adaptation and Mechanic 1) by validation loss, from "
            f"runs of full length with a seed of their own, for every optimizer alike. "
            f"Gradients are cut to norm 1; a warm-up over 5 % of the steps and a cosine to a tenth."
        )


def _noisy(contestant: Contestant, eps: float) -> Contestant:
    return contestant.with_hypers(eps=EPS_CHANGE * eps)


def at_time(known: Results, run: Run, seconds: float) -> float:
    """Returns the last validation loss that a run had reached within some seconds of training."""
    times, losses = known.series(run, "seconds"), known.series(run, "validation")
    reached = [loss for t, loss in zip(times, losses, strict=True) if t <= seconds]
    return reached[-1] if reached else math.nan


def loss_table(
    study: TrainingStudy,
    known: Results,
    task: str,
    runs: dict[str, list[Training]],
    reference: str,
) -> Table:
    """Returns the losses of all optimizers, with the paired difference from one of them."""
    base = runs[reference]
    limit = study.numbers(known, base, "seconds")
    rows = []
    for label, found in runs.items():
        timed = [at_time(known, run, t) for run, t in zip(found, limit, strict=False)]
        rate = found[0].contestant.hypers.get("lr", math.nan) if found else math.nan
        rows.append(
            (
                label,
                f"{rate:.2g}" if math.isfinite(rate) else "default",
                spread(study.numbers(known, found, "train")),
                spread(study.numbers(known, found, "validation")),
                "" if label == reference else str(study.compared(known, found, base)),
                spread(timed) if all(map(math.isfinite, timed)) else "–",
                spread(study.numbers(known, found, "seconds"), 3),
            )
        )
    columns = (
        "optimizer", "rate", "train", "validation", f"minus {reference}",
        f"at {reference}'s time", "seconds",
    )  # fmt: skip
    caption = f"{task}, {study.steps(task)} steps, {find_task(task).unit}"
    return Table(caption, columns, tuple(rows))


def control_table(
    study: TrainingStudy, known: Results, task: str, learner: Contestant, where: str = ""
) -> Table:
    """Returns the losses of a learner and of all its controls, with the differences from it."""
    base = study.repeated(task, learner)
    runs = {learner.label: base, **study.every_control(known, task, learner)}
    rows = tuple(
        (
            label,
            spread(study.numbers(known, found, "validation")),
            "" if found is base else str(study.compared(known, found, base)),
        )
        for label, found in runs.items()
    )
    caption = f"{learner.label} on {task}{where}, {find_task(task).unit}"
    return Table(caption, ("controls", "validation", f"minus {learner.label}"), rows)


def loss_chart(name: str, known: Results, task: str, runs: dict[str, list[Training]]) -> Chart:
    """Returns the curves of training and validation losses."""

    def draw(figure: Figure) -> None:
        left, right = figure.subplots(1, 2, sharey=True)
        for index, (label, found) in enumerate(runs.items()):
            if not found:
                continue
            steps = known.series(found[0], "step")
            for axes, series in ((left, "train"), (right, "validation")):
                band(axes, index, label, steps, [known.series(run, series) for run in found])
        left.set_ylabel(find_task(task).unit)
        for axes, title in ((left, "training"), (right, "validation")):
            axes.set_title(title)
            axes.set_xlabel("step")
        _limit(left, [xs for f in runs.values() for r in f for xs in [known.series(r, "train")]])
        legend_beside(right)

    caption = f"Losses on {task}: means over seeds, with the range from lowest to highest."
    return Chart(name, caption, draw, (8, 3.4))


def _limit(axes: Axes, series: Sequence[Sequence[float]]) -> None:
    """Leaves out the first steep part and what diverges."""
    finals = [xs[-1] for xs in series if xs and math.isfinite(xs[-1])]
    starts = [xs[len(xs) // 5] for xs in series if xs and math.isfinite(xs[len(xs) // 5])]
    if finals and starts:
        low, high = min(finals), fmean(starts) if fmean(starts) > min(finals) else max(starts)
        if high > low:
            axes.set_ylim(low - 0.08 * (high - low), high + 0.15 * (high - low))
