"""The options of the compiler, and their validation; `optdsl.learn_option` has that of learning."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from optdsl.diagnostics import nearest

BackendName = Literal["auto", "eager", "c", "triton"]
Order = Literal["overlapped", "exact"]


class OptionError(ValueError):
    """An option has an invalid value."""


@dataclass(frozen=True)
class CompileOptions:
    """How a specification is compiled."""

    backend: BackendName = "auto"
    order: Order = "overlapped"
    state_bytes: float | None = None


def real(value: Any) -> float:
    """A number of any library as a float.

    Raises:
        TypeError: for anything else, including text such as "0.1".
    """
    if isinstance(value, str | bytes | bytearray):
        raise TypeError(f"must be a real number, not {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"must be a real number, not {value!r}") from error


def compile_options(
    backend: str, order: str = "overlapped", state_bytes: float | None = None
) -> CompileOptions:
    """The options, or a one-line `OptionError` (a ValueError)."""
    given = {"backend": (backend, get_args(BackendName)), "order": (order, get_args(Order))}
    wrong = [
        f"{option}={value!r} should be {_alternatives(known)}"
        for option, (value, known) in given.items()
        if not isinstance(value, str) or value not in known
    ]
    if wrong:
        raise OptionError("; ".join(wrong))
    bound = None if state_bytes is None else _bytes(state_bytes)
    return CompileOptions(cast(BackendName, str(backend)), cast(Order, str(order)), bound)


def _bytes(given: Any) -> float:
    try:
        if isinstance(given, bool):
            raise TypeError
        number = real(given)
    except TypeError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise OptionError(
            f"state_bytes={given!r} should be a number of bytes for each parameter, or None for "
            "the plan that keeps least"
        )
    return number


def _alternatives(names: Sequence[str]) -> str:
    *first, last = map(repr, names)
    return f"{', '.join(first)} or {last}"


def check_keywords(function: str, given: Mapping[str, object]) -> None:
    """Raise an error for keyword arguments that are not options of the compiler.

    Most of them are hyperparameters; the message says where those are given.

    Args:
        function: the name of the function that was called.
        given: its unknown keyword arguments.

    Raises:
        TypeError: for the first of them.
    """
    for name in given:
        hint = nearest(name, {"backend", "order", "learn", "store", "state_bytes", "path"} - {name})
        raise TypeError(
            f"{function} has no option {name!r}: "
            + (hint or f"give hyperparameters to the class, {function}(...)(params, {name}=...)")
        )
