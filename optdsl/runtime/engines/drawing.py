"""The seed of an optimizer, and the random numbers that each of its tensors draws."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

from torch import Tensor

from optdsl.runtime.core.draws import Draws
from optdsl.runtime.engines.compiled import LearningOptimizer

# Where parameter groups keep the seed.
SEED = "seed"


def check_seed(name: str, seed: Any) -> int:
    """A seed as a whole number of 64 bits.

    Raises:
        TypeError: for what is no whole number.
        ValueError: for one that is negative, or too large.
    """
    try:
        found = operator.index(seed)
    except TypeError:
        raise TypeError(f"{name}: seed must be a whole number, not {seed!r}") from None
    if not 0 <= found < 2**64:
        raise ValueError(f"{name}: seed={seed!r} is out of bounds; it must lie in [0, 2^64)")
    return found


def seeded(name: str, seed: Any, draws: bool) -> dict[str, int]:
    """What the groups of an optimizer keep of its seed.

    Args:
        name: that of its class.
        seed: the seed; None where none is given.
        draws: whether its rule draws random numbers.

    Raises:
        TypeError: for a rule that draws none.
        TypeError, ValueError: as `check_seed`.
    """
    if draws:
        return {SEED: check_seed(name, 0 if seed is None else seed)}
    if seed is not None:
        raise TypeError(f"{name} draws no random numbers, and takes no seed")
    return {}


def check_group(name: str, group: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
    """Refuse a parameter group with another seed than the optimizer's.

    Raises:
        TypeError: for such a group.
    """
    if SEED in defaults and group.get(SEED, defaults[SEED]) != defaults[SEED]:
        raise TypeError(f"{name}: seed is an argument of the optimizer, and one for all groups")


def drawing(optimizer: LearningOptimizer) -> Callable[[Tensor], Draws | None]:
    """What draws the random numbers of each parameter; None for a rule that draws none.

    The number of a parameter is its place among all parameters of the optimizer.

    Raises:
        TypeError, ValueError: for a seed that was set in some groups only, or that is none.
    """
    if not optimizer.compiled.draws:
        return lambda parameter: None
    groups = optimizer.param_groups
    name = type(optimizer).__name__
    seed, *others = (check_seed(name, group[SEED]) for group in groups)
    if any(other != seed for other in others):
        raise ValueError(
            f"{name}: the parameter groups have different seeds, and an optimizer has one; set it "
            f"in all of its param_groups"
        )
    held = chain.from_iterable(group["params"] for group in groups)
    numbers = {id(parameter): number for number, parameter in enumerate(held)}
    return lambda parameter: Draws(seed, numbers[id(parameter)])
