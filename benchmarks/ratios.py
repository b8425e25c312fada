"""Ratios of times that were measured side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles


@dataclass(frozen=True)
class Spread:
    """The median of some numbers and the quartiles around it."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """The median and the quartiles; of a single value, that value thrice."""
    if not values:
        raise ValueError("no values were measured")
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(median(values), low, high, len(values))


def paired(numerator: Sequence[float], denominator: Sequence[float]) -> Spread:
    """The spread of the ratios of what was measured in the same round.

    What slows the machine for a while slows both, so that their ratio hardly notices.
    """
    return spread([a / b for a, b in zip(numerator, denominator, strict=True)])
