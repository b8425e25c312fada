"""What engines have in common that run all tensors in one call, over a table of their addresses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.artifact import Artifact
from optdsl.backends.base import EntryPoint
from optdsl.ir.program import Program
from optdsl.ir.storage import added
from optdsl.ir.types import Extent
from optdsl.passes.totals import TOTAL
from optdsl.plan.keys import is_pending
from optdsl.runtime.core.owned_numbers import counts
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import (
    COMPUTE,
    PENDING_HYPERS,
    STATE,
    HyperGradients,
    ParameterTask,
    Shape,
)
from optdsl.runtime.engines.entry_task import Task
from optdsl.runtime.engines.noted_steps import NotedSteps, NumbersKept, hyper_rows
from optdsl.runtime.engines.overlaps import once, overlapping, separated
from optdsl.runtime.engines.prepared import Left, Prepared
from optdsl.runtime.engines.sampled.choice import sample_of
from optdsl.runtime.engines.sampled_steps import in_parts
from optdsl.runtime.engines.state_allocation import zeros_beside
from optdsl.runtime.engines.storage import Storage
from optdsl.runtime.engines.tensor_table import Layout, TensorTable
from optdsl.runtime.learning.scopes import add
from optdsl.schedule import Role

# The entry points for states with a step pending.
_COMPLETING = frozenset({Role.COMPLETE, Role.FUSED})


class PackedEngine:
    """Runs kernels that take a table of addresses; see `optdsl.runtime.core.tasks.Engine`.

    Attributes:
        plan: how tangents are had.
        shape: what states look like.
        needed: the keys of a state that a step needs.
        layout: what tensors the kernels expect.
        module: the emitted text and its entry points.
    """

    def __init__(self, artifact: Artifact, device: torch.device) -> None:
        """Take over what was compiled, to run it on the parameters of one device."""
        dtype = getattr(torch, artifact.target.dtype)
        self.plan, self.module = artifact.plan, artifact.module
        self._program, self._device = artifact.program, device
        self.shape = Shape(self.plan)
        self._states = (*(s.name for s in self.plan.states), *added(self._program))
        self.needed = frozenset(self._states) | {"step"}
        self._scalars = {s.name for s in self.plan.states if s.type.extent is Extent.SCALAR}
        entries = self.module.entries
        self._draws = any(entry.draws for entry in entries.values())
        # Those that read the hyperparameters of a pending step.
        self._reading = {name for name, e in entries.items() if any(map(is_pending, e.hypers))}
        # Random numbers are drawn, and elements are sampled, by the index, row after row.
        self._ordered = self._draws or self.plan.sample > 1
        scalars, coded = frozenset(self._scalars), Storage(self._program).dtypes(dtype)
        self._kept = {name: coded.get(name, COMPUTE[dtype]) for name in self._states}
        kept, sampled = tuple(self._kept.values()), frozenset[str]()
        if self.plan.sample > 1:
            sampled = frozenset(self.plan.kept)
        self.layout = Layout(dtype, device, self._states, kept, scalars, self.plan.sample, sampled)
        self._notes = self.plan.computes_again
        self._measures = _only_measures(self._program)
        self._slots = 2 + max(len(e.states) for e in entries.values())

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """One call for all of `works`; a parameter that is there twice has one step pending."""
        known.get(NumbersKept, self).idle = frozenset()
        if works and known.get(Prepared, self).works is not works:
            works, _ = once(works)
        return self._run(Role.COMPLETE, works, known)

    def advance(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """One call for all of `works`."""
        self._take(Role.STEP, works, known)

    def advance_completed(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """One call for all of `works`."""
        if not works:
            return
        numbers = known.get(NumbersKept, self)
        idle, numbers.idle = numbers.idle, frozenset()
        if idle:
            self.advance([work for work in works if id(work.parameter) in idle], StepCache())
            works = [work for work in works if id(work.parameter) not in idle]
        completed = Role.STEP_COMPLETED in self.module.entries
        self._take(Role.STEP_COMPLETED if completed else Role.STEP, works, known)

    def _take(self, name: str, works: Sequence[ParameterTask], known: StepCache) -> None:
        if not works or known.get(Prepared, self).works is works:
            self._run(name, works, known)
            return
        first, again = once(works)
        needed = len(self.needed)
        if min(map(len, map(STATE, first)), default=needed) < needed:
            self.start([w for w in first if len(w.state) < needed])
        self._run(name, first, known)
        for work in again:
            if work.state.keys() != self.shape.pending:
                self.advance([work], StepCache())
            elif Role.COMPLETE in self.module.entries:
                self.complete([work], StepCache())
                self.advance_completed([work], StepCache())
            else:
                self.fused([work], StepCache())

    def fused(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """One call for all of `works`, and one pass over memory.

        A parameter that is there twice has one step pending, which is what sums are of.
        """
        if Role.FUSED not in self.module.entries:
            sums = self.complete(works, known)
            self.advance_completed(works, known)
            return sums
        if not works or known.get(Prepared, self).works is works:
            return self._run(Role.FUSED, works, known)
        first, again = once(works)
        sums = self._run(Role.FUSED, first, known)
        for work in again:
            self.fused([work], StepCache())
        return sums

    def start(self, works: Sequence[ParameterTask]) -> None:
        """Make what states lack: all of it, or only what is kept for a pending step."""
        new = [work for work in works if not work.state]
        uncounted = [work.state for work in works if "step" not in work.state]
        for state, count in zip(uncounted, counts(len(uncounted)), strict=True):
            state["step"] = count
        for work in works:
            for number, name in enumerate(self._states):
                if name not in work.state:
                    work.state[name] = self._zeros(work, name, number)
        try:
            self._run(Role.INITIALIZE, new, StepCache())
        except BaseException:
            for work in new:
                work.state.clear()
            raise

    def _zeros(self, work: ParameterTask, name: str, number: int) -> Tensor:
        """Memory for a state, laid out like the parameter, so that one index serves both."""
        parameter, dtype = work.parameter, self._kept[name]
        if name in self._scalars:
            return torch.zeros((), dtype=dtype, device=self._device)
        if name in self.layout.sampled and work.place is None:
            sample = sample_of(parameter.shape, self.layout.sample)
            if not sample.whole:
                return torch.zeros(sample.count, dtype=dtype, device=self._device)
        layout = torch.preserve_format if self._indexed(parameter) else torch.contiguous_format
        if self._device.type == "cpu":
            return zeros_beside(parameter, number, dtype, layout)
        return torch.zeros_like(parameter, dtype=dtype, memory_format=layout)

    def _indexed(self, x: Tensor) -> bool:
        """Whether kernels can take the elements of a tensor in the order in which they lie."""
        return x.is_contiguous() if self._ordered else _dense(x)

    def _run(self, name: str, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Call an entry point for all of `works`.

        Raises:
            MemoryError: there is none for the working space.
            RuntimeError: a parameter has another shape than its state or its gradient.
            In both cases nothing has changed.
        """
        if not works:
            return {}
        own, prepared = known.get(StepCache, self, name), known.get(Prepared, self)
        found = prepared.take(works)
        given = found.columns or TensorTable.of(works, self.layout)
        noted = self._noted(name, given.states, known.get(NumbersKept, self), found.noted)
        idle = noted.idle()
        if idle:
            return self._without(idle, name, works, known)
        plain = found.columns is not None or given.plain(own)
        if found.apart or (given.apart(own) if plain else not overlapping(*given.fields)):
            sums = self._run_apart(name, works, known, given if plain else None, noted)
            if plain:
                buffers = self.module.entries[name].buffers
                if name == Role.COMPLETE and Role.STEP_COMPLETED in self.module.entries:
                    moved = given.exchanged(buffers)
                    prepared.put(works, moved, apart=True, noted=False)
                known.get(Left, self).note(works, given, buffers)
            return sums
        first, later = separated(works)
        sums = self._run_apart(name, first, StepCache())
        for work in later:
            add(sums, self._run_apart(name, [work], StepCache()))
        return sums

    def _without(
        self, idle: Sequence[int], name: str, works: Sequence[ParameterTask], known: StepCache
    ) -> HyperGradients:
        """The same for works of which some have no step pending: theirs is dropped."""
        places = set(idle)
        dropped = [works[n] for n in idle]
        for work in dropped:
            del work.state[PENDING_HYPERS]
        sums = self._run(name, [w for n, w in enumerate(works) if n not in places], StepCache())
        if name == Role.COMPLETE:
            idle_now = frozenset(id(work.parameter) for work in dropped)
            known.get(NumbersKept, self).idle = idle_now
        else:
            self._run(Role.STEP, dropped, StepCache())
        return sums

    def _noted(
        self,
        name: str,
        states: Sequence[dict[str, Any]],
        numbers: NumbersKept,
        same: bool = False,
    ) -> NotedSteps:
        """What states note; with `same`, the tensors are known to be those in `numbers`."""
        if self._measures:
            return NotedSteps(None, [0.0] * len(states), None, None)
        steps, held = numbers.steps, numbers.held
        if not same or steps is None:
            steps = numbers.counts_of(states)
        if not self._notes or name not in _COMPLETING:
            held = None
        elif not same or held is None:
            held = numbers.hypers_of(states)
        rows = held.rows() if held is not None and name in self._reading else None
        return NotedSteps(steps, steps.numbers(), held, rows)

    def _run_apart(
        self,
        name: str,
        works: Sequence[ParameterTask],
        known: StepCache,
        plain: TensorTable | None = None,
        noted: NotedSteps | None = None,
    ) -> HyperGradients:
        """Call an entry point for works whose tensors do not overlap.

        Args:
            name: of the entry point.
            works: the works.
            known: what is kept from call to call.
            plain: the tensors, if kernels can take them as they are.
            noted: what the states note, if that is known.
        """
        entry = self.module.entries[name]
        own, numbers = known.get(StepCache, self, name), known.get(NumbersKept, self)
        given, columns, back = (plain, plain, []) if plain else self.prepared(works, own)
        steps, counts, held, rows = noted or self._noted(name, given.states, numbers)
        taken = [count + 1 for count in counts]

        def finish() -> None:
            # Those with which it was called, which are new where a state was converted.
            self.moved(entry, columns)
            if name == Role.COMPLETE and held is not None and steps is not None:
                for state in given.states:
                    del state[PENDING_HYPERS]
                numbers.spare = steps.tensors, held.tensors
            if name not in {Role.INITIALIZE, Role.COMPLETE} and steps is not None:
                steps.write_numbers(taken)
                if self._notes:
                    width = 1 + len(self._program.hypers)
                    room = held or numbers.room(given.states, width)
                    room.write(*hyper_rows(self._program, works, taken))
                self.written(given, back)

        task = Task(entry, works, columns, taken, rows, own, finish)
        return in_parts(task, self.module.entries, self._called)

    def _called(self, task: Task) -> HyperGradients:
        """Run an entry point, and `finish` when it has done its work; the sums by name."""
        raise NotImplementedError

    def prepared(
        self, works: Sequence[ParameterTask], own: StepCache
    ) -> tuple[TensorTable, TensorTable, list[tuple[Tensor, Tensor]]]:
        """The tensors of works; the same as kernels expect them; and what to copy back after.

        Raises:
            RuntimeError: a parameter has another shape than its state or its gradient.
        """
        given = TensorTable.of(works, self.layout)
        if given.plain(own):
            return given, given, []
        back: list[tuple[Tensor, Tensor]] = []
        prepared = [work if self._is_plain(work) else self._laid_out(work, back) for work in works]
        return given, TensorTable.of(prepared, self.layout), back

    def _is_plain(self, work: ParameterTask) -> bool:
        return TensorTable.of([work], self.layout).plain(StepCache())

    def moved(self, entry: EntryPoint, given: TensorTable) -> None:
        """Let states be the tensors in whose memory they are after an entry point.

        Args:
            entry: the entry point.
            given: the tensors with which it was called.
        """
        for name, home in entry.buffers.items():
            for state, tensor in zip(given.states, given.column(home), strict=True):
                state[name] = tensor

    def written(self, given: TensorTable, back: Sequence[tuple[Tensor, Tensor]]) -> None:
        """Let the parameters, and autograd, know of what was written."""
        for parameter, theta in back:
            parameter.copy_(theta)
        # As if torch had made the writes.
        torch.autograd.graph.increment_version(given.parameters)

    def _laid_out(self, work: ParameterTask, back: list[tuple[Tensor, Tensor]]) -> ParameterTask:
        """The same with parameter and gradient such that one index serves them and the states.

        A gradient may have no memory of its own: one of nothing but zeros that autograd has made,
        or one that wraps other tensors; its numbers are copied.

        Args:
            work: a parameter with what belongs to it.
            back: receives what has to be copied back.

        Raises:
            RuntimeError: where shapes differ.
        """
        theta, gradient, state = work.parameter, work.gradient, work.state
        tensors = {"gradient": gradient, **{n: state[n] for n in self._states}}
        given = TensorTable.of([work], self.layout)
        for name, value in tensors.items():
            expected = torch.Size() if name in self._scalars else theta.shape
            if name in self.layout.sampled and value.shape != expected:
                expected = torch.Size([given.samples[0].count])
            if value.shape != expected:
                raise RuntimeError(
                    f"{self._program.name}: {name} has shape {tuple(value.shape)}, and its "
                    f"parameter {tuple(theta.shape)}; has the parameter changed since?"
                )
        if self._indexed(theta) and not theta.is_neg():
            gradient = torch.empty_like(theta).copy_(gradient)
        else:
            theta = theta.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
            gradient = torch.empty_like(theta).copy_(gradient)
            back.append((work.parameter, theta))
        for name in self._states:
            value = state[name]
            like = theta
            if name in self._scalars:
                like = value
            elif value.shape != theta.shape:
                like = value.new_empty(value.shape)  # of sampled elements
            if (
                value.dtype is not self._kept[name]
                or value.device != self._device
                or value.is_neg()
                or value.stride() != like.stride()
            ):
                # Loaded, or the model has changed its precision, layout or device since.
                new = torch.empty_like(like, dtype=self._kept[name], device=self._device)
                state[name] = new.copy_(value)
        return work._replace(parameter=theta, gradient=gradient)


def _only_measures(program: Program) -> bool:
    """Whether a step changes no parameter and asks for no count: it measures totals before one."""
    opcodes = {o.opcode for o in program.operations}
    parameter = program.operations[program.parameter].opcode == "parameter"
    totals = any(s.name.startswith(TOTAL) for s in program.states)
    return totals and parameter and "step" not in opcodes


def _dense(x: Tensor) -> bool:
    """Whether the elements lie without gaps and overlaps, in any order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
