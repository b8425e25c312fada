"""What a step has to do, sorted by engine and by whether a step is pending.

This is done for every parameter at every step, so it is cheap where all of them are alike.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, repeat
from operator import attrgetter, itemgetter
from typing import Any, TypeVar

from torch import Tensor

from optdsl.ir.lengths import own_lengths
from optdsl.ir.program import Program
from optdsl.ir.sections import state_shapes
from optdsl.runtime.core.draws import Draws
from optdsl.runtime.core.tasks import PLAIN, STATE, Engine, ParameterTask, Shape
from optdsl.runtime.engines.compiled import Compiled
from optdsl.runtime.engines.selection import Engines
from optdsl.runtime.engines.sharded import shards
from optdsl.runtime.learning.scopes import Pairs, Part, add
from optdsl.runtime.torch_api.flattened import place_of

Drawing = Callable[[Tensor], Draws | None]

_DTYPE, _IS_CPU = attrgetter("dtype"), attrgetter("is_cpu")
_PARAMETER = itemgetter(ParameterTask._fields.index("parameter"))
Work = TypeVar("Work", ParameterTask, tuple[Tensor, Tensor])


@dataclass(frozen=True)
class Batch:
    """What one engine has to do: for parameters with a step pending, and for others."""

    pending: list[ParameterTask] = field(default_factory=list)
    fresh: list[ParameterTask] = field(default_factory=list)


def batches(
    compiled: Compiled,
    states: Mapping[Tensor, dict[str, Any]],
    part: Part,
    groups: Sequence[Mapping[str, Any]],
    drawing: Drawing,
) -> dict[Engine, Batch]:
    """What there is to do for a part, by engine.

    States that another engine left behind are completed first, which may give hyper-gradients.

    Args:
        compiled: the rule.
        states: the state of each parameter.
        part: the part of the step.
        groups: all parameter groups.
        drawing: what draws random numbers, for each parameter.

    Raises:
        RuntimeError: where there are several parts, for states of other shapes than their
            parameters ask for.
    """
    parts = compiled.parts
    if not parts.varied:
        any_of = next((p for pairs, _ in part.work for p, _ in pairs), None)
        own = parts.whole if any_of is None else parts.of(any_of, {})
        return _batches(own, states, part, part.work, drawing)
    by_engines: dict[Engines, list[tuple[Pairs, dict[str, float]]]] = {}
    for place, (pairs, values) in enumerate(part.work):
        group = groups[place if part.group is None else part.group]
        by_part: dict[Engines, Pairs] = {}
        for parameter, gradient in pairs:
            by_part.setdefault(parts.of(parameter, group), []).append((parameter, gradient))
        for which, its in by_part.items():
            by_engines.setdefault(which, []).append((its, values))
    found: dict[Engine, Batch] = {}
    for which, work in by_engines.items():
        its_batches = _batches(which, states, part, work, drawing)
        if len(by_engines) > 1:
            # An engine looks before it changes anything, but others may have stepped by then.
            for batch in its_batches.values():
                which.shapes.check([*batch.pending, *batch.fresh])
        found |= its_batches
    return found


def _batches(
    engines: Engines,
    states: Mapping[Tensor, dict[str, Any]],
    part: Part,
    work: Sequence[tuple[Pairs, dict[str, float]]],
    drawing: Drawing,
) -> dict[Engine, Batch]:
    pairs = list(chain.from_iterable(pairs for pairs, _ in work))
    if not pairs:
        return {}
    parameters, gradients = zip(*pairs, strict=True)
    kept: Iterable[dict[str, Any]] = map(states.__getitem__, parameters)
    if len(states) == len(parameters) and all(map(operator.is_, states, parameters)):
        kept = states.values()  # without the hashes of tensors, which take long
    hypers = chain.from_iterable(repeat(values, len(pairs)) for pairs, values in work)
    drawn = map(drawing, parameters)
    places = repeat(None) if engines.program.sample == 1 else map(place_of, parameters)
    fields = zip(parameters, gradients, kept, hypers, drawn, places, strict=False)
    works = list(map(tuple.__new__, repeat(ParameterTask), fields))
    found: dict[Engine, Batch] = {}
    for some in alike(works):
        engine = engines.of(some[0].parameter)
        _sort(engines.program, part, engine.shape, some, found.setdefault(engine, Batch()))
    return found


def alike(works: list[Work]) -> Iterable[list[Work]]:
    """Some tasks, or parameters with gradients: those that one engine is for together."""
    parameters = list(map(_PARAMETER, works))
    types = set(map(type, parameters))
    plain = types.issubset(PLAIN)
    if plain and all(map(_IS_CPU, parameters)) and len(set(map(_DTYPE, parameters))) == 1:
        return [works]
    kinds: dict[Any, list[Work]] = {}
    for number, (work, parameter) in enumerate(zip(works, parameters, strict=True)):
        alone = None if type(parameter) in PLAIN else number
        kinds.setdefault((alone, parameter.device, parameter.dtype), []).append(work)
    return kinds.values()


def _sort(
    program: Program, part: Part, shape: Shape, works: list[ParameterTask], batch: Batch
) -> None:
    if program.axes:
        _check_lengths(program, works)
    # In most models all states have the same keys in the same order, or a few orders.
    keys = set(map(frozenset, set(map(tuple, map(STATE, works)))))
    if keys == {shape.pending}:
        batch.pending.extend(works)
        return
    if keys == {shape.complete}:
        batch.fresh.extend(works)
        return
    for work in works:
        present = work.state.keys()
        if shape.pending is not None and present == shape.pending:
            batch.pending.append(work)
            continue
        if present and present != shape.complete:
            _check_kept(program, work)
            add(part.sums, shards.completed(program, work))
        batch.fresh.append(work)


def _check_lengths(program: Program, works: list[ParameterTask]) -> None:
    """Refuse parameters whose states have other lengths than their axes have now.

    Raises:
        ValueError: with the state, and what may have changed; or as `own_lengths`.
    """
    for work in works:
        own = own_lengths(program, work.parameter.shape, work.hypers)
        if "step" not in work.state:
            continue
        shapes = state_shapes(program, work.parameter.shape, own)
        for state in program.states:
            axes, kept = state.type.own_axes, work.state.get(state.name)
            if axes and kept is not None and tuple(kept.shape) != shapes[state.name]:
                listed = " and ".join(f"{axis} = {own[axis]}" for axis in dict.fromkeys(axes))
                raise ValueError(
                    f"{program.name}: the state {state.name} of a parameter of shape "
                    f"{tuple(work.parameter.shape)} has shape {tuple(kept.shape)}, and with "
                    f"{listed} it would be {shapes[state.name]}; a hyperparameter that decides the "
                    f"length of an axis cannot change after the first step: set it back, or delete "
                    f"the parameter's entry of optimizer.state, which then starts anew"
                )


def _check_kept(program: Program, work: ParameterTask) -> None:
    """Refuse a parameter that has taken steps without states that the program has now.

    Raises:
        ValueError: with the states, and what may have changed.
    """
    missing = [s.name for s in program.states if s.name not in work.state]
    if missing and "step" in work.state:
        raise ValueError(
            f"{program.name}: a parameter of shape {tuple(work.parameter.shape)} has taken steps "
            f"without the states {', '.join(missing)}; the kind of its group, or a hyperparameter "
            f"that decides what states there are, was changed since: set it back, or delete the "
            f"parameter's entry of optimizer.state, which then starts anew"
        )
