"""Evolution: where coefficients go."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Self

from matplotlib.figure import Figure

from optdsl.pages.charts import band, legend_beside
from optdsl.pages.claims import Chapter, Chart, Claim, Table
from optdsl.pages.statistics import spread
from optdsl.studies.catalog.comparison import TrainingStudy, control_table
from optdsl.studies.catalog.contestants import DIRECTION, MADA, PAPER, PAPER_LEARNS
from optdsl.studies.catalog.settings import DIFFERENT, SOME, Started, Task
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.controls import PREFIX
from optdsl.studies.runs.optimizers import Contestant

# A tensor's own hyper-gradient of every coefficient.
PER_TENSOR = PAPER.model_copy(
    update={
        "label": f"{PAPER.label}, per tensor",
        "learn": {
            name: how.model_copy(update={"scope": "tensor"}) for name, how in PAPER_LEARNS.items()
        },
    }
)


class EvolutionStudy(TrainingStudy):
    """Trajectories of coefficients.

    Attributes:
        contestants: The optimizers that learn.
    """

    study: Literal["evolution"] = "evolution"
    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT] = ("characters", "cnn")
    contestants: Annotated[tuple[Started, ...], DIFFERENT] = (MADA, PAPER, PER_TENSOR, DIRECTION)

    title: ClassVar[str] = "Evolution"
    summary: ClassVar[str] = "the coefficients over training, one for all and per tensor"

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        return cls(seeds=2, scale=0.3, tasks=("mlp",))

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        return [
            run
            for task in self.tasks
            for c in self.contestants
            for found in (self.repeated(task, c), *self.every_control(known, task, c).values())
            for run in found
        ]

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        introduction = (
            f"{self.seeds} seeds, default learning rates. Per tensor, each tensor learns values of "
            "its own: the lines are mean, lowest and highest over the tensors. Lines are means "
            "over seeds, with the range. Controls take as many steps with coefficients that do "
            "not learn; where tensors have values of their own, they follow the mean over tensors."
        )
        claims = [self._claim(known, task, c) for task in self.tasks for c in self.contestants]
        return Chapter(self.study, self.title, introduction, claims)

    def _claim(self, known: Results, task: str, contestant: Contestant) -> Claim:
        runs = self.repeated(task, contestant)
        results = [result for run in runs if (result := known.of(run)) is not None]
        names = [n for r in results[:1] for n in r.outcome.series if n.startswith(PREFIX)]
        rows = []
        for name in names:
            series = [known.series(run, name) for run in runs]
            ends = [xs[-1] for xs in series if xs]
            moved = [max(xs) - min(xs) for xs in series if xs]
            start = f"{series[0][0]:.4g}" if series[0] else "–"
            rows.append((name.removeprefix(PREFIX), start, spread(ends), spread(moved)))

        def draw(figure: Figure) -> None:
            columns = min(3, max(1, len(names)))
            height = math.ceil(max(1, len(names)) / columns)
            panels = figure.subplots(height, columns, squeeze=False).flatten()
            for index, (axes, name) in enumerate(zip(panels, names, strict=False)):
                series = [known.series(run, name) for run in runs]
                band(axes, index, name, range(len(series[0])), series)
                axes.set_title(name.removeprefix(PREFIX))
            for axes in panels[len(names) :]:
                axes.set_visible(False)
            if not names:
                legend_beside(panels[0])

        height = 1.7 * math.ceil(max(1, len(names)) / 3) + 0.3
        number = self.contestants.index(contestant)
        caption = f"The coefficients of {contestant.label} on {task}, over the steps."
        columns = ("coefficient", "start", "end", "range over the run")
        return Claim(
            f"Where the coefficients go: {contestant.label}, {task}",
            "The coefficients move away from Adam's and settle; in one run of GPT-2, β1 .990, "
            "β2 .948, β3 .160, ρ .233, c .977, γ 1 (from the authors' logs).",
            "Values after every step.",
            (),
            (Chart(f"evolution-{task}-{number}", caption, draw, (8, height)),),
            (
                Table(f"{contestant.label} on {task}", columns, tuple(rows)),
                control_table(self, known, task, contestant),
            ),
            judged=False,
        )
