"""Which hyperparameters an optimizer learns: the specification's wish, or the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from optdsl.diagnostics import nearest
from optdsl.differentiate import moves
from optdsl.ir.domain import Interval
from optdsl.ir.program import Learned, Program
from optdsl.lower.learning import Rules, learning_bounds_problem
from optdsl.options import Learn, LearnOption, OptionError, real


def select(program: Program, learn: LearnOption, rules: Rules) -> Program:
    """The program with what it learns settled.

    Args:
        program: a lowered program, which may say what it learns.
        learn: True for what the specification says, False for nothing, names for a part of what
            it says, or a `Learn` by name in place of what it says.
        rules: the library.

    Raises:
        OptionError: for a name, rule, bound or option that cannot be.
    """
    learned = _chosen(program, learn, rules)
    for entry in learned:
        if not moves(program, entry.hyper):
            raise OptionError(
                f"{program.name}: {entry.hyper} cannot be learned, its hyper-gradient is always "
                f"zero: theta' depends on it only through functions that are flat, or not at all"
            )
    return replace(program, learned=learned)


def _chosen(program: Program, learn: LearnOption, rules: Rules) -> tuple[Learned, ...]:
    if isinstance(learn, bool):
        return program.learned if learn else ()
    if isinstance(learn, str):
        learn = [learn]
    if isinstance(learn, Mapping):
        return tuple(_learned(program, name, how, rules) for name, how in learn.items())
    if not isinstance(learn, Iterable):
        raise OptionError(f"learn={learn!r} must be True, False, names, or optdsl.Learn by name")
    known = {x.hyper: x for x in program.learned}
    wanted = list(learn)
    for name in wanted:
        if not isinstance(name, str) or name not in known:
            _require_hyper(program, name)
            raise OptionError(
                f"{program.name} does not say how to learn {name}: "
                f'write learn={{"{name}": optdsl.Learn("sgd", lr=...)}}'
            )
    return tuple(known[name] for name in dict.fromkeys(wanted))


def _require_hyper(program: Program, name: str) -> None:
    names = [h.name for h in program.hypers]
    if name not in names:
        hint = nearest(str(name), names) or f"it has {', '.join(names)}"
        raise OptionError(f"{program.name} has no hyperparameter {name!r} to learn: {hint}")


def _learned(program: Program, name: str, how: Learn, rules: Rules) -> Learned:
    _require_hyper(program, name)
    if not isinstance(how, Learn):
        raise OptionError(f"learn[{name!r}] must be an optdsl.Learn, not {how!r}")
    found = rules.hypers(how.rule)
    if found is None:
        hint = nearest(how.rule, rules.names()) or f"there are {', '.join(rules.names())}"
        raise OptionError(f"Learn: no rule is called {how.rule!r}: {hint}")
    rule, hypers = found
    domains = {h.name: h.domain for h in hypers}
    options = []
    for option, given in how.hypers.items():
        if option not in domains:
            known = [*domains, *(n for n in Learn.model_fields if n != "rule")]
            hint = nearest(option, known) or f"there are {', '.join(known)}"
            raise OptionError(f"Learn: {rule} has no hyperparameter {option!r}: {hint}")
        try:
            value = real(given)
        except TypeError as error:
            raise OptionError(f"Learn: {option} = {given!r} {error}") from None
        if value not in domains[option]:
            raise OptionError(f"Learn: {option} = {given!r} must lie in {domains[option]}")
        options.append((option, value))
    bounds = _interval(how.bounds)
    allowed = program.hyper(name).domain
    problem = learning_bounds_problem(name, bounds, allowed)
    if problem:
        message, label, _ = problem
        raise OptionError(f"{message.replace('`', '')}: {label}; give Learn(..., bounds=(a, b))")
    chosen = allowed if bounds is None else bounds
    assert isinstance(chosen, Interval)
    return Learned(name, rule, tuple(options), how.clip, chosen, how.after)


def _interval(bounds: tuple[float, float] | None) -> Interval | None:
    if bounds is None:
        return None
    lower, upper = bounds
    if not lower <= upper:
        raise OptionError(f"Learn: bounds={bounds} is empty; the lower end comes first")
    return Interval(lower, upper, math.isinf(lower), math.isinf(upper))
