"""How hyperparameters are learned, as the user says it; pydantic validates it.

It is imported only where a user gives a `Learn`, or where a specification is read: importing
pydantic takes longer than loading a class from the cache.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from optdsl.options import OptionError
from optdsl.words import LARGEST_SAMPLE, Scope, Signal


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
        signal: what the rule follows: the hyper-gradient ("raw"), its "sign", the "cosine" of
            the gradient and the derivative of the parameters by the hyperparameter, or the
            hyper-gradient "normalized" by the squared norm of the gradient and its running mean.
        horizon: derivatives of the parameters by the hyperparameter are multiplied by this number
            in [0, 1] from step to step and summed up, as an eligibility trace; 0 for the derivative
            of the last step alone.
        sample: hyper-gradients are estimated from one in so many elements of large tensors, for all
            that an optimizer learns; by default as another `Learn` of the optimizer says, and from
            every element if none does.

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
    horizon: float = Field(default=0.0, ge=0, le=1)
    sample: int | None = Field(default=None, ge=1, le=LARGEST_SAMPLE, strict=True)

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


def plain(learn: Mapping[str, Learn]) -> dict[str, dict[str, Any]] | None:
    """What is learned, and how, as plain values; None where something else is given."""
    if not all(type(how) is Learn for how in learn.values()):
        return None
    return {name: how.model_dump() for name, how in learn.items()}


def _sentence(error: ValidationError) -> str:
    """The errors in one line: the names, values and reasons."""
    parts = []
    for item in error.errors():
        name = ".".join(str(p) for p in item["loc"])
        message = item["msg"].removeprefix("Input ")
        parts.append(f"{name}={item['input']!r} {message}")
    return "; ".join(parts)
