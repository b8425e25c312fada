"""Adam-AVGrad on stochastic convex problems."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import ClassVar, Literal, Self

from matplotlib.figure import Figure
from pydantic import PositiveInt

from optdsl.pages.charts import band, legend_beside
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Table
from optdsl.pages.statistics import slope, spread
from optdsl.studies.frame.study import Share, Study
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.convex import Convex

RATE = -0.5  # the theorem's exponent of regret / T, up to logarithms
TOLERANCE = 0.1


class InterpolationStudy(Study):
    """Regret over ρ and T.

    Attributes:
        rhos: The values of ρ.
        steps: The largest T; every run passes all smaller ones.
    """

    study: Literal["interpolation"] = "interpolation"
    rhos: tuple[Share, ...] = (0.0, 0.1, 0.3, 0.6, 1.0)
    steps: PositiveInt = 20_000

    title: ClassVar[str] = "Between Adam and AVGrad"
    summary: ClassVar[str] = "regret and effective step on stochastic convex problems"

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        return cls(seeds=2, rhos=(0.0, 0.5, 1.0), steps=2000)

    def _runs(self, rho: float) -> list[Convex]:
        return [Convex(rho=rho, seed=seed, steps=self.steps) for seed in range(self.seeds)]

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        return [run for rho in self.rhos for run in self._runs(rho)]

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        introduction = (
            "Absolute losses |a·x − b| in ten dimensions, with features that are ten times larger "
            "in one of twenty steps, noise in b, x in a cube, and the learning rate α/√t of the "
            f"theorem; {self.seeds} seeds of 32 problems each, T up to {self.steps:,}. "
            "Regret is against the point that the data were made from."
        )
        return Chapter(
            self.study, self.title, introduction, [self._rate(known), self._monotone(known)]
        )

    def _slopes(self, known: Results, name: str) -> dict[float, list[float]]:
        found: dict[float, list[float]] = {}
        for rho in self.rhos:
            found[rho] = []
            for run in self._runs(rho):
                steps, values = known.series(run, "step"), known.series(run, name)
                late = [(t, y) for t, y in zip(steps, values, strict=True) if t >= self.steps / 20]
                found[rho].append(slope([t for t, _ in late], [y for _, y in late]))
        return found

    def _rate(self, known: Results) -> Claim:
        slopes = self._slopes(known, "regret")
        norms = self._slopes(known, "gradient")
        criteria = tuple(
            Criterion(
                f"with ρ = {rho:g}, regret / T falls at least like T to the {RATE + TOLERANCE:g}",
                f"exponent {spread(values, 3)}",
                fmean(values) <= RATE + TOLERANCE if all(map(math.isfinite, values)) else None,
            )
            for rho, values in slopes.items()
        )
        rows = tuple(
            (
                f"{rho:g}",
                spread([known.number(run, "regret") for run in self._runs(rho)]),
                spread(slopes[rho], 3),
                spread([known.number(run, "gradient") for run in self._runs(rho)]),
                spread(norms[rho], 3),
            )
            for rho in self.rhos
        )
        columns = ("ρ", "regret / T", "exponent", "mean gradient norm", "exponent")

        def draw(figure: Figure) -> None:
            left, right = figure.subplots(1, 2)
            for index, rho in enumerate(self.rhos):
                runs = self._runs(rho)
                steps = known.series(runs[0], "step")
                for axes, name in ((left, "regret"), (right, "gradient")):
                    band(axes, index, f"ρ = {rho:g}", steps, [known.series(r, name) for r in runs])
            for axes, label in ((left, "regret / T"), (right, "mean gradient norm")):
                axes.set_xscale("log")
                axes.set_yscale("log", nonpositive="mask")
                axes.set_xlabel("T")
                axes.set_title(label)
            legend_beside(right)

        return Claim(
            "The interpolation keeps the rate of convergence",
            "The interpolation of Adam and AVGrad reaches the usual rate, of order 1/√T up to "
            "logarithms, and smaller ρ gives a better constant (Ozkara et al., 2024, section 4).",
            "The slope of regret / T against T in logarithms, over the last nineteen twentieths.",
            criteria,
            (Chart("interpolation", "Regret and gradient norm over T, by ρ.", draw, (7, 3.2)),),
            (Table(f"At T = {self.steps:,}", columns, rows),),
        )

    def _monotone(self, known: Results) -> Claim:
        growing = {
            rho: [known.number(run, "growing") for run in self._runs(rho)] for rho in self.rhos
        }
        first, last = min(self.rhos), max(self.rhos)
        complete = all(math.isfinite(x) for xs in growing.values() for x in xs)
        criteria = (
            Criterion(
                f"with ρ = {first:g} the effective step never grows",
                f"it grows in {100 * fmean(growing[first]):.2g} % of steps",
                (first == 0 and max(growing[first]) == 0) if complete else None,
            ),
            Criterion(
                f"with ρ = {last:g} it grows in some steps",
                f"it grows in {100 * fmean(growing[last]):.2g} % of steps",
                min(growing[last]) > 0 if complete else None,
            ),
        )

        def draw(figure: Figure) -> None:
            axes = figure.subplots()
            for index, rho in enumerate(self.rhos):
                runs = self._runs(rho)
                steps = known.series(runs[0], "step")
                values = [known.series(run, "effective") for run in runs]
                band(axes, index, f"ρ = {rho:g}", steps, values)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_xlabel("step")
            axes.set_ylabel("effective step, mean over elements")
            legend_beside(axes)

        return Claim(
            "AVGrad's effective step never grows",
            "t·V_t is a sum, so that α/√(t·V_t) does not grow; that is the condition which Adam "
            "violates (Ozkara et al., 2024, section 4; Reddi et al., 2018).",
            "The share of elements and steps in which α/√t divided by the root of the second "
            "moment (before its bias correction) is larger than in the step before.",
            criteria,
            (Chart("interpolation-step", "The effective step over time, by ρ.", draw),),
        )
