"""Steps on the shards that a rank has of DTensors.

A state that has the shape of its parameter is a DTensor with the parameter's placements, so that
`torch.distributed.checkpoint` can save and load it. Numbers, such as the count of steps, are plain
tensors, the same on every rank.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE, stages
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.sections import of_matrices
from optdsl.ir.types import Extent
from optdsl.runtime.core.draws import Draws
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import (
    PENDING_HYPERS,
    Engine,
    HyperGradients,
    ParameterTask,
    Place,
)
from optdsl.runtime.distributed.collectives import is_dtensor, prefix
from optdsl.runtime.engines import completion as migrate
from optdsl.runtime.engines.eager import EagerEngine


class ShardEngine:
    """Runs an engine on the shards that this rank has; see `optdsl.runtime.core.tasks.Engine`.

    Its sums are under keys that `over_ranks` understands.
    """

    def __init__(self, inner: Engine, prefix: str | None) -> None:
        """Run `inner` on shards whose sums have this `prefix`."""
        self.plan, self.shape = inner.plan, inner.shape
        self._inner = inner
        self._places = inner.plan.sample > 1
        self._prefix = prefix

    def complete(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Of the shards."""
        with self._opened(works) as local:
            return filed(self._inner.complete(local, self._own(known)), self._prefix)

    def advance(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """Of the shards."""
        with self._opened(works) as local:
            self._inner.advance(local, self._own(known))
        _written(works)

    def advance_completed(self, works: Sequence[ParameterTask], known: StepCache) -> None:
        """Of the shards."""
        with self._opened(works) as local:
            self._inner.advance_completed(local, self._own(known))
        _written(works)

    def fused(self, works: Sequence[ParameterTask], known: StepCache) -> HyperGradients:
        """Of the shards."""
        with self._opened(works) as local:
            sums = self._inner.fused(local, self._own(known))
        _written(works)
        return filed(sums, self._prefix)

    def _opened(
        self, works: Sequence[ParameterTask]
    ) -> AbstractContextManager[list[ParameterTask]]:
        """What the inner engine works on; what happens to it happens to the DTensors."""
        return _opened(works, self._places)

    def _own(self, known: StepCache) -> StepCache:
        """What the inner engine keeps for shards, apart from what it keeps for plain tensors."""
        return known.get(StepCache, self)


def needs_whole(
    program: Program, parameter: Tensor, values: tuple[Value, ...] | None = None
) -> bool:
    """Whether a rule looks at a whole tensor of which ranks have parts.

    Args:
        program: the rule.
        parameter: the tensor, a DTensor.
        values: what is computed, if it is not all.
    """
    placed: Any = parameter
    sizes = placed.device_mesh.shape
    whole = all(p.is_replicate() or n == 1 for p, n in zip(placed.placements, sizes, strict=True))
    return not whole and looks_at_wholes(program, values)


def looks_at_wholes(program: Program, values: tuple[Value, ...] | None = None) -> bool:
    """Whether some values of a program, or any, are not computed element by element."""
    kept = {s.type.extent for s in program.states}
    read: Sequence[Operation] = program.operations
    if values is not None:
        read = [program.operations[value] for value in program.needed(values)]
        kept = {o.type.extent for o in read if TABLE[o.opcode].stage is Stage.BUFFER}
    # A shard has rows and columns of its own, which are not those of the matrix.
    mixes = any(stage.mixes or stage.of_matrices for stage in stages(read))
    own = of_matrices(program.kind) and kept & {Extent.SCALAR, Extent.AXES}
    return mixes or bool(own)


def check_whole(program: Program, parameter: Tensor) -> None:
    """Refuse to complete a step of a rule that looks at a whole tensor of which ranks have parts.

    Raises:
        RuntimeError: with what to do.
    """
    if needs_whole(program, parameter):
        raise RuntimeError(
            f"{program.name} looks at tensors as a whole, and the last step of a parameter of "
            f"shape {tuple(parameter.shape)} in shards was left pending by another backend; load "
            f"what this backend has saved"
        )


def completed(program: Program, work: ParameterTask) -> HyperGradients:
    """As `migrate.completed`, of a DTensor too."""
    if not is_dtensor(work.parameter):
        return migrate.completed(program, work)
    check_whole(program, work.parameter)
    with _opened([work], program.sample > 1) as (local,):
        return filed(migrate.completed(program, local), prefix(work.parameter))


def products(program: Program, work: ParameterTask) -> HyperGradients:
    """As `migrate.products`; of a DTensor, those of the shard that this rank has."""
    if not is_dtensor(work.parameter):
        return migrate.products(program, work)
    with _opened([work], program.sample > 1) as (local,):
        return migrate.products(program, local)


def begun(engine: EagerEngine, work: ParameterTask) -> None:
    """Give a parameter the states before its first step; a DTensor's are placed as it is."""
    if not is_dtensor(work.parameter):
        engine.begin([work])
        return
    with _opened([work]) as local:
        engine.begin(local)


def evaluated(point: Callable[[ParameterTask], Tensor], work: ParameterTask) -> None:
    """Put the point at which the model is evaluated into a parameter; of a DTensor, into its shard.

    Args:
        point: computes it for plain tensors, from the parameter as it is trained (the `gradient`
            of a task) and the states.
        work: the task.
    """
    if not is_dtensor(work.parameter):
        work.parameter.copy_(point(work))
        return
    with _opened([work]) as (local,):
        local.parameter.copy_(point(local))
    _written([work])


def filed(sums: HyperGradients, prefix: str | None) -> HyperGradients:
    """Sums under keys that `over_ranks` understands; none where another rank's count."""
    return {} if prefix is None else {prefix + name: value for name, value in sums.items()}


@contextmanager
def _opened(works: Sequence[ParameterTask], places: bool = False) -> Iterator[list[ParameterTask]]:
    """The shards of works; what happens to their states happens to those of the DTensors.

    Args:
        works: tasks of DTensors.
        places: whether tasks say where the shards are in the whole tensors.
    """
    wrapped: dict[int, Any] = {}
    states: dict[int, dict[str, Any]] = {}
    local = []
    for work in works:
        if id(work.state) not in states:
            states[id(work.state)] = _state_of_shard(work, wrapped)
        theta, gradient = shard(work.parameter), shard(placed_gradient(work))
        drawn = of_shard(work.draws, work.parameter)
        place = place_of(work.parameter, _SAMPLED) if places else None
        state = states[id(work.state)]
        local.append(ParameterTask(theta, gradient, state, work.hypers, drawn, place))
    try:
        yield local
    finally:
        for work, part in zip(works, local, strict=True):
            for key in work.state.keys() - part.state.keys():
                del work.state[key]
            for key, value in part.state.items():
                known = wrapped.get(id(value))
                work.state[key] = _wrapped(key, value, work, part) if known is None else known


def _state_of_shard(work: ParameterTask, wrapped: dict[int, Any]) -> dict[str, Any]:
    """The state of a shard; `wrapped` receives the DTensors by the identity of their shards."""
    parameter: Any = work.parameter
    state: dict[str, Any] = {}
    for key, value in work.state.items():
        if _is_number(key, value, parameter):
            state[key] = value
            wrapped[id(value)] = value
            continue
        own = value.shape == parameter.shape  # others are of rows, say, and are not read here
        if own and not (is_dtensor(value) and value.placements == parameter.placements):
            raise RuntimeError(
                f"the state {key!r} of a DTensor parameter is not placed as the parameter is; "
                f"load checkpoints with torch.distributed.checkpoint.state_dict"
            )
        state[key] = shard(value)
        wrapped[id(state[key])] = value
    return state


def placed_gradient(work: ParameterTask) -> Tensor:
    """The gradient, placed as the parameter is."""
    parameter: Any = work.parameter
    gradient: Any = work.gradient
    if not is_dtensor(gradient):
        raise RuntimeError("the gradient of a DTensor parameter is a plain tensor")
    if gradient.placements != parameter.placements:
        # Not yet summed over the ranks, say; torch's own optimizers do this implicitly.
        gradient = gradient.redistribute(placements=parameter.placements)
    return gradient  # type: ignore[no-any-return]


def _is_number(key: str, value: Any, parameter: Tensor) -> bool:
    """Whether a state is the same on every rank, and no tensor in shards."""
    if not isinstance(value, Tensor) or key in {"step", PENDING_HYPERS}:
        return True
    return not is_dtensor(value) and value.shape != parameter.shape


def _wrapped(key: str, value: Any, work: ParameterTask, part: ParameterTask) -> Any:
    """What a shard's state has got, as the DTensor's state keeps it."""
    from torch.distributed.tensor import DTensor

    parameter: Any = work.parameter
    own = isinstance(value, Tensor) and key not in {"step", PENDING_HYPERS}
    if not own or value.shape != part.parameter.shape:
        return value
    return DTensor.from_local(
        value,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


_DRAWN = "random numbers are drawn", "take a rule that draws nothing"
_SAMPLED = "elements are sampled", "learn without a sample"


def of_shard(draws: Draws | None, parameter: Any) -> Draws | None:
    """What draws the random numbers of the shard that this rank has of a DTensor.

    Raises:
        RuntimeError: as `place_of`.
    """
    if draws is None or not is_dtensor(parameter):
        return draws
    place = place_of(parameter, _DRAWN)
    return replace(draws, whole=place.whole, offset=place.offset)


def place_of(parameter: Any, reason: tuple[str, str]) -> Place:
    """Where the shard that this rank has of a DTensor is in the whole tensor.

    Args:
        parameter: the DTensor.
        reason: for the message, what asks for it, and what to do without.

    Raises:
        RuntimeError: where it is not known which elements of the whole tensor a shard has.
    """
    from torch.distributed.tensor import Replicate, Shard

    # A shard of a shard by another rule has elements that do not follow one another.
    if any(type(p) not in {Replicate, Shard} for p in parameter.placements):
        listed = ", ".join(map(str, parameter.placements))
        raise RuntimeError(
            f"{reason[0]} by the index in the whole tensor, which is not known for "
            f"shards placed as {listed}; shard dimensions in the order of the mesh, or {reason[1]}"
        )
    return _place(parameter.shape, parameter.device_mesh, parameter.placements)


@functools.lru_cache(maxsize=4096)
def _place(shape: torch.Size, mesh: Any, placements: tuple[Any, ...]) -> Place:
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

    _, offset = compute_local_shape_and_global_offset(shape, mesh, placements)
    return Place(tuple(shape), tuple(offset))


def shard(x: Any) -> Tensor:
    """The shard of a DTensor, the same object each time."""
    local = x._local_tensor
    # A collective may still be under way.
    return local.wait() if hasattr(local, "wait") else local  # type: ignore[no-any-return]


def _written(works: Sequence[ParameterTask]) -> None:
    """Autograd finds out about the writes as if torch had made them."""
    torch.autograd.graph.increment_version([work.parameter for work in works])
