"""Hyperparameters given by a user: names and bounds, with errors that say what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from optdsl.diagnostics import nearest
from optdsl.ir.domain import Interval, spell
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


def check_value(optimizer: str, hyper: Hyper, value: Any, learned: Mapping[str, Interval]) -> float:
    """The value as a Python float, if the hyperparameter may have it.

    A learned one must also lie within the bounds of learning, `learned` by name. Accepts ints,
    floats, bools, numpy scalars and tensors of one element.

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
    return number


def spell_any(number: float) -> str:
    """A number as the language writes it, NaN too."""
    return "nan" if number != number else spell(number)
