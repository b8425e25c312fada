"""Steps of the same tensors as the step before, which need not be looked at one by one.

Most steps differ from the one before in numbers and in where gradients lie, and in nothing else.
Whether a step does, one call finds out (`optdsl.runtime.engines.looks`). Then what the step before
was sorted into is used again: the engine, the tasks, the table of addresses. All that does not
depend on tensors, such as hyperparameters, is read and checked as in any step.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice, repeat
from typing import Any

from torch import Tensor

from optdsl.runtime.core.owned_numbers import Owned
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PENDING_HYPERS, PLAIN, Engine, ParameterTask
from optdsl.runtime.engines import looks
from optdsl.runtime.engines.c import CEngine
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.looks import Look
from optdsl.runtime.engines.noted_steps import NumbersKept
from optdsl.runtime.engines.prepared import Left, Prepared
from optdsl.runtime.engines.tensor_table import TensorTable
from optdsl.runtime.learning.scopes import Pairs, Part
from optdsl.runtime.torch_api.batches import Batch

# After so many steps the tensors are described, which takes as long as some steps. Where they
# change again and again, it is tried after twice as many each time.
_AFTER, _SELDOM = 4, 2**12
# A part of a step with what is kept for it, and what there is to do.
Job = tuple[Part, StepCache, Mapping[Engine, Batch]]


@dataclass
class _Kept:
    """A step that may be repeated.

    Attributes:
        look: its tensors.
        engine: what ran it.
        pending: whether its parameters have a step pending after it.
        columns: the tensors, as the engine left them, without gradients.
        parameters: those with gradients.
        states: the state of each.
        sizes: how many of them each group has.
        noted: the counts and the `PENDING_HYPERS` of the states.
    """

    look: Look
    engine: CEngine
    pending: bool
    columns: TensorTable
    parameters: Sequence[Tensor]
    states: Sequence[dict[str, Any]]
    sizes: list[int]
    noted: tuple[Owned | None, Owned | None]


@dataclass
class Repeated:
    """Finds out whether a step repeats the one before, and what there is to do if so.

    Attributes:
        kept: the step before; None where it is not known, or while a step is taken.
        waits: how many steps from now on tensors are described.
        wait: how many steps are waited for the next time.
    """

    kept: _Kept | None = None
    waits: int = _AFTER
    wait: int = _AFTER
    _now: tuple[_Kept, list[Tensor], list[int]] | None = field(default=None, repr=False)

    def work(self, optimizer: LearningOptimizer) -> list[Pairs] | None:
        """The parameters with gradients, by group; None where a step is not known to repeat.

        Args:
            optimizer: an optimizer that has taken steps, and gets no inputs at this one.
        """
        kept, self.kept, self._now = self.kept, None, None
        if kept is None:
            return None
        groups, state = optimizer.param_groups, optimizer.state
        held = [group["params"] for group in groups]
        turned = any(group.get("maximize") for group in groups)
        if turned or not isinstance(state, dict) or not all(isinstance(x, list) for x in held):
            return None
        found = kept.look.gradients(state, held)
        if found is None:
            self.waits = self.wait = min(2 * self.wait, _SELDOM)
            return None
        self._now = (kept, *found)
        pairs = zip(kept.parameters, found[0], strict=True)
        return [list(islice(pairs, size)) for size in kept.sizes]

    def job(self, optimizer: LearningOptimizer, part: Part) -> Job:
        """What there is to do in a step that repeats the one before.

        Args:
            optimizer: the optimizer.
            part: the only part of the step.
        """
        assert self._now is not None
        kept, gradients, addresses = self._now
        known = optimizer._known
        known.get(Left, kept.engine).ask()
        numbers = known.get(NumbersKept, kept.engine)
        numbers.steps, numbers.held = kept.noted
        hypers = chain.from_iterable(repeat(values, len(pairs)) for pairs, values in part.work)
        none = repeat(None)
        fields = zip(kept.parameters, gradients, kept.states, hypers, none, none, strict=False)
        works = list(map(tuple.__new__, repeat(ParameterTask), fields))
        columns = kept.columns.with_gradients(gradients, addresses)
        known.get(Prepared, kept.engine).put(works, columns, apart=True, noted=True)
        return part, known, {kept.engine: Batch(works, []) if kept.pending else Batch([], works)}

    def ask(self, jobs: Sequence[Job]) -> None:
        """Before a step that does not repeat the one before: ask what its engine leaves.

        Args:
            jobs: what there is to do.
        """
        self.waits -= 1
        if self.waits > 0 or len(jobs) != 1:
            return
        for _, known, found in jobs:
            for engine in found:
                known.get(Left, engine).ask()

    def keep(self, optimizer: LearningOptimizer, jobs: Sequence[Job]) -> None:
        """After a step: keep it, if it may be repeated.

        Args:
            optimizer: the optimizer.
            jobs: what there was to do.
        """
        now = self._now
        for part, known, found in jobs:
            for engine, batch in found.items():
                left = known.find(Left, engine)
                if left is None or left.columns is None:
                    continue
                if left.works is not batch.pending and left.works is not batch.fresh:
                    continue
                if now is not None:
                    self._again(now[0], known, left)
                elif len(found) == 1 and isinstance(engine, CEngine):
                    self.kept = _described(optimizer, engine, part, left.columns)
                    self.waits = self.wait

    def forget(self, jobs: Sequence[Job]) -> None:
        """After a step, or what became of it: keep no gradients.

        Args:
            jobs: what there was to do.
        """
        self._now = None
        for _, known, found in jobs:
            for engine in found:
                left = known.find(Left, engine)
                if left is not None:
                    left.forget()

    def _again(self, kept: _Kept, known: StepCache, left: Left) -> None:
        numbers = known.get(NumbersKept, kept.engine)
        if left.columns is None or (numbers.steps, numbers.held) != kept.noted:
            return
        for buffers in left.buffers:
            kept.look.exchange(buffers)
        kept.columns = left.columns.with_gradients((), [])
        self.kept = kept


def _described(
    optimizer: LearningOptimizer, engine: CEngine, part: Part, columns: TensorTable
) -> _Kept | None:
    """A step that may be repeated; None if it may not.

    Args:
        optimizer: the optimizer.
        engine: what ran it.
        part: the only part of the step.
        columns: the tensors as it left them.
    """
    if part.key is not None or not _repeats(optimizer) or not looks.available():
        return None
    parameters, states = columns.parameters, columns.states
    pairs = list(chain.from_iterable(pairs for pairs, _ in part.work))
    if len(pairs) != len(parameters) or any(columns.places):
        return None
    held = [group["params"] for group in optimizer.param_groups]
    names = states[0].keys()
    alike = all(type(state) is dict and state.keys() == names for state in states)
    kinds = set(map(type, chain.from_iterable(held)))
    if not alike or not kinds.issubset(PLAIN):
        return None
    tensors = {name: [state[name] for state in states] for name in names}
    numbers = optimizer._known.get(NumbersKept, engine)
    noted = numbers.steps, numbers.held if PENDING_HYPERS in names else None
    for name, owned in zip(("step", PENDING_HYPERS), noted, strict=True):
        own = tensors.get(name, [])
        if owned is None or len(own) != len(owned.tensors):
            if own:
                return None
        elif not all(map(operator.is_, own, owned.tensors)):
            return None
    try:
        look = Look(
            optimizer.state,
            held,
            {"theta": parameters, **tensors},
            ["theta", *engine.layout.states],
        )
    except ValueError:
        return None
    pending = names == engine.shape.pending
    bare, sizes = columns.with_gradients((), []), [len(pairs) for pairs, _ in part.work]
    return _Kept(look, engine, pending, bare, parameters, states, sizes, noted)


def _repeats(optimizer: LearningOptimizer) -> bool:
    """Whether what a step does is decided by what `Look` looks at, and numbers."""
    compiled = optimizer.compiled
    rule = compiled.program
    divided = compiled.parts.divided or compiled.scopes.finest != "optimizer"
    return not (divided or compiled.draws or rule.axes)
