"""Steps that stay on the device: counts, hyperparameters, hyper-gradients and what is learned.

Rows of hyperparameters and the memory of what is learned are tensors on the device. The groups and
the states of an optimizer have views of them: a coefficient in ``param_groups`` is a tensor of one
element, which the device changes while the host is steps ahead. Nothing waits for the device but
the first step, a step after loading, and one with other parameters than the step before; what a
user sets is sent to it.
"""

from __future__ import annotations

import operator
from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

from optdsl.backends.base import EntryPoint
from optdsl.backends.triton import fixed
from optdsl.runtime.core.owned_numbers import Owned
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PENDING_HYPERS, ParameterTask, check_dense
from optdsl.runtime.device.coefficient_memory import CoefficientMemory
from optdsl.runtime.device.device_hyperparameters import DeviceHyperparameters
from optdsl.runtime.device.device_learning import keys, learning_module
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.launch_arguments import (
    Launch,
    captured,
    check_not_captured,
    fill,
    launch,
)
from optdsl.runtime.engines.overlaps import overlapping
from optdsl.runtime.engines.tensor_table import TensorTable
from optdsl.runtime.engines.triton import TritonEngine, runs_on
from optdsl.schedule import Role

Group = MutableMapping[str, Any]
Pairs = Sequence[tuple[Tensor, Tensor]]

_DEVICE, _DTYPE = attrgetter("device"), attrgetter("dtype")
_PLAIN = (Tensor, torch.nn.Parameter)


def device_step_of(
    optimizer: LearningOptimizer, work: Sequence[Pairs], known: StepCache
) -> DeviceStep | None:
    """What keeps the steps of an optimizer on the device; None where the host has to take part.

    That is where parameters are of several devices or dtypes or no plain tensors, where something
    is learned apart for groups or tensors, and where ranks learn together.

    Args:
        optimizer: the optimizer.
        work: parameters with gradients, by group.
        known: what is kept from step to step.

    Raises:
        RuntimeError: for a sparse gradient.
    """
    compiled = optimizer.compiled
    if compiled.engines.backend not in {"triton", "auto"}:
        return None
    first = next((p for pairs in work for p, _ in pairs), None)
    if first is None or not runs_on(first.device):
        return None
    found = known.find(DeviceStep)
    if optimizer.process_group is not None or compiled.scopes.finest != "optimizer":
        return None
    if found is not None and found.foresees(optimizer, work):
        return found
    parameters = [p for pairs in work for p, _ in pairs]
    if not set(map(type, parameters)).issubset(_PLAIN):
        return None
    if len(set(map(_DEVICE, parameters))) > 1 or len(set(map(_DTYPE, parameters))) > 1:
        return None
    engine = compiled.engines.of(parameters[0])
    if not isinstance(engine, TritonEngine) or len(set(map(id, parameters))) < len(parameters):
        return None
    check_dense(type(optimizer).__name__, (g for pairs in work for _, g in pairs))
    usual: tuple[Any, ...] = (frozenset(), engine.shape.complete, engine.shape.pending)
    if any(optimizer.state[p].keys() not in usual for p in parameters):
        return None  # what another engine has left behind is completed first
    gradients = [g for pairs in work for _, g in pairs]
    if overlapping(parameters, gradients, [optimizer.state[p] for p in parameters]):
        return None
    if found is None or found.engine is not engine:
        found = DeviceStep(optimizer, engine)
        known.put(found)
    return found


@dataclass
class _Job:
    """What a step has to do for works that are alike.

    Attributes:
        pending: whether their last steps are.
        works: the works, and the groups of each.
        rows: their rows.
        columns: their tensors, where it is known that kernels can take them as they are.
        copied: whether some of them could not be taken as they are.
    """

    pending: bool
    works: list[ParameterTask]
    rows: DeviceHyperparameters
    columns: TensorTable | None = None
    copied: bool = False


@dataclass
class _Last:
    """The last step, for the next one to be compared with.

    Attributes:
        job: what there was to do, all of it.
        many: how many parameters with gradients each group had.
        parameters: these.
        keys, values: the optimizer's states.
        width: how many entries each had afterwards.
        entry: what ran first.
    """

    job: _Job
    many: list[int]
    parameters: Sequence[Tensor]
    keys: list[Tensor]
    values: list[dict[str, Any]]
    width: int
    entry: str


class DeviceStep:
    """See the module.

    Attributes:
        engine: what runs the steps.
    """

    def __init__(self, optimizer: LearningOptimizer, engine: TritonEngine) -> None:
        """Send to the device what the groups have learned so far."""
        compiled = optimizer.compiled
        self.engine = engine
        self._compiled = compiled
        entries = engine.module.entries
        dots = next((e.dots for e in entries.values() if e.dots), ())
        self._learning = learning_module(compiled, dots)
        self._settings = CoefficientMemory(compiled, engine.names, keys(compiled), engine.device)
        self._kept: dict[bool, DeviceHyperparameters] = {}
        self._last: _Last | None = None
        self._noting = PENDING_HYPERS in (engine.shape.pending or ())

    @property
    def captured(self) -> bool:
        """Whether a step is part of a graph."""
        return any(rows.captured for rows in self._kept.values())

    # --- a step ---------------------------------------------------------------------------------

    def step(self, optimizer: LearningOptimizer, work: Sequence[Pairs]) -> None:
        """Take a step.

        Raises:
            RuntimeError: for a first step while a graph is captured.
            TypeError, ValueError: as `CompiledOptimizer.step`; nothing has changed.
        """
        name, groups = type(optimizer).__name__, optimizer.param_groups
        self._settings.take_over(name, groups, optimizer.defaults)
        settings = self._settings.values(name, groups, optimizer.defaults)
        last, self._last = self._last, None
        foreseen = last is not None and last.job.columns is not None
        jobs = [last.job] if last is not None and foreseen else self._jobs(optimizer, work)
        for job in jobs:
            job.rows.send(settings)
        exact = self._compiled.order == "exact"
        first, measured = Role.STEP, None
        for job in jobs:
            if job.pending and exact:
                first = Role.COMPLETE
                self._learn(self._launched(job, Role.COMPLETE))
                self._launched(job, Role.STEP_COMPLETED)
            elif job.pending:
                first = Role.FUSED
                measured = self._launched(job, first)
            else:
                self._launched(job, Role.STEP)
        if measured is not None:
            self._learn(measured)
        if foreseen:
            self._last = last
        elif (
            len(jobs) == 1
            and not jobs[0].copied
            and (first != Role.STEP or self.engine.shape.pending is None)
        ):
            self._last = _last(optimizer, work, jobs[0], first)
        for job in jobs:
            job.columns = None

    def foresees(self, optimizer: LearningOptimizer, work: Sequence[Pairs]) -> bool:
        """Whether a step is like the last one: of the same tensors, as they were.

        Only gradients may be new, and one look at all tensors says that they are like the last.
        """
        last = self._last
        if last is not None:
            last.job.columns = None
        pairs = list(chain.from_iterable(work))
        if last is None or not pairs or list(map(len, work)) != last.many:
            return False
        parameters, gradients = zip(*pairs, strict=True)
        rows, kept = last.job.rows, optimizer.state
        if not (
            all(map(operator.is_, parameters, last.parameters))
            and len(kept) == len(last.keys)
            and all(map(operator.is_, kept, last.keys))
            and all(map(operator.is_, kept.values(), last.values))
            and set(map(len, rows.states)) == {last.width}
        ):
            return False
        try:
            same = rows.serves(rows.states, last.job.pending)
            columns = TensorTable(parameters, gradients, rows.states, self.engine.layout)
        except KeyError:
            return False
        if last.job.pending and self._noting and not rows.ready:
            return False  # somebody has written into the states
        own = rows.launches.get(StepCache, last.entry)
        if not same or not columns.watched(own) or not columns.apart(own):
            return False
        last.job.columns = columns
        return True

    def _jobs(self, optimizer: LearningOptimizer, work: Sequence[Pairs]) -> list[_Job]:
        """The works with a step pending, and those with none."""
        states, shape = optimizer.state, self.engine.shape
        self._drop_idle([states[p] for pairs in work for p, _ in pairs])
        nothing: dict[str, float] = {}
        kinds: dict[bool, list[tuple[int, ParameterTask]]] = {True: [], False: []}
        for number, pairs in enumerate(work):
            for parameter, gradient in pairs:
                state = states[parameter]
                one = ParameterTask(parameter, gradient, state, nothing)
                kinds[state.keys() == shape.pending].append((number, one))
        return [
            _Job(pending, [w for _, w in works], self._rows(optimizer, pending, works))
            for pending, works in kinds.items()
            if works
        ]

    def _drop_idle(self, states: Sequence[dict[str, Any]]) -> None:
        """Let states have no step pending whose count somebody has set to 0.

        The host waits for the device, unless these are the states of the last step as it left them.
        """
        if not self._noting or captured(self.engine.device):
            return
        held = [state for state in states if state.keys() == self.engine.shape.pending]
        if not held or any(r.ready and r.serves(held, True) for r in self._kept.values()):
            return
        counts = Owned([state["step"] for state in held]).numbers()
        noted = Owned([state[PENDING_HYPERS] for state in held]).firsts()
        for state, *both in zip(held, counts, noted, strict=True):
            if not all(both):
                del state[PENDING_HYPERS]

    def _rows(
        self,
        optimizer: LearningOptimizer,
        pending: bool,
        works: Sequence[tuple[int, ParameterTask]],
    ) -> DeviceHyperparameters:
        states = [work.state for _, work in works]
        numbers = [number for number, _ in works]
        found = self._kept.get(pending)
        if found is None or found.numbers != numbers or not found.serves(states, pending):
            check_not_captured(
                self.engine.device, "other parameters have gradients than in the step before"
            )
            if not pending:
                self._make_states(optimizer, works)
            taken = self._compiled.scopes.taken(optimizer.param_groups, optimizer.state)
            found = self._kept[pending] = DeviceHyperparameters(self.engine, numbers, states)
            self._settings.memory[0].fill_(float(max(taken)))
        return found

    def _make_states(
        self, optimizer: LearningOptimizer, works: Sequence[tuple[int, ParameterTask]]
    ) -> None:
        """What states lack of what a step needs."""
        needed, groups = self.engine.needed, optimizer.param_groups
        lacking = [(n, work) for n, work in works if not needed <= work.state.keys()]
        hypers = {n: optimizer._hypers(groups[n]) for n in {n for n, _ in lacking}}
        if lacking:
            self.engine.start([work._replace(hypers=hypers[n]) for n, work in lacking])

    def _launched(self, job: _Job, name: str) -> Launch:
        """Run an entry point.

        What is captured leaves states in their own memory, and so does all that comes after it:
        otherwise a replay would find them elsewhere. The table for that is made while there is no
        graph yet.
        """
        engine, rows, entries = self.engine, job.rows, self.engine.module.entries
        entry, own = entries[name], rows.launches.get(StepCache, name)
        given = columns = job.columns
        back: list[tuple[Tensor, Tensor]] = []
        if given is None or columns is None:
            given, columns, back = engine.prepared(job.works, own)
        chosen = entry
        rows.captured = rows.captured or captured(engine.device)
        if rows.captured:
            chosen = entries.get(fixed(name), entry)
        ready = self._ready(rows, chosen, columns, own)
        if ready.twin is None and not rows.captured:
            ready.twin = self._twin(rows, entries.get(fixed(name), entry), columns, own)
        if name != Role.COMPLETE:
            engine.run(f"begin_{name}", ready)
        elif not rows.ready:
            engine.run("later_complete", ready)
        engine.run(chosen.name, ready, True)
        engine.moved(chosen, given)
        job.copied = job.copied or bool(back)
        if chosen.buffers and job.columns is not None:
            # The same tensors under other names.
            job.columns = TensorTable(*given.fields, engine.layout)
        if name != Role.COMPLETE:
            engine.written(given, back)
            rows.ready = True
            if name == Role.STEP and self._noting:
                rows.adopt(pending=True)
        return ready

    def _ready(
        self, rows: DeviceHyperparameters, entry: EntryPoint, columns: TensorTable, own: StepCache
    ) -> Launch:
        """What an entry point is given."""
        engine = self.engine
        kept = own.get(StepCache, entry.name)
        ready = launch(entry, columns, rows.places, rows.rows, engine.built, kept)
        ready.given, ready.later = rows.given, rows.later
        ready.memory, ready.sources = self._settings.memory, self._settings.sources
        if entry.name in {Role.COMPLETE, fixed(Role.COMPLETE)}:
            ready.uniforms = rows.later
        return ready

    def _twin(
        self, rows: DeviceHyperparameters, entry: EntryPoint, columns: TensorTable, own: StepCache
    ) -> Launch:
        """What a graph will need: a table, and kernels that have been loaded."""
        twin = self._ready(rows, entry, columns, own)
        self.engine.run(entry.name, replace(twin, tensors=0, blocks=0), True)
        fill(twin.table[3], columns.addresses_of(["g"])[0])
        return twin

    def _learn(self, ready: Launch) -> None:
        if self._learning is not None:
            self.engine.launched(self._learning.learn, ready)


def _last(optimizer: LearningOptimizer, work: Sequence[Pairs], job: _Job, entry: str) -> _Last:
    return _Last(
        job,
        list(map(len, work)),
        [p for pairs in work for p, _ in pairs],
        list(optimizer.state),
        list(optimizer.state.values()),
        len(job.rows.states[0]),
        entry,
    )
