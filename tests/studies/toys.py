"""A study with instant runs that leave a trace of each execution."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from optdsl.pages.claims import Chapter, Claim, Criterion, Judged, Table
from optdsl.studies.frame.study import Study
from optdsl.studies.frame.values import Outcome, Result, Results, Run


class ToyRun(Run):
    kind: Literal["toy"] = "toy"
    number: int
    does: Literal["square", "fail", "die", "sleep", "hang"] = "square"
    trace: Path
    of: str | None = None

    @property
    def label(self) -> str:
        return f"toy {self.number}"

    @property
    def needs(self) -> tuple[str, ...]:
        return () if self.of is None else (self.of,)

    def execute(self, given: Mapping[str, Result]) -> Outcome:
        (self.trace / f"{self.number}.{os.getpid()}.{time.monotonic_ns()}").touch()
        if self.does == "fail":
            raise ValueError("the toy is broken\nsecond line")
        if self.does == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.does == "sleep":
            time.sleep(0.3)
        if self.does == "hang":
            time.sleep(600)
        base = sum(result.outcome.numbers["square"] for result in given.values())
        return Outcome({"square": float(self.number**2) + base}, {"all": (1.0, float("nan"))})


class ToyStudy(Study):
    study: Literal["toy"] = "toy"
    title = "Toys"
    summary = "squares"
    trace: Path
    numbers: tuple[int, ...] = (1, 2, 3)
    does: Literal["square", "fail", "die", "sleep", "hang"] = "square"
    sequel: bool = False

    @classmethod
    def quick(cls) -> Self:
        raise NotImplementedError

    def runs(self, known: Results) -> Sequence[Run]:
        first = ToyRun(number=self.numbers[0], does=self.does, trace=self.trace)
        runs = [first, *(ToyRun(number=n, trace=self.trace) for n in self.numbers[1:])]
        if self.does == "sleep":
            runs = [ToyRun(number=n, does="sleep", trace=self.trace) for n in self.numbers]
        if self.sequel and first in known:
            runs.append(ToyRun(number=100, trace=self.trace, of=first.key))
        return runs

    def chapter(self, known: Results) -> Chapter:
        values = [known.number(run, "square") for run in self.runs(known)]
        criterion = Criterion("the sum is 14", f"{sum(values):g}", sum(values) == 14)
        table = Table("Squares", ("number", "square"), (("2", Judged("small", True)),))
        claim = Claim("Squares", "n²", "n·n", (criterion,), tables=(table,))
        return Chapter("toy", self.title, "Toys.", [claim])
