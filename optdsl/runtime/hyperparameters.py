"""Hyperparameters given by a user: names and bounds, with errors that say what is allowed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from optdsl.diagnostics import nearest
from optdsl.ir.domain import spell
from optdsl.ir.program import Hyper
from optdsl.options import real


def check_names(optimizer: str, given: Iterable[str], hypers: Mapping[str, Hyper]) -> None:
    """Refuse names that are no hyperparameters.

    Raises:
        TypeError: as Python does for an unexpected keyword, with the nearest known name.
    """
    for name in given:
        if name not in hypers:
            hint = nearest(name, hypers) or f"it has {', '.join(hypers)}"
            raise TypeError(f"{optimizer} has no hyperparameter {name!r}: {hint}")


def check_value(optimizer: str, hyper: Hyper, value: Any) -> float:
    """The value as a Python float, if the hyperparameter may have it.

    Accepts ints, floats, bools, numpy scalars and tensors of one element.

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
    return number


def spell_any(number: float) -> str:
    """A number as the language writes it, NaN too."""
    return "nan" if number != number else spell(number)
