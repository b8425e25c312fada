"""The hyperparameters that an optimizer learns: as the specification says, or as the user does."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from optdsl.diagnostics import nearest
from optdsl.ir.domain import Interval
from optdsl.ir.program import Learned, Program
from optdsl.learn_option import Learn, LearnOption
from optdsl.lower import stores
from optdsl.lower.learn_request import Request, Rules, learnable, learned, problems
from optdsl.options import OptionError, real
from optdsl.specifications.library import flat


def select(program: Program, learn: LearnOption, rules: Rules) -> Program:
    """The program with the learned hyperparameters that the user has chosen.

    Args:
        program: a lowered program, with those that its specification says.
        learn: True for all of them, False for none, names for some of them, or a mapping from
            names to `Learn` in their place. The name of a weight vector stands for all of its
            components, which are learned together.
        rules: the rules by which they may be learned.

    Raises:
        OptionError: for an unknown name, rule or option, or values out of their bounds.
    """
    chosen = replace(program, learned=_chosen(program, learn, rules))
    for name in flat(chosen):
        raise OptionError(
            f"{program.name}: {name} cannot be learned, its hyper-gradient is always zero: theta' "
            f"depends on it only through functions that are flat, or not at all"
        )
    return chosen


def with_storage(program: Program, store: Mapping[str, str] | None) -> Program:
    """The program with the storage that the user has chosen, in place of what its file says.

    Args:
        program: a lowered program.
        store: codecs, as ``store`` statements name them, by the names of states, "states" or
            "theta".

    Raises:
        OptionError: for what is no such mapping, an unknown name, or a codec that does not fit.
    """
    if store is None:
        return program
    if not isinstance(store, Mapping):
        raise OptionError(f"store={store!r} must be a mapping from names to codecs")
    for name, codec in store.items():
        found = stores.problem(program, str(name), str(codec))
        if found is not None:
            told = ": ".join(x for x in (found.message, found.label, found.hint) if x)
            raise OptionError(f"store={{{name!r}: {codec!r}}}: {told.replace('`', chr(39))}")
    return stores.with_stores(program, store)


def _chosen(program: Program, learn: LearnOption, rules: Rules) -> tuple[Learned, ...]:
    if isinstance(learn, bool):
        return program.learned if learn else ()
    if isinstance(learn, str):
        learn = [learn]
    if isinstance(learn, Mapping):
        found = [x for name, how in learn.items() for x in _learned(program, name, how, rules)]
        sample = _sample(learn)
        return tuple(replace(entry, sample=sample) for entry in found)
    if not isinstance(learn, Iterable):
        raise OptionError(f"learn={learn!r} must be True, False, names, or optdsl.Learn by name")
    known = {x.hyper: x for x in program.learned}
    wanted: dict[str, Learned] = {}
    for name in learn:
        for hyper in _hypers(program, name):
            if hyper not in known:
                raise OptionError(
                    f"{program.name} does not say how to learn {name}: "
                    f'write learn={{"{name}": optdsl.Learn("sgd", lr=...)}}'
                )
            wanted[hyper] = known[hyper]
    return tuple(wanted.values())


def _hypers(program: Program, name: object) -> tuple[str, ...]:
    """The hyperparameters that a name given by the user stands for."""
    names = learnable((h.name for h in program.hypers), program.simplexes)
    if isinstance(name, str) and name in names:
        return names[name]
    for simplex in program.simplexes:
        components = [*simplex.hypers, *(f"{simplex.name}.{label}" for label in simplex.labels)]
        if name in components:
            raise OptionError(
                f"{program.name}: {name} is one of the weights {simplex.name}, which are learned "
                f"as a whole: name {simplex.name!r}"
            )
    hint = nearest(str(name), names) or f"it has {', '.join(names)}"
    raise OptionError(f"{program.name} has no hyperparameter {name!r} to learn: {hint}")


def _learned(program: Program, name: str, how: Learn, rules: Rules) -> tuple[Learned, ...]:
    parts = _hypers(program, name)
    if not isinstance(how, Learn):
        raise OptionError(f"learn[{name!r}] must be an optdsl.Learn, not {how!r}")
    given = how.hypers if how.clip is None else {**how.hypers, "clip": how.clip}
    request = Request(
        name,
        how.rule,
        {option: (_number(value), repr(value)) for option, value in given.items()},
        _interval(how.bounds),
        how.after,
        how.exponentiated,
        how.scope,
        how.signal,
        how.horizon,
        [field for field in Learn.model_fields if field != "rule"],
        "Learn(..., bounds=(a, b))",
    )
    vector = any(simplex.name == name for simplex in program.simplexes)
    hypers = [program.hyper(part) for part in parts]
    # A class may be given other values than the defaults, so those need not lie within the bounds.
    for problem in problems(request, hypers, vector, rules, start=False):
        message = problem.message.replace("unknown rule", "no rule is called")
        reason = problem.hint or problem.label
        mark = ":" if problem.code.startswith("unknown") else ";"
        told = message.replace("`", "'") + (f"{mark} {reason}" if reason else "")
        raise OptionError(f"Learn: {told}")
    return learned(request, hypers, rules)


def _sample(learn: Mapping[str, Learn]) -> int:
    """The one sample from which all is learned."""
    given = {name: how.sample for name, how in learn.items() if how.sample is not None}
    for name, sample in given.items():
        first = next(iter(given))
        if sample != given[first]:
            raise OptionError(
                f"Learn: sample={given[first]} for {first}, and sample={sample} for {name}; an "
                f"optimizer learns all that it learns from one sample: give the same, or give it "
                f"once"
            )
    return next(iter(given.values()), 1)


def _number(value: object) -> float:
    """The value of an option; NaN, which no domain has, for what is not a number."""
    try:
        return real(value)
    except TypeError:
        return math.nan


def _interval(bounds: tuple[float, float] | None) -> Interval | None:
    if bounds is None:
        return None
    lower, upper = bounds
    if not lower <= upper:
        raise OptionError(f"Learn: bounds={bounds} is empty; the lower end comes first")
    return Interval(lower, upper, math.isinf(lower), math.isinf(upper))
