"""Sums over all tensors, and numbers that all tensors share, in a step that the host drives.

A total is measured before the step, tensor by tensor with the ordinary kernels, and added up in
double precision over tensors and ranks. What tensors share stands in every parameter group, as
learned coefficients do, so that checkpoints have it.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.evaluate import Uniforms
from optdsl.ir.sections import of_matrices
from optdsl.ir.storage import added
from optdsl.passes.totals import SHARED, Staged, combined, combines
from optdsl.runtime.core.owned_numbers import counts, made, number_of
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
from optdsl.runtime.engines.drawing import drawing
from optdsl.runtime.engines.parts import Measure
from optdsl.runtime.engines.sharded.shards import needs_whole, of_shard, placed_gradient, shard
from optdsl.runtime.engines.sharded.whole import gathered
from optdsl.runtime.learning.scopes import Pairs, Part
from optdsl.runtime.torch_api.batches import alike

# The number of steps of the optimizer: the `t` of what its tensors share.
STEPS = f"{SHARED}step"


class Scratch(dict[Tensor, dict[str, Any]]):
    """The states of the kernels that measure, by parameter; they are not kept in checkpoints."""


@dataclass
class _Plain:
    """The states of the kernels that measure some tensors, which are not kept in checkpoints.

    Attributes:
        parameters: the tensors.
        states: their states.
        parts: for a total, the memory of the tensors' parts of it, and the parts.
    """

    parameters: list[Tensor] = field(default_factory=list)
    states: list[dict[str, Any]] = field(default_factory=list)
    parts: dict[str, tuple[Tensor, list[Tensor]]] = field(default_factory=dict)

    def of(self, which: Measure, parameters: list[Tensor]) -> list[dict[str, Any]]:
        """The states of tensors, which are new where these are not those of the step before.

        Parts of totals lie side by side, so that they are added up at once.
        """
        if len(parameters) == len(self.parameters) and all(
            map(operator.is_, parameters, self.parameters)
        ):
            return self.states
        self.parameters, self.parts = parameters, {}
        self.states = [{"step": count} for count in counts(len(parameters))]
        if of_matrices(which.engines.program.kind):
            return self.states  # the first measurement makes the parts
        first = parameters[0]
        dtype = torch.float64 if first.dtype is torch.float64 else torch.float32
        for name in which.totals:
            memory = torch.zeros(len(parameters), dtype=dtype, device=first.device)
            self.parts[name] = memory, made(memory)
            for state, part in zip(self.states, self.parts[name][1], strict=True):
                state[name] = part
        return self.states

    def total(self, name: str, states: Sequence[dict[str, Any]]) -> float:
        """The sum of the parts of a total that measured tensors have in their states."""
        # A matrix without elements has no part.
        measured = [state[name] for state in states if name in state]
        memory, parts = self.parts.get(name, (None, []))
        if not measured:
            return combined(name, ())
        if memory is None or not all(map(operator.is_, measured, parts)):
            # One for each tensor, or of a stack for each matrix.
            if any(x.ndim for x in measured):
                measured = [_reduced(name, x) for x in measured]
            memory = torch.stack(measured)
        return float(_reduced(name, memory))


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
        # An input that is one number is what is given now.
        values.update((key, start[key]) for key in _keys(stages) if key not in optimizer._given)


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
        for number, part in enumerate(parts):
            for place, (pairs, values) in enumerate(part.work):
                group = optimizer.param_groups[place if part.group is None else part.group]
                known = optimizer._known.get(StepCache, level, number, place)
                for name, value in _measured(optimizer, level, pairs, values, group, known):
                    own = [sums[name]] if name in sums else []
                    sums[name] = combined(name, [*own, value])
        if optimizer.process_group is not None or is_spread(optimizer.param_groups):
            (sums,), _ = over_ranks([sums], [], names, held, optimizer.process_group)
        found = {name: sums.get(name, combined(name, ())) for name in names}
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
    pairs: Pairs,
    values: dict[str, float],
    group: Mapping[str, Any],
    known: StepCache,
) -> Iterator[tuple[str, float]]:
    """The parts of a group's tensors in the totals of a stage, one for each kind and device."""
    # A tensor without elements adds nothing, and is none of those that a mean is taken of.
    if not all(map(Tensor.numel, map(itemgetter(0), pairs))):
        pairs = [pair for pair in pairs if pair[0].numel()]
    plain: dict[int, tuple[Measure, Pairs]] = {}
    works: dict[tuple[Measure, str], list[ParameterTask]] = {}
    wholes: dict[tuple[Measure, Any], list[ParameterTask]] = {}
    scratch = optimizer._known.get(Scratch, level)
    parts = optimizer.compiled.parts
    # Where all tensors are of one kind, it is asked for once.
    of_optimizer = drawing(optimizer)
    which = parts.measure(level, pairs[0][0], group) if pairs and not parts.varied else None
    rest: Pairs = pairs
    if which is not None and set(map(type, map(itemgetter(0), pairs))).issubset(PLAIN):
        # Most rules and most models: nothing has to be asked tensor by tensor.
        plain, rest = {id(which): (which, pairs)}, []
    for parameter, gradient in rest:
        own = parts.measure(level, parameter, group) if parts.varied else which
        if own is None:
            continue
        if type(parameter) in PLAIN or not is_dtensor(parameter):
            plain.setdefault(id(own), (own, []))[1].append((parameter, gradient))
            continue
        drawn = of_optimizer(parameter)
        task = ParameterTask(parameter, gradient, {}, values, drawn)
        task = task._replace(gradient=placed_gradient(task))
        if own.wholes and needs_whole(own.engines.program, parameter):
            task.state.update(_whole_state(optimizer, own, parameter))
            key = own, (parameter.device_mesh, is_boxed(parameter))  # type: ignore[attr-defined]
            wholes.setdefault(key, []).append(task)
        elif (start := prefix(parameter)) is not None:
            state = _state(optimizer, own, parameter, scratch)
            own_draws = of_shard(drawn, parameter)
            task = ParameterTask(shard(parameter), shard(task.gradient), state, values, own_draws)
            works.setdefault((own, start), []).append(task)
    for own, some in plain.values():
        yield from _of_plain(optimizer, own, some, values, known)
    for (own, (_, boxed)), tasks in wholes.items():
        found = gathered(own.engines.program, tasks)
        start = whole_prefix(tasks[0].parameter, everywhere=not boxed)
        if start is not None and found:
            yield from _sums(level, own, start, found, StepCache())
    for (own, start), tasks in works.items():
        yield from _sums(level, own, start, tasks, optimizer._known)


def _of_plain(
    optimizer: LearningOptimizer,
    which: Measure,
    pairs: Pairs,
    values: dict[str, float],
    known: StepCache,
) -> Iterator[tuple[str, float]]:
    """The sums of tensors that this rank has all of."""
    of_optimizer = drawing(optimizer)
    for number, some in enumerate(alike(pairs)):
        kept = known.get(StepCache, id(which), number)
        parameters, gradients = zip(*some, strict=True)
        found = kept.get(_Plain)
        states = found.of(which, list(parameters))
        if which.states or which.timed or added(which.engines.program):
            given = map(optimizer.state.get, parameters)
            states = [_with(which, x, state) for x, state in zip(given, states, strict=True)]
        drawn = map(of_optimizer, parameters)
        fields = zip(parameters, gradients, states, repeat(values), drawn, repeat(None))
        tasks = list(map(tuple.__new__, repeat(ParameterTask), fields))
        which.engines.of(parameters[0]).advance(tasks, kept)
        for name in which.totals:
            yield name, found.total(name, states)


def _with(which: Measure, own: Mapping[str, Any] | None, scratch: dict[str, Any]) -> dict[str, Any]:
    """The state for measuring a tensor: with its own states, and its number of steps.

    Before the first step of a tensor the kernels make its first states, which are not kept.
    """
    if own is None or "step" not in own:
        return {}
    for name in (*which.states, *added(which.engines.program)):
        scratch[name] = own[name]
    if which.timed and number_of(scratch["step"]) != number_of(own["step"]):
        scratch["step"].fill_(number_of(own["step"]))
    return scratch


def _sums(
    level: int, which: Measure, start: str, tasks: list[ParameterTask], known: StepCache
) -> Iterator[tuple[str, float]]:
    """The sums of some tensors, under names that begin with `start`."""
    for some in alike(tasks):
        engine = which.engines.of(some[0].parameter)
        engine.advance(some, known.get(StepCache, level, id(engine)))
        for name in which.totals:
            # One for each tensor, or of a stack for each matrix; none of one without elements.
            measured = [_reduced(name, task.state[name]) for task in some if name in task.state]
            if measured:
                yield start + name, float(_reduced(name, torch.stack(measured).double()))


def _whole_state(optimizer: LearningOptimizer, which: Measure, parameter: Tensor) -> dict[str, Any]:
    """The states that a whole tensor in shards is measured with; none before its first step."""
    own = optimizer.state.get(parameter, {})
    beside = added(which.engines.program)
    if "step" not in own or not (which.states or which.timed or beside):
        return {}
    found: dict[str, Any] = {name: own[name] for name in (*which.states, *beside)}
    found["step"] = own["step"].clone()
    if not of_matrices(which.engines.program.kind):
        device = shard(parameter).device
        found |= {
            name: torch.zeros((), dtype=_dtype(parameter), device=device) for name in which.totals
        }
    return found


def _reduced(name: str, parts: Tensor) -> Tensor:
    """A total of its parts, of which there are some."""
    if combines(name) == "max":
        return parts.amax()
    return parts.sum(dtype=torch.float64) if parts.ndim == 1 else parts.sum()


def _plain(x: Any) -> Tensor:
    """What this rank has of a tensor."""
    return shard(x) if is_dtensor(x) else x


def _state(
    optimizer: LearningOptimizer, which: Measure, parameter: Tensor, scratch: Scratch
) -> dict[str, Any]:
    """A state for measuring: the parameter's own, and numbers to be summed.

    Before the first step of a tensor the kernels make its first states, which are not kept.
    """
    if not (which.states or which.timed or added(which.engines.program)):
        return scratch.setdefault(parameter, {})
    own = optimizer.state.get(parameter, {})
    if "step" not in own:
        return {}
    found = scratch.setdefault(parameter, {})
    for name in (*which.states, *added(which.engines.program)):
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
