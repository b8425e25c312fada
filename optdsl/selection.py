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
            it says, or a `Learn` by name in place of what it says. The name of a weight vector
            stands for all its components, which are learned together.
        rules: the library.

    Raises:
        OptionError: for a name, rule, bound or option that cannot be.
    """
    learned = _chosen(program, learn, rules)
    chosen = {entry.hyper for entry in learned}
    for name, hypers in _learnable(program).items():
        # One weight may be flat while others move: that of a member that does nothing.
        if chosen & set(hypers) and not any(moves(program, h) for h in hypers):
            raise OptionError(
                f"{program.name}: {name} cannot be learned, its hyper-gradient is always "
                f"zero: theta' depends on it only through functions that are flat, or not at all"
            )
    return replace(program, learned=learned)


def check_backend(backend: str, learned: Iterable[Learned]) -> None:
    """Refuse what compiled kernels cannot learn.

    Raises:
        OptionError: for a cosine with "c" or "triton", whose kernels have no norms of tangents.
    """
    names = [x.hyper for x in learned if x.signal == "cosine"]
    if backend in {"c", "triton"} and names:
        raise OptionError(
            f'{names[0]} is learned by its cosine, which backend="{backend}" does not measure: '
            f'take backend="auto" or "eager", or the signal "sign"'
        )


def _learnable(program: Program) -> dict[str, tuple[str, ...]]:
    """The hyperparameters behind each name that can be learned: several for a weight vector."""
    single = [h.name for h in program.hypers if program.simplex_of(h.name) is None]
    return {name: (name,) for name in single} | {s.name: s.hypers for s in program.simplexes}


def _chosen(program: Program, learn: LearnOption, rules: Rules) -> tuple[Learned, ...]:
    if isinstance(learn, bool):
        return program.learned if learn else ()
    if isinstance(learn, str):
        learn = [learn]
    if isinstance(learn, Mapping):
        return tuple(
            entry for name, how in learn.items() for entry in _learned(program, name, how, rules)
        )
    if not isinstance(learn, Iterable):
        raise OptionError(f"learn={learn!r} must be True, False, names, or optdsl.Learn by name")
    known = {x.hyper: x for x in program.learned}
    wanted: dict[str, None] = {}
    for name in learn:
        for hyper in _hypers(program, name):
            if hyper not in known:
                raise OptionError(
                    f"{program.name} does not say how to learn {name}: "
                    f'write learn={{"{name}": optdsl.Learn("sgd", lr=...)}}'
                )
            wanted[hyper] = None
    return tuple(known[hyper] for hyper in wanted)


def _hypers(program: Program, name: object) -> tuple[str, ...]:
    """The hyperparameters that a name given by the user stands for."""
    names = _learnable(program)
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
    bounds = _bounds(program, name, how)
    return tuple(
        Learned(
            part,
            rule,
            tuple(options),
            how.clip,
            bounds,
            how.after,
            how.exponentiated,
            how.scope,
            how.signal,
        )
        for part in parts
    )


def _bounds(program: Program, name: str, how: Learn) -> Interval:
    """The closed interval of a hyperparameter, or of every component of a weight vector."""
    given = _interval(how.bounds)
    simplex = next((s for s in program.simplexes if s.name == name), None)
    if simplex is not None and given is not None:
        raise OptionError(
            f"Learn: the weights {name} lie in [0, 1] and sum to one; leave out bounds"
        )
    if simplex is None and how.exponentiated:
        raise OptionError(
            f"Learn: {name} is no weight vector, and only weights are learned by their "
            f"logarithms; leave out exponentiated"
        )
    allowed = program.hyper(simplex.hypers[0] if simplex else name).domain
    problem = learning_bounds_problem(name, given, allowed)
    if problem:
        message, label, _ = problem
        raise OptionError(f"{message.replace('`', '')}: {label}; give Learn(..., bounds=(a, b))")
    chosen = allowed if given is None else given
    assert isinstance(chosen, Interval)
    return chosen


def _interval(bounds: tuple[float, float] | None) -> Interval | None:
    if bounds is None:
        return None
    lower, upper = bounds
    if not lower <= upper:
        raise OptionError(f"Learn: bounds={bounds} is empty; the lower end comes first")
    return Interval(lower, upper, math.isinf(lower), math.isinf(upper))
