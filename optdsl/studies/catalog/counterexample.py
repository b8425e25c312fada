"""The counterexample of Reddi et al., with all optimizers of the paper."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from matplotlib.figure import Figure
from pydantic import PositiveInt

from optdsl.pages.charts import legend_beside, line_style
from optdsl.pages.claims import Chapter, Chart, Claim, Criterion, Table
from optdsl.studies.frame.study import Share, Study
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.counterexample import Counterexample
from optdsl.studies.runs.optimizers import Contestant, Learned

HYPERS = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.99, "eps": 1e-6}
# The published figures at 1M and 2M steps, by label.
PUBLISHED = {
    "adam": ("+1.00", "+1.00"),
    "avgrad": ("−.98", "−.99"),
    "learn ρ": ("+.65", "+1.00"),
    "learn ρ, β3, c": ("−.19", "−.90"),
}


def _learning(label: str, **upper: float) -> Contestant:
    learn = {
        name: Learned(hypers={"lr": 0.1, "momentum": 0.9}, bounds=(0.0, high))
        for name, high in upper.items()
    }
    hypers = {**HYPERS, "rho": 1.0, "beta3": 0.0, "c": 1.0, "gamma": 1.0}
    return Contestant(label=label, rule="mada_legacy", hypers=hypers, learn=learn, order="exact")


OPTIMIZERS = (
    Contestant(label="adam", rule="adam", hypers=HYPERS),
    Contestant(label="amsgrad", rule="amsgrad", hypers=HYPERS),
    Contestant(label="avgrad", rule="avgrad", hypers=HYPERS),
    _learning("learn ρ", rho=1.0),
    _learning("learn ρ, β3, c", rho=1.0, beta3=0.99, c=1.0),
)


class CounterexampleStudy(Study):
    """Reddi's problem.

    Attributes:
        steps: Of the optimizers that are compared.
        rhos: Fixed values of ρ, 1 for Adam and 0 for AVGrad, whose drift is measured.
        rho_steps: Steps of those.
    """

    study: Literal["counterexample"] = "counterexample"
    seeds: PositiveInt = 1
    steps: PositiveInt = 2_000_000
    rhos: tuple[Share, ...] = (0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.3, 1.0)
    rho_steps: PositiveInt = 200_000

    title: ClassVar[str] = "The counterexample"
    summary: ClassVar[str] = "Reddi et al.'s online problem, on which Adam goes the wrong way"

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        return cls(steps=60_000, rhos=(0.0, 0.03, 0.05, 0.1), rho_steps=20_000)

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        return [*self._compared(), *self._fixed()]

    def _compared(self) -> list[Counterexample]:
        return [Counterexample(contestant=c, steps=self.steps) for c in OPTIMIZERS]

    def _fixed(self) -> list[Counterexample]:
        hypers = {**HYPERS, "weight_decay": 0.0}
        return [
            Counterexample(
                contestant=Contestant(
                    label=f"ρ = {rho:g}",
                    rule="adam_avgrad",
                    hypers={**hypers, "rho": rho},
                    learn=False,
                ),
                steps=self.rho_steps,
            )
            for rho in self.rhos
        ]

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        introduction = (
            "The loss is 1010 x at every 101st step and −10 x at all others, for x in [−1, 1]; the "
            "best point is −1, and large rare gradients say so. Every rule runs as the compiler's "
            "own program on Python floats in float64, with learning rate 1e-3, β = (0.9, 0.99), "
            "from x = 0; x is put back into the interval after each step. "
            f"The comparison takes {self.steps:,} steps."
        )
        return Chapter(
            self.study, self.title, introduction, [self._comparison(known), self._threshold(known)]
        )

    def _comparison(self, known: Results) -> Claim:
        runs = {run.contestant.label: run for run in self._compared()}
        x = {label: known.number(run, "x") for label, run in runs.items()}
        drift = {label: known.number(run, "drift") for label, run in runs.items()}

        def told(label: str) -> str:
            return f"{label} ends at x = {x[label]:+.3f}, {drift[label]:+.3f} in the second half"

        def right(label: str, sign: int) -> bool | None:
            if not math.isfinite(x[label]):
                return None
            at_end = x[label] * sign >= 0.99
            return x[label] * sign > 0 and (at_end or drift[label] * sign > 0)

        criteria = tuple(
            Criterion(text, told(label), right(label, sign))
            for label, sign, text in (
                ("adam", 1, "Adam goes to +1, the worst point"),
                ("amsgrad", -1, "AMSGrad goes to −1"),
                ("avgrad", -1, "AVGrad goes to −1"),
                ("learn ρ", 1, "MADA that learns only ρ goes to +1"),
                ("learn ρ, β3, c", -1, "MADA that learns ρ, β3 and c goes to −1"),
            )
        )
        rows = tuple(
            (label, f"{x[label]:+.4f}", f"{drift[label]:+.4f}", *PUBLISHED.get(label, ("–", "–")))
            for label in runs
        )
        columns = ("optimizer", f"x at {self.steps:,}", "in the second half", "paper, 1M", "2M")

        def draw(figure: Figure) -> None:
            axes = figure.subplots()
            for index, (label, run) in enumerate(runs.items()):
                steps = known.series(run, "step")
                axes.plot(steps, known.series(run, "x"), label=label, **line_style(index))
            axes.axhline(0, color="#999999", linewidth=0.5)
            axes.set_ylim(-1.05, 1.05)
            axes.set_xlabel("step")
            axes.set_ylabel("x (best: −1)")
            legend_beside(axes)

        return Claim(
            "Learning the interpolation escapes Adam's failure",
            "Adam converges to the worst point of this problem (Reddi et al., 2018); AVGrad finds "
            "the best one, and so does MADA that learns ρ, β3 and c, while learning ρ alone is not "
            "enough (Ozkara et al., 2024, section 5.1, and the authors' implementation).",
            "Where x is after the last step, and how far it moved in the second half of the run.",
            criteria,
            (Chart("counterexample", "x over the steps, for each optimizer.", draw),),
            (Table("Where x ends", columns, rows),),
        )

    def _threshold(self, known: Results) -> Claim:
        runs = dict(zip(self.rhos, self._fixed(), strict=True))
        x = {rho: known.number(run, "x") for rho, run in runs.items()}
        good = [rho for rho, end in x.items() if end < 0]
        bad = [rho for rho, end in x.items() if end > 0]
        complete = all(map(math.isfinite, x.values()))
        low, high = max(good, default=math.nan), min(bad, default=math.nan)
        found = f"x goes towards −1 up to ρ = {low:g} and towards +1 from ρ = {high:g} on"
        met = 0.02 <= low < high <= 0.06 if complete else None

        def draw(figure: Figure) -> None:
            axes = figure.subplots()
            axes.plot(list(x), list(x.values()), marker="o", **line_style(0))
            axes.axhline(0, color="#999999", linewidth=0.5)
            axes.set_xscale("symlog", linthresh=0.01)
            axes.set_xlabel("ρ (0: AVGrad, 1: Adam)")
            axes.set_ylabel("x at the end")

        rows = tuple((f"{rho:g}", f"{x[rho]:+.4f}", f"{known.number(run, 'drift'):+.4f}")
                     for rho, run in runs.items())  # fmt: skip
        return Claim(
            "A fixed ρ must be small",
            "The sign of the drift changes between ρ = 0.03 and ρ = 0.05 (measured with the "
            "authors' implementation).",
            f"Where x, which starts at 0, is after {self.rho_steps:,} steps, for fixed ρ.",
            (Criterion("the sign changes once, at a ρ between 0.02 and 0.06", found, met),),
            (Chart("counterexample-rho", "x at the end by ρ; below zero is right.", draw),),
            (Table("Fixed ρ", ("ρ", "x", "in the second half"), rows),),
        )
