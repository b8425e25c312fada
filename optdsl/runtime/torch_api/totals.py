"""Sums over all tensors, and numbers that all tensors share, in a step that the host drives.

A total is measured before the step, tensor by tensor with the ordinary kernels, and added up in
double precision over tensors and ranks. What tensors share stands in every parameter group, as
learned coefficients do, so that checkpoints have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.evaluate import Uniforms
from optdsl.ir.sections import of_matrices
from optdsl.passes.totals import SHARED, Staged
from optdsl.runtime.core.owned_numbers import number_of
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PLAIN, HyperGradients, ParameterTask
from optdsl.runtime.distributed.boxes import is_boxed
from optdsl.runtime.distributed.collectives import (
    is_dtensor,
    is_spread,
    over_ranks,
    prefix,
    whole_prefix,
)
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.parts import Measure
from optdsl.runtime.engines.shards import needs_whole, placed_gradient, shard
from optdsl.runtime.engines.whole import gathered
from optdsl.runtime.learning.scopes import Part
from optdsl.runtime.torch_api.batches import alike

# The number of steps of the optimizer: the `t` of what its tensors share.
STEPS = f"{SHARED}step"


class Scratch(dict[Tensor, dict[str, Any]]):
    """The states of the kernels that measure, by parameter; they are not kept in checkpoints."""


def begin(optimizer: LearningOptimizer, hypers: Sequence[dict[str, float]]) -> None:
    """Give a step the numbers that tensors share, which start at the first one.

    Args:
        optimizer: the optimizer.
        hypers: the hyperparameters by group, which receive them.

    Raises:
        ValueError: where groups differ in a hyperparameter on which a shared number depends.
    """
    stages = optimizer.compiled.parts.stages
    if stages is None or not stages.shared:
        return
    for name in stages.read_by_shared():
        found = {values[name] for values in hypers}
        if len(found) > 1:
            listed = " and ".join(f"{x:g}" for x in sorted(found))
            raise ValueError(
                f"{type(optimizer).__name__}: {name} is {listed} in different parameter groups, "
                f"and what all tensors share depends on it; give all groups the same"
            )
    groups = optimizer.param_groups
    having = next((g for g in groups if g.get(STEPS)), None)
    if having is None:
        start = _start(stages, hypers[0])
    else:
        start = {key: float(having[key]) for key in (*_keys(stages), STEPS)}
    for group, values in zip(groups, hypers, strict=True):
        group.update(start)
        values.update((key, start[key]) for key in _keys(stages))


def show(optimizer: LearningOptimizer) -> None:
    """Give groups the entries of what tensors share, so that a checkpoint can be loaded to them.

    Where none is loaded, what tensors share starts at the first step all the same.
    """
    stages = optimizer.compiled.parts.stages
    if stages is None or not stages.shared:
        return
    start = _start(stages, optimizer._hypers(optimizer.param_groups[0]))
    for group in optimizer.param_groups:
        group.update(start)


def measure(optimizer: LearningOptimizer, parts: Sequence[Part]) -> None:
    """Measure the totals that a step reads, and give them to its parts."""
    stages = optimizer.compiled.parts.stages
    if stages is None:
        return
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for level, names in enumerate(stages.totals):
        sums: HyperGradients = {}
        for part in parts:
            for place, (pairs, values) in enumerate(part.work):
                group = optimizer.param_groups[place if part.group is None else part.group]
                for name, value in _measured(optimizer, level, pairs, values, group):
                    sums[name] = sums.get(name, 0.0) + value
        if optimizer.process_group is not None or is_spread(optimizer.param_groups):
            (sums,), _ = over_ranks([sums], [], names, held, optimizer.process_group)
        found = {name: sums.get(name, 0.0) for name in names}
        for part in parts:
            for _, values in part.work:
                values.update(found)


def finish(optimizer: LearningOptimizer, parts: Sequence[Part]) -> None:
    """Set what tensors share to its values after the step."""
    stages = optimizer.compiled.parts.stages
    if stages is None or not stages.shared:
        return
    values = next((values for part in parts for _, values in part.work), None)
    if values is None:
        return
    groups = optimizer.param_groups
    t = int(groups[0][STEPS]) + 1
    after = Uniforms(stages.program, tuple(s.next for s in stages.shared)).at(values, t)
    new = dict(zip(_keys(stages), after, strict=True)) | {STEPS: float(t)}
    for group in groups:
        group.update(new)


def _start(stages: Staged, hypers: Mapping[str, float]) -> dict[str, float]:
    """What tensors share before the first step."""
    first = Uniforms(stages.program, tuple(s.initial for s in stages.shared))
    return dict(zip(_keys(stages), first.at(hypers, 1), strict=True)) | {STEPS: 0.0}


def _keys(stages: Staged) -> tuple[str, ...]:
    return tuple(f"{SHARED}{s.name}" for s in stages.shared)


def _measured(
    optimizer: LearningOptimizer,
    level: int,
    pairs: Sequence[tuple[Tensor, Tensor]],
    values: dict[str, float],
    group: Mapping[str, Any],
) -> Iterator[tuple[str, float]]:
    """The parts of a group's tensors in the totals of a stage, one for each kind and device."""
    works: dict[tuple[Measure, str], list[ParameterTask]] = {}
    wholes: dict[tuple[Measure, Any], list[ParameterTask]] = {}
    scratch = optimizer._known.get(Scratch, level)
    parts = optimizer.compiled.parts
    # Where all tensors are of one kind, it is asked for once.
    which = parts.measure(level, pairs[0][0], group) if pairs and not parts.varied else None
    for parameter, gradient in pairs:
        own = parts.measure(level, parameter, group) if parts.varied else which
        if own is None:
            continue
        if type(parameter) in PLAIN or not is_dtensor(parameter):
            state = _state(optimizer, own, parameter, scratch)
            works.setdefault((own, ""), []).append(
                ParameterTask(parameter, gradient, state, values)
            )
            continue
        task = ParameterTask(parameter, gradient, {}, values)
        task = task._replace(gradient=placed_gradient(task))
        if own.wholes and needs_whole(own.engines.program, parameter):
            task.state.update(_whole_state(optimizer, own, parameter))
            key = own, (parameter.device_mesh, is_boxed(parameter))  # type: ignore[attr-defined]
            wholes.setdefault(key, []).append(task)
        elif (start := prefix(parameter)) is not None:
            state = _state(optimizer, own, parameter, scratch)
            task = ParameterTask(shard(parameter), shard(task.gradient), state, values)
            works.setdefault((own, start), []).append(task)
    for (own, (_, boxed)), tasks in wholes.items():
        found = gathered(own.engines.program, tasks)
        start = whole_prefix(tasks[0].parameter, everywhere=not boxed)
        if start is not None and found:
            yield from _sums(level, own, start, found, StepCache())
    for (own, start), tasks in works.items():
        yield from _sums(level, own, start, tasks, optimizer._known)


def _sums(
    level: int, which: Measure, start: str, tasks: list[ParameterTask], known: StepCache
) -> Iterator[tuple[str, float]]:
    """The sums of some tensors, under names that begin with `start`."""
    for some in alike(tasks):
        engine = which.engines.of(some[0].parameter)
        engine.advance(some, known.get(StepCache, level, id(engine)))
        for name in which.totals:
            # One for each tensor, or of a stack for each matrix.
            measured = [task.state[name] for task in some]
            if any(x.ndim for x in measured):
                measured = [x.sum() for x in measured]
            yield start + name, float(torch.stack(measured).double().sum())


def _whole_state(optimizer: LearningOptimizer, which: Measure, parameter: Tensor) -> dict[str, Any]:
    """The states that a whole tensor in shards is measured with; none before its first step."""
    own = optimizer.state.get(parameter, {})
    if "step" not in own or not (which.states or which.timed):
        return {}
    found: dict[str, Any] = {name: own[name] for name in which.states}
    found["step"] = own["step"].clone()
    if not of_matrices(which.engines.program.kind):
        device = shard(parameter).device
        found |= {
            name: torch.zeros((), dtype=_dtype(parameter), device=device) for name in which.totals
        }
    return found


def _plain(x: Any) -> Tensor:
    """What this rank has of a tensor."""
    return shard(x) if is_dtensor(x) else x


def _state(
    optimizer: LearningOptimizer, which: Measure, parameter: Tensor, scratch: Scratch
) -> dict[str, Any]:
    """A state for measuring: the parameter's own, and numbers to be summed.

    Before the first step of a tensor the kernels make its first states, which are not kept.
    """
    if not which.states and not which.timed:
        return scratch.setdefault(parameter, {})
    own = optimizer.state.get(parameter, {})
    if "step" not in own:
        return {}
    found = scratch.setdefault(parameter, {})
    for name in which.states:
        found[name] = _plain(own[name])
    if "step" not in found:
        found["step"] = torch.zeros((), dtype=torch.float64, device="cpu")
        # Where tensors are read as matrices, the first measurement makes them.
        for name in () if of_matrices(which.engines.program.kind) else which.totals:
            found[name] = torch.zeros((), dtype=_dtype(parameter), device=_plain(parameter).device)
    if which.timed and number_of(found["step"]) != number_of(own["step"]):
        found["step"].fill_(number_of(own["step"]))
    return found


def _dtype(parameter: Tensor) -> torch.dtype:
    return torch.float64 if parameter.dtype is torch.float64 else torch.float32
