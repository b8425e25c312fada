"""Language and vision: do learned optimizers reach lower losses?"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import replace
from typing import Annotated, ClassVar, Literal, Self

from optdsl.pages.claims import Chapter, Claim, Criterion
from optdsl.studies.catalog.comparison import (
    CONTROLS,
    NAMES,
    TrainingStudy,
    loss_chart,
    loss_table,
)
from optdsl.studies.catalog.contestants import (
    ADAMW,
    DIRECTION,
    HYPERADAM,
    MADA,
    MEMBERS,
    PAPER,
    PEERS,
    SIGN,
    absent,
    installed,
)
from optdsl.studies.catalog.settings import BESIDE_ADAMW, DIFFERENT, SOME, Started, Task
from optdsl.studies.frame.values import Results, Run
from optdsl.studies.runs.optimizers import Contestant
from optdsl.studies.runs.training import Training

LEVEL = 0.05  # of the paired tests
NOISE = "adamw, ε + 0.1 %"


class LossStudy(TrainingStudy):
    """Losses of tuned optimizers, and of MADA's controls.

    Attributes:
        contestants: The optimizers beside AdamW.
        learners: The labels of those whose controls are run.
        defaults: Whether all are run at their default learning rates, too.
    """

    contestants: Annotated[tuple[Started, ...], DIFFERENT, BESIDE_ADAMW] = (
        MADA,
        PAPER,
        HYPERADAM,
        SIGN,
        DIRECTION,
        *MEMBERS,
        *PEERS,
    )
    learners: tuple[str, ...] = (MADA.label, PAPER.label)
    defaults: bool = True

    paper: ClassVar[str]

    def _all(self) -> tuple[Contestant, ...]:
        return (ADAMW, *installed(self.contestants))

    def _tuned(self, known: Results, task: str) -> dict[str, Contestant]:
        pairs = ((c.label, self.tuned(known, self.trials(task, c))) for c in self._all())
        return {label: found for label, found in pairs if found is not None}

    def _learners(self, known: Container[str]) -> list[str]:
        return [label for label in self.learners if label in known]

    def runs(self, known: Results) -> Sequence[Run]:
        """See `Study`."""
        runs: list[Run] = []
        for task in self.tasks:
            for contestant in self._all():
                runs += self.trials(task, contestant)
                if self.defaults:
                    runs += self.repeated(task, contestant)
            for found in self._measured(known, task).values():
                runs += found
        return runs

    def _measured(self, known: Results, task: str) -> dict[str, list[Training]]:
        """Returns the runs at tuned rates, the noise and the controls, by label."""
        tuned = self._tuned(known, task)
        runs = {label: self.repeated(task, contestant) for label, contestant in tuned.items()}
        if ADAMW.label in tuned:
            runs[NOISE] = self.noise(task, tuned[ADAMW.label])
        for label in self._learners(tuned):
            controls = self.controlled(known, task, tuned[label])
            runs |= {f"{label}, {kind}": found for kind, found in controls.items()}
        return runs

    def chapter(self, known: Results) -> Chapter:
        """See `Study`."""
        told = (
            f"{self.summary[0].upper()}{self.summary[1:]}; {self.seeds} seeds. {self.budget()} "
            "Controls: each MADA with its coefficients fixed at their start, or at the values at "
            "which it ended; a random walk with its step sizes; a straight path from its first to "
            "its last values; and AdamW with ε changed by a thousandth, which shows the noise."
        )
        claims = [self._claim(known, task) for task in self.tasks]
        return Chapter(self.study, self.title, told + absent(self.contestants), claims)

    def _claim(self, known: Results, task: str) -> Claim:
        runs = self._measured(known, task)
        base = ADAMW.label
        tables = []
        criteria: list[Criterion] = []
        if base in runs:
            tables.append(loss_table(self, known, task, runs, base))
        if self.defaults:
            plain = {c.label: self.repeated(task, c) for c in self._all()}
            table = loss_table(self, known, task, plain, base)
            tables.append(replace(table, caption=f"{table.caption}; default learning rates"))
        for label in self._learners(runs if base in runs else ()):
            criteria += self._criteria(known, runs, label, base)
        if not criteria:
            criteria = [Criterion("the runs are there", "they are not", None)]
        charts = (loss_chart(f"{self.study}-{task}", known, task, runs),) if runs else ()
        return Claim(
            f"MADA ends lower than AdamW: {task}",
            self.paper,
            "Validation losses at equal steps, paired by seed, and at the time that AdamW took.",
            tuple(criteria),
            charts,
            tuple(tables),
        )

    def _criteria(
        self, known: Results, runs: dict[str, list[Training]], label: str, base: str
    ) -> list[Criterion]:
        level = self.level(known, runs[NOISE], runs[base])
        against = [("AdamW, tuned with the same budget", runs[base])]
        against += [
            (f"itself with coefficients: {NAMES[kind]}", runs[f"{label}, {kind}"])
            for kind in CONTROLS
            if f"{label}, {kind}" in runs
        ]
        criteria: list[Criterion] = []
        for words, other in against:
            found = self.compared(known, runs[label], other)
            lower = found.mean < -level and found.p < LEVEL
            words = f"{label}: lower than {words}, by more than the noise of {level:.2g}"
            known_all = math.isfinite(found.mean + level + found.p)
            met = lower if known_all else None
            criteria.append(Criterion(f"{words}, with p < {LEVEL}", str(found), met))
        train = self.compared(known, runs[label], runs[base], "train")
        met = train.mean < 0 and train.p < LEVEL if math.isfinite(train.mean + train.p) else None
        words = f"{label}: lower training loss than AdamW, with p < {LEVEL}"
        criteria.append(Criterion(words, str(train), met))
        return criteria


class LanguageStudy(LossStudy):
    """Characters of a text."""

    study: Literal["language"] = "language"
    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT] = ("characters",)

    title: ClassVar[str] = "Language"
    summary: ClassVar[str] = "a character transformer on real text"
    paper: ClassVar[str] = (
        "GPT-2 ends at 2.881 to 2.888 nats with MADA and at 2.896 with Adam, on one seed; on "
        "Shakespeare MADA's training loss is lower than Adam's in most cells, while its validation "
        "loss is higher in the authors' logs (Ozkara et al., 2024, section 5)."
    )

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        few = (MADA, SIGN, MEMBERS[-1], PEERS[-1])
        return cls(seeds=2, scale=0.1, multipliers=(0.3, 1.0), contestants=few, defaults=False)


class VisionStudy(LossStudy):
    """Images."""

    study: Literal["vision"] = "vision"
    tasks: Annotated[tuple[Task, ...], SOME, DIFFERENT] = ("cnn", "resnet")

    title: ClassVar[str] = "Vision"
    summary: ClassVar[str] = "a convolutional and a residual network on images"
    paper: ClassVar[str] = (
        "MADA is better than its members with a five-layer CNN and with ResNet-9 on CIFAR-10 "
        "(Ozkara et al., 2024, appendix)."
    )

    @classmethod
    def quick(cls) -> Self:
        """See `Study`."""
        few = (MADA, SIGN, MEMBERS[1])
        return cls(seeds=2, scale=0.1, multipliers=(0.3, 1.0), contestants=few, defaults=False)
