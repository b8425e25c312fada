"""A study: a declared grid of runs, and what is concluded from them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, ClassVar, Self

from pydantic import Field, PositiveInt

from optdsl.pages.claims import Chapter
from optdsl.studies.frame.values import Frozen, Results, Run

# A weight of one of two rules that are mixed.
Share = Annotated[float, Field(ge=0, le=1)]


class Study(Frozen, ABC):
    """What is measured, with all settings.

    Attributes:
        study: Its name.
        seeds: How often runs that depend on a seed are repeated, with the seeds 0, 1, and so on.
    """

    study: str
    seeds: PositiveInt = 3

    title: ClassVar[str]
    summary: ClassVar[str]
    trajectories: ClassVar[bool] = True
    """Whether its tables of data have the coefficients after every step; they are many."""

    @classmethod
    @abstractmethod
    def quick(cls) -> Self:
        """Returns the grid of `--quick`, which takes a minute or less."""

    @abstractmethod
    def runs(self, known: Results) -> Sequence[Run]:
        """Returns all runs that can be named from the results so far, known ones included."""

    @abstractmethod
    def chapter(self, known: Results) -> Chapter:
        """Returns what the report says; results may be missing."""
