"""Hyperparameters given by a user: names, bounds, sums; the errors say what is allowed."""

from __future__ import annotations

import difflib
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.diagnostics import nearest
from optdsl.ir.domain import EVERYTHING, SUM_TOLERANCE, Choice, Domain, Interval, hull, spell
from optdsl.ir.program import Hyper, Simplex
from optdsl.options import real
from optdsl.runtime.core.callers import outside

# Options of torch's optimizers that change the steps, and how a rule with them is had here.
_OTHER_RULES = {
    "amsgrad": 'optdsl.load("amsgrad") is that rule',
    "nesterov": 'optdsl.load("sgd") has it',
    "decoupled_weight_decay": 'optdsl.load("adamw") is that rule',
}
_ELSEWHERE = _OTHER_RULES | {
    "kind": 'a parameter group has one: {"params": [...], "kind": "otherwise"}',
}
# From what similarity on a key of a group is taken for a misspelt hyperparameter.
_SIMILAR = 0.85
# A value is a bound and rounding if it is so many spacings of floats beyond it.
_SPACINGS = 4
_COARSEST = torch.finfo(torch.float32).eps


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
            hint = hint or _ELSEWHERE.get(name) or f"it has {', '.join(hypers)}"
            raise TypeError(f"{optimizer} has no hyperparameter {name!r}: {hint}")


def check_keys(optimizer: str, group: Mapping[str, Any], known: Iterable[str]) -> None:
    """Warn of keys of a parameter group that look like misspelt hyperparameters.

    All keys that are not known are the user's own and are kept, as with torch.

    Args:
        optimizer: what the warning calls the optimizer.
        group: the group.
        known: the hyperparameters, and what else a group may have.
    """
    names = set(known)
    for key in map(str, group):
        if key in names:
            continue
        hint = f"did you mean `{near}`?" if (near := _misspelt(key, names)) else ""
        if key in _OTHER_RULES and group[key]:
            hint = _OTHER_RULES[key]
        if hint:
            warnings.warn(
                f"{optimizer} has no hyperparameter {key!r}, so this entry of a parameter group "
                f"changes nothing: {hint}",
                UserWarning,
                stacklevel=outside(),
            )


def _misspelt(key: str, known: set[str]) -> str | None:
    """The name that a key was probably meant to be."""
    # A name with words before or after it is another name: `use_weight_decay`, `lr_scale`.
    if any(f"_{name}_" in f"_{key}_" for name in known):
        return None
    return next(iter(difflib.get_close_matches(key, known, 1, cutoff=_SIMILAR)), None)


def check_value(
    optimizer: str,
    hyper: Hyper,
    value: Any,
    learned: Mapping[str, Interval],
    others: Iterable[Mapping[str, Any]] = (),
) -> float | Tensor:
    """The value to keep, if the hyperparameter may have it.

    A learned one must also lie within the bounds of learning, `learned` by name. Accepts ints,
    floats, bools, numpy scalars and tensors of one element. It is kept as a Python float; but a
    floating tensor stays itself where it is not learned, for schedulers and users write into it.
    What steps use is `number`.

    Raises:
        TypeError, ValueError: as `number`.
    """
    found = number(optimizer, hyper, value, learned, others)
    if isinstance(value, Tensor) and value.is_floating_point() and hyper.name not in learned:
        return value if type(value) is Tensor else value.detach()
    return found


def number(
    optimizer: str,
    hyper: Hyper,
    value: Any,
    learned: Mapping[str, Interval],
    others: Iterable[Mapping[str, Any]] = (),
) -> float:
    """The number that a step uses for a value of a hyperparameter.

    That is the value itself or, where rounding has brought it out of bounds, the bound: a schedule
    that ends at 0 may end at -4.4e-21. Rounding is at most four spacings of the floats (of
    the value's dtype, float32 or finer) at the largest of these numbers: the bounds that are
    finite, the default of the hyperparameter, and those in `others`.

    Args:
        optimizer: what errors call the optimizer.
        hyper: the hyperparameter.
        value: what was given.
        learned: the bounds of learning by name.
        others: groups, and what else may have another value of it, the first one perhaps.

    Raises:
        TypeError: when it is no real number.
        ValueError: when it is out of bounds, with the bounds; for a tensor that requires gradients.
    """
    if isinstance(value, Tensor) and value.requires_grad:
        raise ValueError(
            f"{optimizer}: {hyper.name} is a tensor that requires gradients, and a step gives it "
            f"none; give {hyper.name}.detach(), or let the optimizer learn it: "
            f'optdsl.load(..., learn={{"{hyper.name}": optdsl.Learn("sgd", lr=...)}})'
        )
    if isinstance(hyper.domain, Choice) and value in hyper.domain.labels:
        return float(hyper.domain.labels.index(value))
    if isinstance(value, str) and isinstance(hyper.domain, Choice) and hyper.domain.labels:
        raise TypeError(f"{optimizer}: {hyper.name} must be one of {hyper.domain}, not {value!r}")
    try:
        found = real(value)
    except TypeError as error:
        raise TypeError(f"{optimizer}: {hyper.name} {error}") from None
    if found not in hyper.domain:
        found = _unrounded(found, value, hyper, hyper.domain, others)
        if found not in hyper.domain:
            shown = "nan" if found != found else spell(found)
            raise ValueError(
                f"{optimizer}: {hyper.name} = {shown} is out of bounds, "
                f"it must lie in {hyper.domain}"
            )
    bounds = learned.get(hyper.name)
    if bounds is not None and found not in bounds:
        found = _unrounded(found, value, hyper, bounds, others)
        if found not in bounds:
            raise ValueError(
                f"{optimizer}: {hyper.name} = {spell(found)} is out of bounds, "
                f"it is learned in {bounds}"
            )
    return found


class Checked:
    """Checks the hyperparameters of a group at every step, at the cost of what has changed.

    A number that was allowed at the step before is allowed at this one, and one inside all bounds
    is allowed at a glance. All other values go through `number`.
    """

    def __init__(self, hypers: Sequence[Hyper], learned: Mapping[str, Interval]) -> None:
        """Begin without a step.

        Args:
            hypers: the hyperparameters.
            learned: the bounds of learning by name.
        """
        self._learned = learned
        self._hypers = [(hyper.name, hyper, *_around(hyper, learned)) for hyper in hypers]
        # The values at the step before; None for one that is checked again in any case.
        self._given: list[Any] = [None] * len(hypers)
        self._found: list[float] = [0.0] * len(hypers)

    def numbers(
        self, optimizer: str, group: Mapping[str, Any], others: Iterable[Mapping[str, Any]]
    ) -> dict[str, float]:
        """The numbers that a step uses for a group, by name.

        Args:
            optimizer: what errors call the optimizer.
            group: the group.
            others: as of `number`.

        Raises:
            TypeError, ValueError: as `number`.
        """
        given, found = self._given, self._found
        for place, (name, hyper, lower, upper) in enumerate(self._hypers):
            value = group[name]
            if value is given[place] and value is not None:
                continue
            if type(value) is float and lower < value < upper:
                given[place] = found[place] = value
                continue
            given[place] = None
            found[place] = number(optimizer, hyper, value, self._learned, others)
            if type(value) is float and value == found[place]:
                # Tensors may be written to, and rounding depends on what others have.
                given[place] = value
        return {name: x for (name, *_), x in zip(self._hypers, found, strict=True)}


def _around(hyper: Hyper, learned: Mapping[str, Interval]) -> tuple[float, float]:
    """Two numbers: every float strictly between them is allowed; equal ones where none is said."""
    bounds = (hyper.domain, learned.get(hyper.name, EVERYTHING))
    intervals = [b for b in bounds if isinstance(b, Interval) and not b.whole]
    if len(intervals) < len(bounds):
        return 0.0, 0.0
    lowers = [b.lower if b.lower_open else math.nextafter(b.lower, -math.inf) for b in intervals]
    uppers = [b.upper if b.upper_open else math.nextafter(b.upper, math.inf) for b in intervals]
    return max(lowers), min(uppers)


def _unrounded(
    found: float, value: Any, hyper: Hyper, domain: Domain, others: Iterable[Mapping[str, Any]]
) -> float:
    """The number of a domain that is nearest, if it is away by no more than rounding."""
    whole = hull(domain)
    inside = domain.values if isinstance(domain, Choice) else (whole.lower, whole.upper)
    near = min(inside, key=lambda x: abs(x - found), default=found)
    floating = isinstance(value, Tensor) and value.is_floating_point()
    spacing = min(torch.finfo(value.dtype if floating else torch.float64).eps, _COARSEST)
    # Schedulers keep the first value under the second name.
    names = (hyper.name, f"initial_{hyper.name}")
    had = [float(values[name]) for values in others for name in names if name in values]
    finite = filter(math.isfinite, (*inside, hyper.default, *had))
    rounding = _SPACINGS * spacing * max(map(abs, finite))
    return near if abs(near - found) <= rounding else found


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
    for name in learned if len(groups) > 1 else ():
        values = {float(group[name]) for group in groups}
        if len(values) > 1:
            raise ValueError(
                f"{optimizer}: {name} is learned for the whole optimizer, but its groups have "
                f"{sorted(values)}; give all groups one value, fix it with learn=False, or learn "
                f'it for each group (Learn(..., scope="group"), `per group` in the file)'
            )


def check_maximize(optimizer: str, value: Any) -> bool:
    """Whether to maximize.

    Raises:
        TypeError: for what is neither True nor False.
    """
    # numpy has a bool of its own.
    if not (isinstance(value, int) or type(value).__name__ == "bool") or value not in (0, 1):
        raise TypeError(f"{optimizer}: maximize must be True or False, not {value!r}")
    return bool(value)


def beta_names(hypers: Iterable[str]) -> tuple[str, ...]:
    """The hyperparameters that ``betas`` stands for; none where a rule has no beta1 and beta2."""
    known = set(hypers)
    numbered = (f"beta{number}" for number in itertools.count(1))
    names = tuple(itertools.takewhile(known.__contains__, numbered))
    return names if len(names) > 1 else ()
