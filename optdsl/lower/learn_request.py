"""Checks what is to be learned, and how, for `learn` statements and for `optdsl.Learn` alike.

Both become a `Request`; the caller turns each `Problem` into a diagnostic or into an exception.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from optdsl.diagnostics import nearest
from optdsl.ir.domain import Choice, Domain, Interval, spell
from optdsl.ir.program import Hyper, Learned, Simplex
from optdsl.words import SCOPES, SIGNALS

CLIP = Interval(0.0, math.inf, True, True)
HORIZON = Interval(0.0, 1.0)


class Rules(Protocol):
    """The rules that a specification may refer to by name."""

    def names(self) -> Iterable[str]:
        """The names of all rules."""

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's canonical name and its hyperparameters; None for an unknown name."""


def learnable(hypers: Iterable[str], simplexes: Iterable[Simplex]) -> dict[str, tuple[str, ...]]:
    """The hyperparameters behind each name that can be learned: several for a weight vector."""
    vectors = {simplex.name: simplex.hypers for simplex in simplexes}
    parts = {part for vector in vectors.values() for part in vector}
    return {name: (name,) for name in hypers if name not in parts} | vectors


@dataclass(frozen=True)
class Request:
    """How a hyperparameter or a weight vector is to be learned.

    Attributes:
        name: the name of the hyperparameter or of the weight vector.
        rule: the name of the rule that learns it.
        options: hyperparameters of that rule, and its clip: values, and how they are written.
        bounds: the interval within which it is learned; None for its own domain.
        after: the number of steps at the start that do not change it.
        exponentiated: whether the rule runs on the logarithms of the weights.
        scope: one of `SCOPES`.
        signal: one of `SIGNALS`.
        horizon: how tangents decay from step to step; see `optdsl.ir.program.Learned`.
        words: the options that are not hyperparameters of the rule.
        example: how bounds are written, for hints.
    """

    name: str
    rule: str
    options: Mapping[str, tuple[float, str]]
    bounds: Domain | None
    after: float
    exponentiated: bool
    scope: str
    signal: str
    horizon: float
    words: Sequence[str]
    example: str


@dataclass(frozen=True)
class Problem:
    """A mistake in a request, with the texts of a `Diagnostic`.

    `place` is the part with the mistake: a field of the request, or ``option NAME`` (the name of an
    option), or ``value NAME`` (its value).
    """

    code: str
    place: str
    message: str
    label: str = ""
    hint: str = ""


def is_steps(value: float) -> bool:
    """Whether a number is a number of steps: whole, finite, and not negative."""
    return 0 <= value < math.inf and value == math.floor(value)


def learned(request: Request, hypers: Iterable[Hyper], rules: Rules) -> tuple[Learned, ...]:
    """How hyperparameters are learned by a request without `problems`."""
    rule, _ = rules.hypers(request.rule) or (request.rule, ())
    options = {name: value for name, (value, _) in request.options.items()}
    clip = options.pop("clip", None)
    after, way = int(request.after), (request.exponentiated, request.scope, request.signal)
    return tuple(
        Learned(
            h.name,
            rule,
            tuple(options.items()),
            clip,
            _bounds(request, h),
            after,
            *way,
            horizon=float(request.horizon),
        )
        for h in hypers
    )


def problems(
    request: Request, hypers: Sequence[Hyper], vector: bool, rules: Rules, start: bool = True
) -> Iterator[Problem]:
    """The mistakes in a request.

    Args:
        request: the request.
        hypers: the hyperparameters that `request.name` stands for; if there are none, only the rest
            of the request is checked.
        vector: whether they are the components of a weight vector.
        rules: the rules by which they may be learned.
        start: whether the defaults must lie within the bounds.
    """
    yield from _of_rule(request, rules)
    words = ("scope", request.scope, SCOPES), ("signal", request.signal, SIGNALS)
    for place, word, known in words:
        if word not in known:
            hint = nearest(word, known) or f"there are {', '.join(known)}"
            yield Problem("unknown-name", place, f"`{word}` is no {place}", hint=hint)
    if not is_steps(request.after):
        yield Problem("number", "after", "steps are whole", "not a whole number")
    if request.horizon not in HORIZON:
        message = f"the horizon {spell(request.horizon)} must lie in {HORIZON}"
        label = "tangents of earlier steps are multiplied by it in each step"
        yield Problem("out-of-bounds", "horizon", message, label)
    name = request.name
    if vector and request.bounds is not None:
        message = f"the weights {name} lie in [0, 1] and sum to one"
        yield Problem("learn-bounds", "bounds", message, hint="leave out bounds")
    elif hypers and request.exponentiated and not vector:
        message = f"{name} is no weight vector, and only weights are learned by their logarithms"
        yield Problem("learn-bounds", "name", message, hint="leave out `exponentiated`")
    else:
        yield from (p for hyper in hypers if (p := _of_bounds(request, hyper, start)))


def _of_rule(request: Request, rules: Rules) -> Iterator[Problem]:
    known = rules.hypers(request.rule)
    if known is None:
        message = f"unknown rule `{request.rule}`"
        label = "neither in the library nor a file of this name beside this one"
        hint = nearest(request.rule, rules.names()) or f"there are {', '.join(rules.names())}"
        yield Problem("unknown-rule", "rule", message, label, hint)
        return
    name, hypers = known
    domains: dict[str, Domain] = {h.name: h.domain for h in hypers} | {"clip": CLIP}
    for option, (value, written) in request.options.items():
        if option not in domains:
            names = [h.name for h in hypers] + list(request.words)
            hint = nearest(option, names) or f"it has {', '.join(names)}"
            message = f"{name} has no hyperparameter `{option}`"
            yield Problem("unknown-option", f"option {option}", message, hint=hint)
        elif value not in domains[option]:
            message = f"{option} = {written} must lie in {domains[option]}"
            yield Problem("out-of-bounds", f"value {option}", message)


def _of_bounds(request: Request, hyper: Hyper, start: bool) -> Problem | None:
    """The mistake in the interval to which every update is projected, if there is one."""
    name, allowed = request.name, hyper.domain
    message = label = hint = ""
    if allowed.discrete:
        message, label = f"`{name}` is one of {allowed}", "cannot be learned by gradient descent"
        return Problem("learn-bounds", "bounds", message, label)
    chosen = _bounds(request, hyper)
    lower_open = chosen.lower_open and not math.isinf(chosen.lower)
    upper_open = chosen.upper_open and not math.isinf(chosen.upper)
    if lower_open or upper_open:
        message = f"`{name}` is learned in {chosen}, which has an open end"
        label = "every update is projected to the bounds, so they must be closed"
        hint = f"write for instance {request.example}"
    elif isinstance(allowed, Choice) or not allowed.includes(chosen):
        message = f"`{name}` would be learned outside its bounds"
        label = f"must lie within {allowed}"
    elif chosen.lower == chosen.upper and math.isinf(chosen.lower):
        message = f"`{name}` would be learned in {chosen}, which holds no finite number"
        label = "no update changes an infinite number"
        hint = f"write for instance {request.example}"
    elif start and hyper.default not in chosen:
        message = f"`{name}` starts at {spell(hyper.default)}, outside {chosen}"
        label = "the first update would jump to the bounds"
        hint = "change the default or the bounds"
    return Problem("learn-bounds", "bounds", message, label, hint) if message else None


def _bounds(request: Request, hyper: Hyper) -> Interval:
    bounds = hyper.domain if request.bounds is None else request.bounds
    assert isinstance(bounds, Interval)
    return bounds
