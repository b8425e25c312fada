"""What a step costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from matplotlib.figure import Figure
from pydantic import PositiveInt

from optdsl.pages.charts import COLOURS
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Table
from optdsl.studies.catalog.contestants import HYPERADAM, MADA, MEMBERS, PAPER
from optdsl.studies.frame.study import Study
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.cost import AUTOGRAD, Cost
from optdsl.studies.runs.optimizers import Contestant

CONTESTANTS = (
    Contestant(label="adam", rule="adam"),
    *MEMBERS,
    HYPERADAM,
    Contestant(label="mada, fixed", rule="mada", learn=False),
    MADA,
    PAPER,
)


class CostStudy(Study):
    """The time and the bytes of a step, on this machine.

    Attributes:
        sizes: Numbers of parameters.
        tensors: Tensors that they are in.
        repeats: Timed steps.
    """

    study: Literal["cost"] = "cost"
    seeds: PositiveInt = 1
    sizes: tuple[PositiveInt, ...] = (100_000, 1_000_000, 4_000_000)
    tensors: PositiveInt = 16
    repeats: PositiveInt = 30

    title: ClassVar[str] = "What a step costs"
    summary: ClassVar[str] = "time and memory of a step, against automatic differentiation"

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        return cls(sizes=(200_000,), repeats=8)

    def _runs(self) -> list[Cost]:
        return [
            Cost(contestants=CONTESTANTS, parameters=n, tensors=self.tensors, repeats=self.repeats)
            for n in self.sizes
        ]

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        return self._runs()

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        largest = self._runs()[-1]
        labels = [*(c.label for c in CONTESTANTS), AUTOGRAD]
        ms = {label: known.number(largest, f"ms/{label}") for label in labels}
        size = {
            label: known.number(largest, f"state/{label}") + known.number(largest, f"graph/{label}")
            for label in labels
        }
        ours = PAPER.label  # it learns what the other one learns
        time_ratio, size_ratio = ms[AUTOGRAD] / ms[ours], size[AUTOGRAD] / size[ours]
        known_all = all(map(math.isfinite, (time_ratio, size_ratio)))
        criteria = (
            Criterion(
                "a compiled step of six coefficients takes at most half the time of autograd",
                f"{ms[ours]:.2f} ms and {ms[AUTOGRAD]:.2f} ms, a factor of {time_ratio:.1f}",
                time_ratio >= 2 if known_all else None,
            ),
            Criterion(
                "it holds at most half the bytes between steps",
                f"{size[ours]:.0f} and {size[AUTOGRAD]:.0f} bytes per parameter",
                size_ratio >= 2 if known_all else None,
            ),
            Criterion(
                "it takes at most three times as long as a step of Adam",
                f"{ms[ours] / ms['adam']:.1f} times",
                ms[ours] <= 3 * ms["adam"] if known_all else None,
            ),
        )
        rows = tuple(
            (label, *(f"{known.number(run, f'ms/{label}'):.3f}" for run in self._runs()),
             f"{known.number(largest, f'state/{label}'):.1f}",
             f"{known.number(largest, f'graph/{label}'):.1f}")
            for label in labels
        )  # fmt: skip
        columns = ("optimizer", *(f"ms, {n:,}" for n in self.sizes), "state, B", "graph, B")

        def draw(figure: Figure) -> None:
            left, right = figure.subplots(1, 2, sharey=True)
            for axes, values, title in (
                (left, ms, f"ms per step, {largest.parameters:,} parameters"),
                (right, size, "bytes per parameter between steps"),
            ):
                axes.barh(list(values), list(values.values()), color=COLOURS[0])
                axes.set_title(title)
            left.invert_yaxis()

        claim = Claim(
            "Learning coefficients need not cost a backward pass",
            "The paper's implementation differentiates the update by automatic differentiation, "
            "with 102 to 114 bytes of state per parameter.",
            "Median times of steps taken in turn, on one thread of this machine; bytes of state "
            "tensors, and of what a graph holds between steps.",
            criteria,
            (Chart("cost", "Time and bytes of a step, by optimizer.", draw),),
            (Table("Time and memory, bytes per parameter", columns, rows),),
        )
        introduction = (
            f"Float32 parameters in {self.tensors} tensors, one thread. "
            f"{AUTOGRAD!r} writes the equations of mada.opt with torch operations, and "
            "differentiates them by a backward pass through the last update."
        )
        return Chapter(self.study, self.title, introduction, [claim])
