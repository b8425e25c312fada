"""What the settings of a study may be; `read_study` tells in which line they are not, and why."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, TypeVar

import torch
from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from optdsl.diagnostics import SpecError
from optdsl.resources import UnknownSpecError
from optdsl.studies.runs.optimizers import Contestant
from optdsl.training.tasks import find_task

Place = tuple[int | str, ...]
Found = TypeVar("Found")


def mistake(place: Place, told: str) -> ValidationError:
    """Returns the exception for a mistake in a part of a setting, or of a study.

    Args:
        place: The part.
        told: What is wrong, and what is allowed, in one line.
    """
    kind = PydanticCustomError("setting", "{told}", {"told": told})
    return ValidationError.from_exception_data(
        "setting", [InitErrorDetails(type=kind, loc=place, input=None)]
    )


def startable(place: Place, started: Iterable[Contestant]) -> None:
    """Checks that optimizers have the hyperparameters with which a study starts them.

    Args:
        place: The part of the study that says with which.
        started: The optimizers; those of other packages are not checked.
    """
    for contestant in started:
        if not contestant.foreign:
            _tried(place, partial(_made, contestant), f"{contestant.label}: ")


def learns(contestant: Contestant) -> bool:
    """Whether an optimizer learns anything that controls could follow."""
    return not contestant.foreign and bool(contestant.elaboration().learned)


def _task(name: str) -> str:
    return find_task(name).name


def _some(values: tuple[Found, ...]) -> tuple[Found, ...]:
    if not values:
        raise mistake((), "there must be at least one")
    return values


def _different(values: tuple[Found, ...]) -> tuple[Found, ...]:
    """Checks that no two are equal, or have one label."""
    seen: list[object] = []
    for number, value in enumerate(values):
        label = getattr(value, "label", None)
        name = value if label is None else label
        if name in seen:
            what = "" if label is None else "the label "
            raise mistake((number,), f"{what}'{name}' stands here again; each must be there once")
        seen.append(name)
    return values


def _beside_adamw(values: tuple[Contestant, ...]) -> tuple[Contestant, ...]:
    for number, value in enumerate(values):
        if value.label == "adamw":
            told = "the label 'adamw' is that of AdamW itself, with which this study compares"
            raise mistake((number, "label"), told)
    return values


def _possible(contestant: Contestant) -> Contestant:
    """Checks that there is such an optimizer; of another package, only that it may be one."""
    for name in ("scale", "centre"):
        value = getattr(contestant, name)
        if value is not None and not (math.isfinite(value) and value > 0):
            raise mistake((name,), f"should be a finite number greater than 0, not {value:g}")
    if contestant.foreign:
        try:
            _ = contestant.installed
        except (ImportError, ValueError):
            told = f"'{contestant.rule}' should be MODULE:CLASS of a package that is installed"
            raise mistake(("rule",), told) from None
        return contestant
    _tried(("rule",), contestant.frozen().elaboration)
    if not isinstance(contestant.learn, bool):
        for name, how in contestant.learn.items():
            alone = contestant.model_copy(update={"learn": {name: how}})
            _tried(("learn", name), alone.elaboration)
    _tried(("learn",), contestant.elaboration)
    fixed = contestant.frozen()
    for name, value in contestant.hypers.items():
        # The weights of a vector are right or wrong together.
        if fixed.elaboration().program.simplex_of(name) is None:
            alone = fixed.model_copy(update={"hypers": {name: value}})
            _tried(("hypers", name), partial(_made, alone))
    _tried(("hypers",), partial(_made, fixed))
    return contestant


def _startable(contestant: Contestant) -> Contestant:
    startable(("hypers",), [contestant])
    return contestant


def _made(contestant: Contestant) -> None:
    contestant.optimizer([torch.nn.Parameter(torch.zeros(1))])


def _tried(place: Place, attempt: Callable[[], object], whose: str = "") -> None:
    """Attempts something; what the compiler has against it is a mistake in that place."""
    try:
        attempt()
    except SpecError as error:
        first = error.diagnostics[0]
        hint = f": {first.hint}" if first.hint else ""
        raise mistake(place, f"{whose}{first.message}{hint}") from None
    except OSError as error:
        raise mistake(place, f"{whose}cannot read '{error.filename}': {error.strerror}") from None
    except (UnknownSpecError, TypeError, ValueError) as error:
        raise mistake(place, f"{whose}{error}") from None


Task = Annotated[str, AfterValidator(_task)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Beta = Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False)]
Listed = Annotated[Contestant, AfterValidator(_possible)]
"""An optimizer whose hyperparameters a study may still change."""
Started = Annotated[Listed, AfterValidator(_startable)]
"""An optimizer that a study starts as it is, but for its learning rate."""
SOME = AfterValidator(_some)
DIFFERENT = AfterValidator(_different)
BESIDE_ADAMW = AfterValidator(_beside_adamw)
