"""The options of the compiler, and their validation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optdsl.diagnostics import nearest
from optdsl.words import Scope, Signal

BackendName = Literal["auto", "eager", "c", "triton"]
Order = Literal["overlapped", "exact"]


class OptionError(ValueError):
    """An option has an invalid value."""


class CompileOptions(BaseModel):
    """How a specification is compiled."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    backend: BackendName = "auto"
    order: Order = "overlapped"


class Learn(BaseModel):
    """How one hyperparameter, or one weight vector, is learned.

    ``Learn("sgd", lr=0.1, momentum=0.9, clip=10, bounds=(0, 1), after=50)``: the first argument
    is a rule of the library or a file, ``"./mine.opt"``, which runs on the hyperparameter as on a
    parameter of one element; keywords other than those below are that rule's own hyperparameters.

    Attributes:
        rule: the name of a rule of the library, or the path of a ``.opt`` file.
        clip: the hyper-gradient is limited to [-clip, clip]; None for no limit.
        bounds: every update is projected to this closed interval; by default the
            hyperparameter's own domain, which must then be closed. A weight vector is projected
            to its simplex instead.
        after: the number of steps at the start that leave the hyperparameter unchanged.
        exponentiated: whether a weight vector moves by the exponentiated gradient, with the rule
            running on the logarithms of the weights, instead of by Euclidean projection.
        scope: what has its own learned value: the "optimizer", each "group", or each "tensor".
        signal: what the rule follows: the hyper-gradient ("raw"), its "sign", or the "cosine" of
            the gradient and the derivative of the parameters by the hyperparameter.

    Raises:
        OptionError: (a ValueError) for a value of the wrong kind or out of range.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    rule: str
    clip: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    bounds: tuple[float, float] | None = None
    after: int = Field(default=0, ge=0)
    exponentiated: bool = Field(default=False, strict=True)
    scope: Scope = "optimizer"
    signal: Signal = "raw"

    def __init__(self, rule: str | os.PathLike[str], **options: Any) -> None:
        """See the class."""
        if isinstance(rule, os.PathLike):
            rule = os.path.join(os.path.dirname(rule) or os.curdir, os.path.basename(rule))
        try:
            super().__init__(rule=rule, **options)
        except ValidationError as error:
            raise OptionError(f"Learn: {_sentence(error)}") from None

    @property
    def hypers(self) -> dict[str, Any]:
        """The hyperparameters of the rule."""
        return dict(self.model_extra or {})


LearnOption = bool | Iterable[str] | Mapping[str, Learn]


def canonical(learn: LearnOption) -> str | None:
    """An option as text, equal for equal options; None for one that cannot be compared so."""
    if isinstance(learn, bool | str):
        return repr(learn)
    if isinstance(learn, Mapping) and all(type(how) is Learn for how in learn.values()):
        plain: Any = {name: how.model_dump() for name, how in learn.items()}
    elif isinstance(learn, list | tuple):
        plain = list(learn)
    else:
        return None
    try:
        return json.dumps(plain)
    except (TypeError, ValueError):
        return None


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


def compile_options(backend: str, order: str = "overlapped") -> CompileOptions:
    """The options, or a one-line `OptionError` (a ValueError)."""
    try:
        return CompileOptions.model_validate({"backend": backend, "order": order})
    except ValidationError as error:
        raise OptionError(_sentence(error)) from None


def _sentence(error: ValidationError) -> str:
    """The errors in one line: the names, values and reasons."""
    parts = []
    for item in error.errors():
        name = ".".join(str(p) for p in item["loc"])
        message = item["msg"].removeprefix("Input ")
        parts.append(f"{name}={item['input']!r} {message}")
    return "; ".join(parts)


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
        hint = nearest(name, {"backend", "order", "learn", "store"} - {name})
        raise TypeError(
            f"{function} has no option {name!r}: "
            + (hint or f"give hyperparameters to the class, {function}(...)(params, {name}=...)")
        )
