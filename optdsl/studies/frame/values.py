"""Runs and results: what a study is made of."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict

from optdsl.studies.frame import keys


class Frozen(BaseModel):
    """Declared data: immutable, and without fields that nobody has declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class Outcome:
    """What a run has measured.

    Attributes:
        numbers: Results by name; NaN where a run has none, as after a divergence.
        series: Sequences by name.  Those of one run that belong together have equal lengths.
    """

    numbers: Mapping[str, float] = field(default_factory=dict)
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


class Status(StrEnum):
    """How a run ended."""

    FINISHED = "finished"
    FAILED = "failed"


@dataclass(frozen=True)
class Result:
    """How a run ended, and what it has measured.

    Attributes:
        key: The key of the run.
        run: The run, as plain data for readers.
        status: How it ended.
        outcome: What it has measured; empty if it failed.
        message: Why it failed, in one line; empty if it finished.
        details: The traceback of a failure.
        seconds: How long it took.
        notes: The circumstances: versions, machine, and so on.  They are not part of the key.
    """

    key: str
    run: Mapping[str, Any]
    status: Status
    outcome: Outcome = field(default_factory=Outcome)
    message: str = ""
    details: str = ""
    seconds: float = 0.0
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        """Whether there is an outcome."""
        return self.status is Status.FINISHED

    def as_json(self) -> dict[str, Any]:
        """Plain data; numbers that are not finite become None, which JSON has."""
        data = asdict(self)
        outcome = data["outcome"]
        outcome["numbers"] = {n: _written(x) for n, x in self.outcome.numbers.items()}
        outcome["series"] = {n: [*map(_written, xs)] for n, xs in self.outcome.series.items()}
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what `as_json` returned.

        Raises:
            ValueError, TypeError, KeyError, AttributeError: It is something else.
        """
        outcome = data["outcome"]
        return cls(
            key=str(data["key"]),
            run=dict(data["run"]),
            status=Status(data["status"]),
            outcome=Outcome(
                {n: _read(x) for n, x in outcome["numbers"].items()},
                {n: tuple(map(_read, xs)) for n, xs in outcome["series"].items()},
            ),
            message=str(data["message"]),
            details=str(data["details"]),
            seconds=float(data["seconds"]),
            notes=dict(data["notes"]),
        )


def _written(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def _read(x: float | None) -> float:
    return math.nan if x is None else float(x)


class Run(Frozen, ABC):
    """One measurement, described by its fields alone, so that it can be done anywhere.

    Attributes:
        kind: What is done.
    """

    kind: str

    modules: ClassVar[tuple[str, ...]] = ()
    """The modules whose code decides the result, beside the one that defines the run."""

    @abstractmethod
    def execute(self, given: Mapping[str, Result]) -> Outcome:
        """Measures.

        Args:
            given: The results of the runs in `needs`, all of them finished, by key.
        """

    @property
    @abstractmethod
    def label(self) -> str:
        """A name for lists of runs."""

    @property
    def needs(self) -> tuple[str, ...]:
        """The keys of the runs whose results this one starts from."""
        return ()

    @property
    def weight(self) -> float:
        """The expected duration in any unit, from which the time left is estimated."""
        return 1.0

    @property
    def alone(self) -> bool:
        """Whether no other run may be in progress on the machine, as when time is measured."""
        return False

    def ingredients(self) -> tuple[str, ...]:
        """Texts beside the fields that decide the result: rules, contents of files."""
        return ()

    @cached_property
    def key(self) -> str:
        """A hash of all that decides the result; see `optdsl.studies.frame.keys`."""
        modules = (type(self).__module__, *self.modules)
        return keys.key_of(self.model_dump(mode="json"), modules, self.ingredients())


class Results:
    """The results that are known, by key."""

    def __init__(self, known: Iterable[Result] = ()) -> None:
        """Starts with some results."""
        self._known = {result.key: result for result in known}

    def add(self, result: Result) -> None:
        """Adds a result."""
        self._known[result.key] = result

    def __contains__(self, run: object) -> bool:
        """Whether a run has ended."""
        return isinstance(run, Run) and run.key in self._known

    def __iter__(self) -> Iterator[Result]:
        """All results."""
        return iter(self._known.values())

    def by_key(self, key: str) -> Result | None:
        """The result of the run with a key, or None."""
        return self._known.get(key)

    def of(self, run: Run) -> Result | None:
        """The result of a run that finished; None for one that failed or has not ended."""
        result = self._known.get(run.key)
        return result if result is not None and result.finished else None

    def number(self, run: Run, name: str) -> float:
        """A number that a run measured; NaN where there is none."""
        result = self.of(run)
        return math.nan if result is None else result.outcome.numbers.get(name, math.nan)

    def series(self, run: Run, name: str) -> tuple[float, ...]:
        """A series that a run measured; empty where there is none."""
        result = self.of(run)
        return () if result is None else result.outcome.series.get(name, ())
