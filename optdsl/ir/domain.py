"""Sets of numbers: the bounds of a hyperparameter, and interval arithmetic over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """The numbers between `lower` and `upper`; an open end is not included.

    With `whole`, these are the whole numbers among them, and infinity where it is an end.
    """

    lower: float = -math.inf
    upper: float = math.inf
    lower_open: bool = False
    upper_open: bool = False
    whole: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int | float) or math.isnan(value):
            return False
        if self.whole and math.isfinite(value) and value != int(value):
            return False
        above = value > self.lower if self.lower_open else value >= self.lower
        below = value < self.upper if self.upper_open else value <= self.upper
        return above and below

    def __str__(self) -> str:
        return self.written(spell)

    def written(self, number: Callable[[float], str]) -> str:
        """The interval in the notation of the language, with numbers as `number` writes them."""
        if self.whole:
            return "{" + f"{number(self.lower)}, ..., {number(self.upper)}" + "}"
        opening, closing = "(" if self.lower_open else "[", ")" if self.upper_open else "]"
        return f"{opening}{number(self.lower)}, {number(self.upper)}{closing}"

    @property
    def discrete(self) -> bool:
        """Whether the numbers are apart from one another, so that none is learned."""
        return self.whole

    @property
    def empty(self) -> bool:
        """Whether no number lies inside."""
        open_end = self.lower_open or self.upper_open
        return self.lower > self.upper or (self.lower == self.upper and open_end)

    def includes(self, other: Interval) -> bool:
        """Whether every number of `other` lies inside."""
        if self.whole and not other.whole:
            return False
        lower = other.lower in self or (other.lower == self.lower and other.lower_open)
        upper = other.upper in self or (other.upper == self.upper and other.upper_open)
        return lower and upper

    def project(self, value: float) -> float:
        """The number of a closed interval that is nearest to `value`."""
        return min(max(value, self.lower), self.upper)


@dataclass(frozen=True, slots=True)
class Choice:
    """A finite set of numbers; with `labels`, 0, 1 and so on have these names."""

    values: tuple[float, ...]
    labels: tuple[str, ...] = ()

    @property
    def discrete(self) -> bool:
        """True: see `Interval.discrete`."""
        return True

    @property
    def whole(self) -> bool:
        """Whether all of them are whole numbers."""
        return all(float(v).is_integer() for v in self.values)

    def __contains__(self, value: object) -> bool:
        return value in self.values

    def __str__(self) -> str:
        return self.written(spell)

    def written(self, number: Callable[[float], str]) -> str:
        """The set in the notation of the language, with numbers as `number` writes them."""
        if self.labels:
            return "{" + ", ".join(self.labels) + "}"
        return "{" + ", ".join(map(number, self.values)) + "}"


Domain = Interval | Choice


def labels_of(domain: Domain) -> tuple[str, ...]:
    """The labels of the numbers of a domain, from 0 on; empty for one that has none."""
    return domain.labels if isinstance(domain, Choice) else ()


def relabelled(inner: Domain, outer: Domain) -> bool:
    """Whether the numbers of a domain have labels, and in another one have other labels."""
    mine, theirs = labels_of(inner), labels_of(outer)
    return bool(mine and theirs) and mine != theirs


def spell_in(domain: Domain, value: float) -> str:
    """A number of a domain as the language writes it: by its label, if it has one."""
    labels = labels_of(domain)
    return labels[int(value)] if labels else spell(value)


def labelled(labels: tuple[str, ...]) -> Choice:
    """A choice among labels."""
    return Choice(tuple(map(float, range(len(labels)))), labels)


# By how much the sum of a weight vector may differ from one: more than rounding, less than errors.
SUM_TOLERANCE = 1e-6

EVERYTHING = Interval(-math.inf, math.inf, True, True)
# All numbers, infinities included, but not NaN.
ANYTHING = Interval()


def spell(value: float) -> str:
    """A number as the language writes it."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    return repr(value)


def closed(interval: Interval) -> Interval:
    """The interval with its ends."""
    return Interval(interval.lower, interval.upper)


def hull(domain: Domain) -> Interval:
    """The smallest interval around a domain."""
    if isinstance(domain, Choice):
        return Interval(min(domain.values), max(domain.values))
    return domain


def within(inner: Domain, outer: Domain) -> bool:
    """Whether every number of a domain lies in another one, under the same label if it has one."""
    if isinstance(inner, Choice):
        return all(x in outer for x in inner.values) and inner.labels == labels_of(outer)
    return isinstance(outer, Interval) and outer.includes(inner)
