"""Inputs: what is given to a step beside the gradients, such as estimates of a Hessian, or a loss.

An input is a state that is set before the step, or one number that all tensors share. So every
backend reads it as any state, and a checkpoint has what was last given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from optdsl.passes.totals import GIVEN, SHARED
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.distributed.collectives import is_dtensor
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.drawing import drawing
from optdsl.runtime.engines.sharded.shards import shard
from optdsl.runtime.engines.sharded.whole import begun
from optdsl.runtime.learning.scopes import Pairs

# By the input's name, a tensor for each parameter, or one number.
Inputs = Mapping[str, Mapping[Tensor, Tensor] | float | Tensor]


def given(
    optimizer: LearningOptimizer, work: Sequence[Pairs], inputs: Inputs | None
) -> dict[str, float]:
    """Check what is given to a step, and set the states that hold it.

    Args:
        optimizer: the optimizer.
        work: parameters with gradients, by group.
        inputs: what is given.

    Returns:
        For each input of the rule, 1 if it is given and else 0, under the name by which programs
        ask for it; and the inputs that are numbers.

    Raises:
        ValueError: for an input that is missing, unknown, of another shape, or no number where it
            is one; nothing has changed.
    """
    name, stages = type(optimizer).__name__, optimizer.compiled.parts.stages
    known = () if stages is None else stages.inputs
    found: dict[str, Any] = dict(inputs or {})
    for key in found:
        if key not in known:
            listed = f"its inputs are {', '.join(known)}" if known else "it has none"
            raise ValueError(f"{name} has no input {key!r}; {listed}")
    for key in () if stages is None else stages.required:
        if key not in found:
            raise ValueError(f"{name} needs its input at every step: step(inputs={{{key!r}: ...}})")
    shared = set() if stages is None else {s.name for s in stages.shared if s.input}
    numbers = {
        f"{SHARED}{key}": _number(f"{name}: inputs[{key!r}]", found.pop(key))
        for key in sorted(shared & found.keys())
    }
    if found:
        having = _having(optimizer, work)
        for key, values in found.items():
            _check(f"{name}: inputs[{key!r}]", values, having.get(key, []))
        for group, of_group in zip(optimizer.param_groups, work, strict=True):
            for parameter, gradient in of_group:
                _set(optimizer, group, parameter, gradient, found)
    asked = {f"{GIVEN}{key}": float(key in (inputs or {})) for key in known}
    return asked | numbers


def _having(optimizer: LearningOptimizer, work: Sequence[Pairs]) -> dict[str, list[Tensor]]:
    """For each input, the parameters of whose sections it is."""
    found: dict[str, list[Tensor]] = {}
    for group, of_group in zip(optimizer.param_groups, work, strict=True):
        for parameter, _ in of_group:
            for state in optimizer.part_of(parameter, group).program.states:
                if state.input:
                    found.setdefault(state.name, []).append(parameter)
    return found


def _number(where: str, value: Any) -> float:
    """An input that is one number, given as one or as a tensor with one element."""
    if isinstance(value, Tensor) and value.numel() == 1 and not value.is_complex():
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int | float):
        shape = f" of shape {tuple(value.shape)}" if isinstance(value, Tensor) else ""
        raise ValueError(
            f"{where} is {type(value).__name__}{shape}; it is one number for all parameters, or a "
            f"tensor of one"
        )
    return float(value)


def _check(where: str, values: Any, parameters: Sequence[Tensor]) -> None:
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} is {type(values).__name__}; it has a tensor for each parameter")
    for parameter in parameters:
        shape = tuple(parameter.shape)
        value = values.get(parameter)
        if not isinstance(value, Tensor):
            raise ValueError(f"{where} has no tensor for a parameter of shape {shape}")
        if value.shape != parameter.shape or is_dtensor(value) != is_dtensor(parameter):
            raise ValueError(
                f"{where} has a tensor of shape {tuple(value.shape)} for a parameter of shape "
                f"{shape}, whose shape and placement it must have"
            )
        if not value.is_floating_point():
            raise ValueError(f"{where} is of {value.dtype}, and a step calculates with floats")


def _set(
    optimizer: LearningOptimizer,
    group: Mapping[str, Any],
    parameter: Tensor,
    gradient: Tensor,
    found: Mapping[str, Mapping[Tensor, Tensor]],
) -> None:
    """Set the states of a parameter to what is given; a first step has none yet."""
    engines = optimizer.part_of(parameter, group)
    state = optimizer.state[parameter]
    if "step" not in state:
        # What it has learned of its own may be there already.
        first: dict[str, Any] = {}
        hypers = optimizer._hypers(group)
        drawn = drawing(optimizer)(parameter)
        work = ParameterTask(parameter, gradient, first, hypers, drawn)
        begun(engines.eager, engines.program, work)
        state.update(first)
    for key, values in found.items():
        if key in state:
            value = values[parameter]
            place: Any = state[key]
            if is_dtensor(value):
                place, value = shard(place), shard(_placed(value, parameter))
            place.copy_(value.detach())


def _placed(value: Any, parameter: Any) -> Any:
    """A DTensor with the placements of the parameter."""
    if value.placements == parameter.placements:
        return value
    return value.redistribute(placements=parameter.placements)
