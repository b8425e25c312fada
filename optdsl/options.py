"""What a user may ask of the compiler, validated where it enters."""

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
    """An option has a value that it cannot have."""


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class CompileOptions(_Options):
    """How a specification is compiled."""

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
            hyperparameter's own domain, which must then be closed. A weight vector has none but
            its simplex.
        after: this many steps at the start leave the hyperparameter as it is.
        exponentiated: a weight vector moves by the exponentiated gradient: the rule runs on the
            logarithms of the weights. By default it moves by Euclidean projection.
        scope: what has a value of its own: "optimizer" (one for all groups), "group", "tensor".
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
        """The hyperparameters of the rule itself."""
        return dict(self.model_extra or {})


LearnOption = bool | Iterable[str] | Mapping[str, Learn]


def canonical(learn: LearnOption) -> str | None:
    """A wish as text, the same for equal ones; None for one that is better looked at each time."""
    if isinstance(learn, bool | str):
        return repr(learn)
    if isinstance(learn, Mapping) and all(type(how) is Learn for how in learn.values()):
        wish: Any = {name: how.model_dump() for name, how in learn.items()}
    elif isinstance(learn, list | tuple):
        wish = list(learn)
    else:
        return None
    try:
        return json.dumps(wish)
    except (TypeError, ValueError):
        return None


def real(value: Any) -> float:
    """A number of any library as a float.

    Raises:
        TypeError: for anything else, text that spells a number included.
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
    """The first complaints as one line: name, what is wrong, what was given."""
    parts = []
    for item in error.errors():
        name = ".".join(str(p) for p in item["loc"])
        message = item["msg"].removeprefix("Input ")
        parts.append(f"{name}={item['input']!r} {message}")
    return "; ".join(parts)


def check_keywords(function: str, given: Mapping[str, object]) -> None:
    """Refuse keyword arguments that `load` and its siblings have not: hyperparameters, mostly.

    Args:
        function: what was called.
        given: the keyword arguments that are no options.

    Raises:
        TypeError: for the first one, with where hyperparameters are given.
    """
    for name in given:
        hint = nearest(name, {"backend", "order", "learn"} - {name})
        raise TypeError(
            f"{function} has no option {name!r}: "
            + (hint or f"give hyperparameters to the class, {function}(...)(params, {name}=...)")
        )
