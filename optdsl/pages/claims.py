"""What a report says: chapters of claims, each with a verdict that follows from its criteria."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Verdict(StrEnum):
    """What the measurements say about a claim."""

    HOLDS = "holds"
    IN_PART = "holds in part"
    NOT_HERE = "does not hold here"
    UNKNOWN = "not decided"


@dataclass(frozen=True)
class Criterion:
    """A condition that was declared before the measurement.

    Attributes:
        text: The condition, with its threshold.
        measured: What was measured, in words.
        met: Whether it is met; None if the measurement is missing.
    """

    text: str
    measured: str
    met: bool | None


@dataclass(frozen=True)
class Chart:
    """A figure.

    Attributes:
        name: The stem of its files.
        caption: What it shows, in full sentences, for those who cannot see it, too.
        draw: Draws it on an empty figure of the size.
        size: Width and height in inches.
    """

    name: str
    caption: str
    draw: Callable[[Figure], None]
    size: tuple[float, float] = (7.0, 3.6)


@dataclass(frozen=True)
class Judged:
    """A cell of a table with a judgement: in words, and on a page in colour.

    Attributes:
        text: The words.
        good: Whether it is as hoped.
    """

    text: str
    good: bool

    def __str__(self) -> str:
        """The words."""
        return self.text


@dataclass(frozen=True)
class Table:
    """A table of texts; all columns but the first are numbers, aligned at the right."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | Judged, ...], ...]


@dataclass(frozen=True)
class Claim:
    """A claim, and what was found.

    Attributes:
        title: The claim in a few words.
        paper: What the paper says, with the place.
        measured: What was measured, and how.
        criteria: What decides the verdict.
        charts: Its figures.
        tables: Its tables.
        judged: Whether there is a verdict; False for a description.
    """

    title: str
    paper: str
    measured: str
    criteria: tuple[Criterion, ...] = ()
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    judged: bool = True

    @property
    def verdict(self) -> Verdict:
        """Holds if all criteria are met, in part if some are, and not here if none is."""
        if not self.criteria or any(c.met is None for c in self.criteria):
            return Verdict.UNKNOWN
        met = sum(bool(c.met) for c in self.criteria)
        if met == len(self.criteria):
            return Verdict.HOLDS
        return Verdict.IN_PART if met else Verdict.NOT_HERE

    @property
    def sentence(self) -> str:
        """The verdict in one sentence."""
        total = len(self.criteria)
        missing = sum(c.met is None for c in self.criteria)
        met = sum(bool(c.met) for c in self.criteria)
        match self.verdict:
            case Verdict.UNKNOWN:
                return (
                    f"Not decided: the measurements of {missing} of {total} criteria are missing."
                )
            case Verdict.HOLDS:
                every = "its criterion is" if total == 1 else f"all {total} criteria are"
                return f"The claim holds: {every} met."
            case Verdict.IN_PART:
                return f"The claim holds in part: {met} of {total} criteria are met."
            case _:
                none = "its criterion is not" if total == 1 else f"none of {total} criteria is"
                return f"The claim does not hold here: {none} met."


@dataclass(frozen=True)
class Chapter:
    """What a study has to say."""

    name: str
    title: str
    introduction: str
    claims: Sequence[Claim]
