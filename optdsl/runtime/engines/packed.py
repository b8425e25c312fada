"""What engines have in common that run all tensors in one call, over a table of their addresses."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.artifact import Artifact
from optdsl.backends.base import EntryPoint
from optdsl.ir.types import Extent
from optdsl.plan.keys import is_pending
from optdsl.runtime.core.owned_numbers import Owned, counts, made
from optdsl.runtime.core.tasks import (
    COMPUTE,
    PENDING_HYPERS,
    HyperGradients,
    ParameterTask,
    Shape,
    StepCache,
    pending_hypers,
)
from optdsl.runtime.engines.noted_steps import NotedSteps, noted_hypers
from optdsl.runtime.engines.overlaps import once, overlapping, separated
from optdsl.runtime.engines.state_allocation import zeros_beside
from optdsl.runtime.engines.tensor_table import Layout, TensorTable
from optdsl.schedule import Role

_STATE = itemgetter(ParameterTask._fields.index("state"))
# The entry points for states with a step pending, and what is kept between two of them.
_SETTLING = frozenset({Role.COMPLETE, Role.FUSED})
_SPARE = "spare"
# The parameters, by identity, that `complete` has found to have no step pending.
_IDLE = "idle"


class Task(NamedTuple):
    """A call of an entry point.

    Attributes:
        entry: the entry point.
        works: what it is for.
        columns: the tensors, as the kernels expect them.
        counts: of the step, by work, from 1.
        pending: the different rows of `PENDING_HYPERS`, and which each work has; None where the
            entry point does not ask for them.
        own: what is kept for the entry point from call to call.
        finish: notes what was done.
    """

    entry: EntryPoint
    works: Sequence[ParameterTask]
    columns: TensorTable
    counts: Sequence[float]
    pending: tuple[list[list[float]], list[int]] | None
    own: StepCache
    finish: Callable[[], None]


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
        self._compute = COMPUTE[dtype]
        self.plan, self.module = artifact.plan, artifact.module
        self._program, self._device = artifact.program, device
        self.shape = Shape(self.plan)
        self._states = tuple(s.name for s in self.plan.states)
        self.needed = frozenset(self._states) | {"step"}
        self._scalars = {s.name for s in self.plan.states if s.type.extent is Extent.SCALAR}
        scalars = frozenset(self._scalars)
        self.layout = Layout(dtype, self._compute, device, self._states, scalars)
        self._notes = self.plan.kind in {"live", "replay"}
        self._slots = 2 + max(len(e.states) for e in self.module.entries.values())

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """One call for all of `works`; a parameter that is there twice has one step pending."""
        known.pop((self, _IDLE), None)
        return self._run(Role.COMPLETE, once(works)[0], known)

    def advance(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """One call for all of `works`."""
        self._take(Role.STEP, works, known)

    def advance_completed(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """One call for all of `works`."""
        idle = known.pop((self, _IDLE), None)
        if idle is not None:
            self.advance([work for work in works if id(work.parameter) in idle], {})
            works = [work for work in works if id(work.parameter) not in idle]
        self._take(Role.STEP_COMPLETED, works, known)

    def _take(self, name: str, works: Sequence[ParameterTask], known: StepCache) -> None:
        first, again = once(works)
        needed = len(self.needed)
        if min(map(len, map(_STATE, first)), default=needed) < needed:
            self.start([w for w in first if len(w.state) < needed])
        self._run(name, first, known)
        for work in again:
            if work.state.keys() != self.shape.pending:
                self.advance([work], {})
            elif Role.COMPLETE in self.module.entries:
                self.complete([work], {})
                self.advance_completed([work], {})
            else:
                self.fused([work], {})

    def fused(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """One call for all of `works`, and one pass over memory.

        A parameter that is there twice has one step pending, which is what sums are of.
        """
        first, again = once(works)
        sums = self._run(Role.FUSED, first, known)
        for work in again:
            self.fused([work], {})
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
                    scalar = name in self._scalars
                    work.state[name] = self._zeros(work.parameter, scalar, number)
        try:
            self._run(Role.INITIALIZE, new, {})
        except BaseException:
            for work in new:
                work.state.clear()
            raise

    def _zeros(self, parameter: Tensor, scalar: bool, number: int) -> Tensor:
        """Memory for a state, laid out like the parameter, so that one index serves both."""
        if scalar:
            return torch.zeros((), dtype=self._compute, device=self._device)
        layout = torch.preserve_format if _dense(parameter) else torch.contiguous_format
        if self._device.type == "cpu":
            return zeros_beside(parameter, number, self._compute, layout)
        return torch.zeros_like(parameter, dtype=self._compute, memory_format=layout)

    def _run(self, name: str, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Call an entry point for all of `works`.

        Raises:
            MemoryError: there is none for the working space.
            RuntimeError: a parameter has another shape than its state or its gradient.
            In both cases nothing has changed.
        """
        if not works:
            return {}
        own = known.setdefault((self, name), {})
        given = TensorTable.of(works, self.layout)
        noted = self._noted(name, given.states, known.setdefault((self, "numbers"), {}))
        idle = noted.idle()
        if idle:
            return self._without(idle, name, works, known)
        plain = given.plain(own)
        if given.apart(own) if plain else not overlapping(*given.fields):
            return self._run_apart(name, works, known, given if plain else None, noted)
        first, later = separated(works)
        sums = self._run_apart(name, first, {})
        for work in later:
            for key, value in self._run_apart(name, [work], {}).items():
                sums[key] += value
        return sums

    def _without(
        self, idle: Sequence[int], name: str, works: Sequence[ParameterTask], known: StepCache
    ) -> HyperGradients:
        """The same for works of which some have no step pending: theirs is dropped."""
        places = set(idle)
        dropped = [works[n] for n in idle]
        for work in dropped:
            del work.state[PENDING_HYPERS]
        sums = self._run(name, [w for n, w in enumerate(works) if n not in places], {})
        if name == Role.COMPLETE:
            known[self, _IDLE] = {id(work.parameter) for work in dropped}
        else:
            self._run(Role.STEP, dropped, {})
        return sums

    def _noted(self, name: str, states: Sequence[dict[str, Any]], own: StepCache) -> NotedSteps:
        steps = Owned.of([state["step"] for state in states], own, "steps")
        held = noted_hypers(states, own) if self._notes and name in _SETTLING else None
        hypers = self.module.entries[name].hypers
        reads = any(map(is_pending, hypers))
        rows = held.rows() if held is not None and reads else None
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
        own = known.setdefault((self, name), {})
        # For all entry points together, so that none keeps tensors that states have no more.
        numbers = known.setdefault((self, "numbers"), {})
        given, columns, back = (plain, plain, []) if plain else self.prepared(works, own)
        steps, counts, held, rows = noted or self._noted(name, given.states, numbers)
        taken = [count + 1 for count in counts]

        def finish() -> None:
            self.moved(entry, given.states)
            if name == Role.COMPLETE and held is not None:
                for state in given.states:
                    del state[PENDING_HYPERS]
                known[self, _SPARE] = steps.tensors, held.tensors
            if name not in {Role.INITIALIZE, Role.COMPLETE}:
                steps.write_numbers(taken)
                if self._notes:
                    spare = known.pop((self, _SPARE), None)
                    self._note(works, taken, held or self._room(given, spare, numbers))
                self.written(given, back)

        return self._called(Task(entry, works, columns, taken, rows, own, finish))

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
        prepared = [
            work if TensorTable.of([work], self.layout).plain({}) else self._laid_out(work, back)
            for work in works
        ]
        return given, TensorTable.of(prepared, self.layout), back

    def _room(
        self,
        given: TensorTable,
        spare: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
        own: StepCache,
    ) -> Owned:
        """Give states `PENDING_HYPERS`: the tensors that they had before, if these are at hand.

        Args:
            given: the states, none of which has it.
            spare: the counts of some states, and the tensors that those had.
            own: what is kept from call to call.
        """
        counts = [state["step"] for state in given.states]
        same = spare is not None and len(spare[0]) == len(counts)
        if spare is not None and same and all(map(operator.is_, spare[0], counts)):
            tensors = list(spare[1])
        else:
            width = 1 + len(self._program.hypers)
            blank = torch.zeros(len(counts), width, dtype=torch.float64, device="cpu")
            tensors = made(blank)
        for state, tensor in zip(given.states, tensors, strict=True):
            state[PENDING_HYPERS] = tensor
        return Owned.of(tensors, own, PENDING_HYPERS)

    def _note(self, works: Sequence[ParameterTask], counts: Sequence[float], held: Owned) -> None:
        """Note with which hyperparameters a step was taken."""
        apart = [id(work[3]) for work in works]
        if apart.count(apart[0]) == len(apart) and counts.count(counts[0]) == len(counts):
            row = pending_hypers(self._program, counts[0], works[0].hypers)
            held.write([row], [0] * len(apart))
            return
        rows: dict[tuple[int, float], int] = {}
        values: list[list[float]] = []
        places = []
        for (_, _, _, hypers), t in zip(works, counts, strict=True):
            place = rows.setdefault((id(hypers), t), len(values))
            if place == len(values):
                values.append(pending_hypers(self._program, t, hypers))
            places.append(place)
        held.write(values, places)

    def moved(self, entry: EntryPoint, states: Iterable[dict[str, Any]]) -> None:
        """Let states be the tensors in whose memory they are after an entry point."""
        if entry.buffers:
            for state in states:
                moved = {k: state[home] for k, home in entry.buffers.items()}
                state.update(moved)

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
        for name, value in tensors.items():
            expected = torch.Size() if name in self._scalars else theta.shape
            if value.shape != expected:
                raise RuntimeError(
                    f"{self._program.name}: {name} has shape {tuple(value.shape)}, and its "
                    f"parameter {tuple(theta.shape)}; has the parameter changed since?"
                )
        if _dense(theta) and not theta.is_neg():
            gradient = torch.empty_like(theta).copy_(gradient)
        else:
            theta = theta.detach().resolve_neg().clone(memory_format=torch.contiguous_format)
            gradient = torch.empty_like(theta).copy_(gradient)
            back.append((work.parameter, theta))
        for name in self._states:
            value = state[name]
            like = value if name in self._scalars else theta
            if (
                value.dtype is not self._compute
                or value.device != self._device
                or value.is_neg()
                or value.stride() != like.stride()
            ):
                # Loaded, or the model has changed its precision, layout or device since.
                new = torch.empty_like(like, dtype=self._compute, device=self._device)
                state[name] = new.copy_(value)
        return work._replace(parameter=theta, gradient=gradient)


def _dense(x: Tensor) -> bool:
    """Whether the elements lie without gaps and overlaps, in any order."""
    expected = 1
    for stride, size in sorted(zip(x.stride(), x.shape, strict=True)):
        if size > 1:
            if stride != expected:
                return False
            expected *= size
    return True
