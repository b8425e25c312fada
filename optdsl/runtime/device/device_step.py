"""Steps that stay on the device: counts, hyperparameters, hyper-gradients and coefficients.

Rows of hyperparameters and the memory of learned coefficients are tensors on the device. The groups
and states of an optimizer hold views of them: a coefficient in ``param_groups`` is a tensor of one
element, which the device changes while the host is steps ahead. Values that a user sets are sent to
the device. The host waits for the device only at the first step, at a step after loading, and at a
step with other parameters than the step before.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from operator import attrgetter
from types import ModuleType
from typing import Any

from torch import Tensor

from optdsl.backends.base import EntryPoint
from optdsl.backends.triton import fixed
from optdsl.backends.triton.learning import memory_keys
from optdsl.runtime.build.python_modules import module
from optdsl.runtime.core.owned_numbers import Owned
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PENDING_HYPERS, PLAIN, ParameterTask, check_dense
from optdsl.runtime.device.coefficient_memory import CoefficientMemory
from optdsl.runtime.device.device_hyperparameters import DeviceHyperparameters
from optdsl.runtime.engines.compiled import Compiled, LearningOptimizer
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

Pairs = Sequence[tuple[Tensor, Tensor]]

_DEVICE, _DTYPE = attrgetter("device"), attrgetter("dtype")


def device_step_of(
    optimizer: LearningOptimizer, work: Sequence[Pairs], known: StepCache
) -> DeviceStep | None:
    """The object that takes the steps of an optimizer on the device; None if the host has to.

    The host takes part if parameters have several devices or dtypes or are not plain tensors, if
    coefficients are learned for each group or tensor, or from a sample of the elements, and if
    ranks learn together.

    `work` are pairs of parameters and gradients, by group; `known` is the cache from step to step.

    Raises:
        RuntimeError: for a sparse gradient.
    """
    compiled = optimizer.compiled
    if compiled.parts.divided or compiled.parts.whole.backend not in {"triton", "auto"}:
        return None
    if compiled.program.sample > 1:
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
    if not set(map(type, parameters)).issubset(PLAIN):
        return None
    if len(set(map(_DEVICE, parameters))) > 1 or len(set(map(_DTYPE, parameters))) > 1:
        return None
    engine = compiled.parts.whole.of(parameters[0])
    if not isinstance(engine, TritonEngine) or len(set(map(id, parameters))) < len(parameters):
        return None
    check_dense(type(optimizer).__name__, (g for pairs in work for _, g in pairs))
    usual: tuple[Any, ...] = (frozenset(), engine.shape.complete, engine.shape.pending)
    if any(optimizer.state[p].keys() not in usual for p in parameters):
        return None  # the host first completes a step that another engine has left pending
    gradients = [g for pairs in work for _, g in pairs]
    if overlapping(parameters, gradients, [optimizer.state[p] for p in parameters]):
        return None
    if found is None or found.engine is not engine:
        found = DeviceStep(optimizer, engine)
        known.put(found)
    return found


@dataclass
class _Job:
    """The tasks of a step whose last steps are all pending, or all completed.

    Attributes:
        pending: whether their last steps are pending.
        works: the tasks.
        rows: their rows of hyperparameters.
        columns: their tensors, if it is known that kernels can use them without copies.
        copied: whether some of the tensors had to be copied.
    """

    pending: bool
    works: list[ParameterTask]
    rows: DeviceHyperparameters
    columns: TensorTable | None = None
    copied: bool = False


@dataclass
class _Last:
    """The last step, with which the next one is compared.

    Attributes:
        job: its only job.
        many: the number of parameters with gradients in each group.
        parameters: these parameters.
        keys, values: the keys and values of the optimizer's states.
        width: the number of entries of each state after the step.
        entry: the entry point that ran first.
    """

    job: _Job
    many: list[int]
    parameters: Sequence[Tensor]
    keys: list[Tensor]
    values: list[dict[str, Any]]
    width: int
    entry: str


class DeviceStep:
    """Takes the steps of one optimizer; see the module.

    Attributes:
        engine: the engine that launches kernels.
    """

    def __init__(self, optimizer: LearningOptimizer, engine: TritonEngine) -> None:
        """Prepare for the first step; `step` sends the coefficients of the groups to the device."""
        compiled = optimizer.compiled
        self.engine = engine
        self._compiled = compiled
        entries = engine.module.entries
        dots = next((e.dots for e in entries.values() if e.dots), ())
        self._learning = learning_module(compiled, dots)
        self._settings = CoefficientMemory(
            compiled, engine.names, memory_keys(compiled.blocks), engine.device
        )
        self._kept: dict[bool, DeviceHyperparameters] = {}
        self._last: _Last | None = None
        self._noting = PENDING_HYPERS in (engine.shape.pending or ())

    @property
    def captured(self) -> bool:
        """Whether a graph has captured a step."""
        return any(rows.captured for rows in self._kept.values())

    # --- a step ---------------------------------------------------------------------------------

    def step(self, optimizer: LearningOptimizer, work: Sequence[Pairs]) -> None:
        """Take a step.

        Raises:
            RuntimeError: for a first step while a graph is captured.
            TypeError, ValueError: as `CompiledOptimizer.step`; nothing has changed.
        """
        self._settings.take_over(optimizer)
        settings = self._settings.values(optimizer)
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
            parameters = [p for pairs in work for p, _ in pairs]
            keys, values = list(optimizer.state), list(optimizer.state.values())
            many, width = list(map(len, work)), len(jobs[0].rows.states[0])
            self._last = _Last(jobs[0], many, parameters, keys, values, width, first)
        for job in jobs:
            job.columns = None

    def foresees(self, optimizer: LearningOptimizer, work: Sequence[Pairs]) -> bool:
        """Whether a step has the same parameters and states as the last one.

        Gradients may be other tensors, of the same layout; one pass over all tensors checks this.
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
        """The tasks with a step pending, and those without."""
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
        """Drop the pending step of states whose count was set to 0.

        The host waits for the device, unless the states are as the last step has left them.
        """
        if not self._noting or captured(self.engine.device):
            return
        held = [state for state in states if state.keys() == self.engine.shape.pending]
        if not held or any(r.ready and r.serves(held, True) for r in self._kept.values()):
            return
        counts = Owned([state["step"] for state in held]).numbers()
        noted = Owned([state[PENDING_HYPERS] for state in held]).numbers()
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
        """Add the entries that a step needs to the states that lack them."""
        needed, groups = self.engine.needed, optimizer.param_groups
        lacking = [(n, work) for n, work in works if not needed <= work.state.keys()]
        hypers = {n: optimizer._hypers(groups[n]) for n in {n for n, _ in lacking}}
        if lacking:
            self.engine.start([work._replace(hypers=hypers[n]) for n, work in lacking])

    def _launched(self, job: _Job, name: str) -> Launch:
        """Run an entry point.

        A captured step and all later ones leave every state in its own memory, where a replay will
        look for it. The tables for such steps are made before a graph is captured.
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
            # States have exchanged their tensors.
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
        """The arguments of an entry point."""
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
        """The arguments that a captured step will use; its kernels are loaded, too."""
        twin = self._ready(rows, entry, columns, own)
        self.engine.run(entry.name, replace(twin, tensors=0, blocks=0), True)
        fill(twin.table[3], columns.addresses_of(["g"])[0])
        return twin

    def _learn(self, ready: Launch) -> None:
        if self._learning is not None:
            self.engine.launched(self._learning.learn, ready)


def learning_module(compiled: Compiled, dots: Sequence[str]) -> ModuleType | None:
    """The built module that moves the coefficients of a rule; None if nothing is measured.

    `dots` are the coefficients whose hyper-gradients are measured, in order.
    """
    if not compiled.coefficients or not dots:
        return None
    name = compiled.program.name
    return module(compiled.back.device_learning(name, compiled.blocks, dots, compiled.order))
