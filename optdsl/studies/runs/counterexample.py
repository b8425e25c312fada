"""The online problem of Reddi, Kale and Kumar (2018) on which Adam fails."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import PositiveInt

from optdsl.studies.frame.values import Outcome, Result, Run
from optdsl.studies.runs.controls import PREFIX
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.scalar import ScalarOptimizer

PERIOD = 101
RARE, COMMON = 1010.0, -10.0  # slopes of the loss at every PERIOD-th step, and at all others
POINTS = 200  # of a series


class Counterexample(Run):
    """Runs a rule on the problem; the number `x` of the outcome is where it ends.

    The loss is 1010 x at every 101st step and -10 x at all others, with x in [-1, 1], so that -1
    is best; x starts at 0 and is put back into the interval after each step.

    Attributes:
        contestant: The rule.
        steps: How many.
    """

    kind: Literal["counterexample"] = "counterexample"
    contestant: Contestant
    steps: PositiveInt

    modules: ClassVar[tuple[str, ...]] = ("optdsl.studies.runs.scalar",)

    @property
    def label(self) -> str:
        """See `Run`."""
        return f"counterexample  {self.contestant.label}"

    @property
    def weight(self) -> float:
        """See `Run`; a step takes some ten microseconds."""
        return self.steps / 100_000

    def ingredients(self) -> tuple[str, ...]:
        """See `Run`."""
        return self.contestant.ingredients()

    def execute(self, given: Mapping[str, Result]) -> Outcome:
        """See `Run`."""
        elaboration = self.contestant.elaboration()
        optimizer = ScalarOptimizer(elaboration, self.contestant.hypers)
        names = [learned.hyper for learned in elaboration.learned]
        series: dict[str, list[float]] = {
            n: [] for n in ("step", "x", *(PREFIX + n for n in names))
        }
        every = max(1, self.steps // POINTS)
        x = 0.0
        for t in range(1, self.steps + 1):
            x = optimizer.step(x, RARE if t % PERIOD == 1 else COMMON)
            x = min(max(x, -1.0), 1.0)
            if t % every == 0 or t == self.steps:
                for name, value in zip(
                    series, (t, x, *(optimizer.hypers[n] for n in names)), strict=True
                ):
                    series[name].append(float(value))
        halfway = series["x"][len(series["x"]) // 2]
        numbers = {"x": x, "halfway": halfway, "drift": x - halfway}
        numbers |= {PREFIX + name: optimizer.hypers[name] for name in names}
        return Outcome(numbers, {name: tuple(values) for name, values in series.items()})
