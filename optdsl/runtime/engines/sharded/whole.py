"""Steps on whole tensors of which each rank has a shard: rules of matrices, or of norms of tensors.

Tensors are dealt out to the ranks (`optdsl.runtime.engines.sharded.dealing`). Where that is not
known of how a tensor is placed, every rank gathers the parameter, its gradient and its states,
takes the whole step, and keeps its own shards of the results: a collective for each of these
tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.program import Program
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import Engine, HyperGradients, ParameterTask, Place, Shape
from optdsl.runtime.distributed.boxes import is_boxed
from optdsl.runtime.distributed.collectives import is_dtensor, whole_prefix
from optdsl.runtime.engines.eager import EagerEngine
from optdsl.runtime.engines.sharded import shards
from optdsl.runtime.engines.sharded.dealing import Deal
from optdsl.runtime.engines.sharded.owners import owners
from optdsl.runtime.engines.sharded.shards import (
    ShardEngine,
    filed,
    needs_whole,
    placed_gradient,
    shard,
)


def whole_engine(inner: Engine, program: Program, parameter: Any) -> ShardEngine:
    """An engine for DTensors that are placed on the mesh of this one, and as it is.

    Args:
        inner: the engine for whole tensors.
        program: what it runs.
        parameter: the DTensor.
    """
    boxed = is_boxed(parameter)
    prefix = whole_prefix(parameter, everywhere=not boxed)
    return DealingEngine(inner, prefix, program) if boxed else WholeEngine(inner, prefix)


class WholeEngine(ShardEngine):
    """Runs an engine on gathered tensors; its sums count on the first rank alone."""

    def _opened(
        self, works: Sequence[ParameterTask]
    ) -> AbstractContextManager[list[ParameterTask]]:
        return _gathered(works)

    def _own(self, known: StepCache) -> StepCache:
        """An empty one: the tensors are others at every step."""
        return StepCache()


class DealingEngine(WholeEngine):
    """Runs an engine on the tensors that this rank owns; the sums of all ranks count."""

    def __init__(self, inner: Engine, prefix: str | None, program: Program) -> None:
        """See `whole_engine`."""
        super().__init__(inner, prefix)
        self._program = program
        self._owners: dict[tuple[tuple[tuple[int, ...], ...], int], tuple[int, ...]] = {}

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Of the tensors that this rank owns; no step is taken."""
        with self._dealt(works, None) as own:
            return filed(self._inner.complete(own, self._own(known)), self._prefix)

    def _opened(
        self, works: Sequence[ParameterTask]
    ) -> AbstractContextManager[list[ParameterTask]]:
        return self._dealt(works, self.shape)

    def _dealt(
        self, works: Sequence[ParameterTask], shape: Shape | None
    ) -> AbstractContextManager[list[ParameterTask]]:
        return _dealt(works, self._assigned, shape)

    def _assigned(self, shapes: Sequence[tuple[int, ...]], ranks: int) -> tuple[int, ...]:
        key = tuple(shapes), ranks
        if key not in self._owners:
            self._owners[key] = owners(self._program, shapes, ranks)
        return self._owners[key]


@contextmanager
def opened_whole(program: Program, works: Sequence[ParameterTask]) -> Iterator[list[ParameterTask]]:
    """The whole tensors of works of one mesh, for something else than a step.

    Args:
        program: what is done with them.
        works: tasks of DTensors that are placed alike, on all ranks in the same order.

    Returns:
        Those that this rank is to work on; the states and parameters that they have then are
        dealt out.
    """
    if is_boxed(works[0].parameter):
        opened = _dealt(works, functools.partial(owners, program), None)
    else:
        opened = _gathered(works)
    with opened as own:
        yield own


def gathered(program: Program, works: Sequence[ParameterTask]) -> list[ParameterTask]:
    """The whole tensors of works, as `opened_whole`; nothing is dealt out afterwards."""
    if works[0].parameter.device_mesh.get_coordinate() is None:  # type: ignore[attr-defined]
        return []
    if is_boxed(works[0].parameter):
        return Deal(works, functools.partial(owners, program)).gathered()
    return _whole(works)


def begun(engine: EagerEngine, program: Program, work: ParameterTask) -> None:
    """Give a parameter the states before its first step; a DTensor's are placed as it is.

    Args:
        engine: the engine for plain tensors.
        program: what it runs.
        work: the task.
    """
    if not is_dtensor(work.parameter) or not needs_whole(program, work.parameter):
        shards.begun(engine, work)
        return
    with opened_whole(program, [work]) as own:
        engine.begin(own)


def evaluated(
    point: Callable[[ParameterTask], Tensor], program: Program, work: ParameterTask
) -> None:
    """Put the point at which the model is evaluated into a parameter; of a DTensor, into its shard.

    Args:
        point: computes it for plain tensors, from the parameter as it is trained (the `gradient`
            of a task) and the states.
        program: the rule whose point it is.
        work: the task.
    """
    if not is_dtensor(work.parameter) or not needs_whole(program, work.parameter, program.points):
        shards.evaluated(point, work)
        return
    with opened_whole(program, [work]) as own:
        for task in own:
            task.parameter.copy_(point(task))
    torch.autograd.graph.increment_version([work.parameter])


@contextmanager
def _dealt(
    works: Sequence[ParameterTask],
    assign: Callable[[Sequence[tuple[int, ...]], int], Sequence[int]],
    shape: Shape | None,
) -> Iterator[list[ParameterTask]]:
    """The whole tensors that this rank owns; what happens to them is dealt back."""
    # A rank outside the mesh has no part of its tensors.
    if not works or works[0].parameter.device_mesh.get_coordinate() is None:  # type: ignore[attr-defined]
        yield []
        return
    deal = Deal(works, assign)
    own = deal.gathered()
    yield own
    deal.dealt_back(own, shape)


@contextmanager
def _gathered(works: Sequence[ParameterTask]) -> Iterator[list[ParameterTask]]:
    """The whole tensors of works; what happens to them happens to the shards of this rank."""
    whole = _whole(works)
    yield whole
    for work, done in zip(works, whole, strict=True):
        shard(work.parameter).copy_(shard(_shared_out(done.parameter, work.parameter)))
        for key in work.state.keys() - done.state.keys():
            del work.state[key]
        for key, value in done.state.items():
            kept: Any = work.state.get(key)
            if not isinstance(value, Tensor) or value.shape != work.parameter.shape:
                work.state[key] = value
            elif is_dtensor(kept):
                shard(kept).copy_(shard(_shared_out(value, work.parameter)))
            else:
                work.state[key] = _shared_out(value, work.parameter)


def _whole(works: Sequence[ParameterTask]) -> list[ParameterTask]:
    """The whole tensors of works, on every rank."""
    whole = []
    for work in works:
        state = {k: v.full_tensor() if is_dtensor(v) else v for k, v in work.state.items()}
        parameter: Any = work.parameter
        gradient: Any = placed_gradient(work)
        tensors = (parameter.detach().full_tensor(), gradient.full_tensor())
        place = Place.of_all(parameter)
        whole.append(ParameterTask(*tensors, state, work.hypers, work.draws, place))
    return whole


def _shared_out(value: Tensor, like: Any) -> Any:
    """A whole tensor, the same on every rank, placed as a parameter is; nothing is sent."""
    from torch.distributed.tensor import DTensor, Replicate

    mesh = like.device_mesh
    everywhere = [Replicate()] * mesh.ndim
    found: Any = DTensor.from_local(value, mesh, everywhere, run_check=False)
    return found.redistribute(placements=like.placements)
