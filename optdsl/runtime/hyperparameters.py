"""Hyperparameters given by a user: names, bounds, sums; the errors say what is allowed."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from optdsl.diagnostics import nearest
from optdsl.ir.domain import SUM_TOLERANCE, Interval, spell
from optdsl.ir.program import Hyper, Simplex
from optdsl.options import real

# Keywords of torch's optimizers that are no hyperparameters: how they compute, not what.
_WAYS = frozenset({"capturable", "differentiable", "foreach", "fused"})


def check_names(optimizer: str, given: Iterable[str], hypers: Mapping[str, Hyper]) -> None:
    """Refuse names that are no hyperparameters.

    Raises:
        TypeError: as Python does for an unexpected keyword, with the nearest known name.
    """
    for name in given:
        if name not in hypers:
            # A weight vector by its name, or a member's own hyperparameter without the member's.
            inside = [h for h in hypers if h.startswith(f"{name}_") or h.endswith(f"_{name}")]
            hint = f"there are {', '.join(inside)}" if inside else nearest(name, hypers)
            if name in _WAYS:
                hint = "that chooses among torch's own implementations; leave it out"
            hint = hint or f"it has {', '.join(hypers)}"
            raise TypeError(f"{optimizer} has no hyperparameter {name!r}: {hint}")


def check_keys(optimizer: str, group: Iterable[str], hypers: Iterable[str]) -> None:
    """Refuse keys of a parameter group that look like misspelt hyperparameters.

    Other keys are the user's own, as with torch.

    Raises:
        TypeError: with the name that was probably meant.
    """
    known = set(hypers)
    for key in group:
        close = [] if key in known else difflib.get_close_matches(str(key), known, 1, cutoff=0.85)
        if close:
            raise TypeError(
                f"{optimizer} has no hyperparameter {key!r}: did you mean `{close[0]}`?"
            )


def check_value(
    optimizer: str, hyper: Hyper, value: Any, learned: Mapping[str, Interval]
) -> float | Tensor:
    """The value to keep, if the hyperparameter may have it.

    A learned one must also lie within the bounds of learning, `learned` by name. Accepts ints,
    floats, bools, numpy scalars and tensors of one element. It is kept as a Python float; but a
    floating tensor stays itself where it is not learned, for schedulers and users write into it.

    Raises:
        TypeError: when it is no real number.
        ValueError: when it is out of bounds; the message names them.
    """
    try:
        number = real(value)
    except TypeError as error:
        raise TypeError(f"{optimizer}: {hyper.name} {error}") from None
    if number not in hyper.domain:
        raise ValueError(
            f"{optimizer}: {hyper.name} = {spell_any(number)} is out of bounds, "
            f"it must lie in {hyper.domain}"
        )
    bounds = learned.get(hyper.name)
    if bounds is not None and number not in bounds:
        raise ValueError(
            f"{optimizer}: {hyper.name} = {spell(number)} is out of bounds, "
            f"it is learned in {bounds}"
        )
    if isinstance(value, Tensor) and value.is_floating_point() and bounds is None:
        return value if type(value) is Tensor and not value.requires_grad else value.detach()
    return number


def check_sums(optimizer: str, simplexes: Iterable[Simplex], values: Mapping[str, Any]) -> None:
    """Refuse weight vectors that do not sum to one.

    Args:
        optimizer: what the error calls the optimizer.
        simplexes: the weight vectors.
        values: a parameter group, or whatever else has a number for every component.

    Raises:
        ValueError: with the weights and their sum.
    """
    for simplex in simplexes:
        weights = {name: float(values[name]) for name in simplex.hypers}
        total = math.fsum(weights.values())
        if not abs(total - 1) <= SUM_TOLERANCE:
            given = ", ".join(f"{name} = {spell(value)}" for name, value in weights.items())
            raise ValueError(
                f"{optimizer}: the weights {given} sum to {spell(total)}; "
                f"give all of them, with the sum 1"
            )


def check_shared(
    optimizer: str, learned: Iterable[str], groups: Sequence[Mapping[str, Any]]
) -> None:
    """Refuse learned hyperparameters that differ from group to group.

    Raises:
        ValueError: with the values.
    """
    for name in learned:
        values = {float(group[name]) for group in groups}
        if len(values) > 1:
            raise ValueError(
                f"{optimizer}: {name} is learned for the whole optimizer, but its groups have "
                f"{sorted(values)}; give all groups one value, or fix it with learn=False"
            )


def spell_any(number: float) -> str:
    """A number as the language writes it, NaN too."""
    return "nan" if number != number else spell(number)
