"""Whole tensors are dealt out to the ranks that have shards of them, worked on, and dealt back.

Each tensor has an owner, a rank of its mesh. The others send it their shards of the parameter, of
the gradient and of the states, and get back their shards of the results: two collectives, however
many tensors there are. Every state that has a dimension stays in shards, placed along the longest
dimension where it has not the shape of the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.core.tasks import COMPUTE, PENDING_HYPERS, ParameterTask, Place, Shape
from optdsl.runtime.distributed.boxes import box, coordinates, is_boxed, placed, sends
from optdsl.runtime.distributed.collectives import group_of, is_dtensor
from optdsl.runtime.distributed.exchange import exchange
from optdsl.runtime.engines.sharded.shards import placed_gradient, shard

# Numbers of a state that every rank has, and that are on the host.
_NUMBERS = ("step", PENDING_HYPERS)


class _Kept(NamedTuple):
    """A state after a step, as its owner tells the other ranks; `value` only of numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    value: Tensor | None


class Deal:
    """What a step does with whole tensors of one mesh, each of which one rank works on."""

    def __init__(
        self,
        works: Sequence[ParameterTask],
        assign: Callable[[Sequence[tuple[int, ...]], int], Sequence[int]],
    ) -> None:
        """Assign owners.

        Args:
            works: tasks of boxed DTensors of one mesh; all ranks have the same in the same order.
            assign: the owner of each of some shapes, among so many ranks.
        """
        self._works = works
        mesh = works[0].parameter.device_mesh  # type: ignore[attr-defined]
        self._group = group_of(mesh)
        ranks = tuple(torch.distributed.get_process_group_ranks(self._group))
        self._coordinates = coordinates(mesh, ranks)
        self._own = torch.distributed.get_rank(self._group)
        self._owners = assign([tuple(work.parameter.shape) for work in works], len(ranks))
        self._device = shard(works[0].parameter).device

    def gathered(self) -> list[ParameterTask]:
        """The tasks of the tensors that this rank owns, with whole tensors: one collective."""
        given: list[list[Tensor]] = [[] for _ in self._coordinates]
        wanted: list[list[Tensor]] = [[] for _ in self._coordinates]
        whole = []
        for work, owner in zip(self._works, self._owners, strict=True):
            parts: dict[str, Any] = {"theta": work.parameter.detach(), "g": placed_gradient(work)}
            parts |= {f"state {key}": work.state[key] for key in _spread(work)}
            for part in parts.values():
                if sends(part, self._coordinates[self._own]):
                    given[owner].append(shard(part))
            if owner != self._own:
                continue
            tensors = {name: shard(x).new_empty(tuple(x.shape)) for name, x in parts.items()}
            for rank, at in enumerate(self._coordinates):
                for name, part in parts.items():
                    if sends(part, at):
                        wanted[rank].append(tensors[name][box(part, at)])
            state = {key: tensors.get(f"state {key}", x) for key, x in work.state.items()}
            both = tensors["theta"], tensors["g"]
            place = Place.of_all(tensors["theta"])
            whole.append(ParameterTask(*both, state, work.hypers, work.draws, place))
        exchange(given, wanted, self._group, self._device)
        return whole

    def dealt_back(self, done: Sequence[ParameterTask], shape: Shape | None) -> None:
        """Every rank's shards of the results: one collective.

        Where states may have become others, as in first steps, the owners tell what they are,
        which takes another exchange of objects.

        Args:
            done: the tasks of `gathered`, after what was done.
            shape: of the states of the rule, if a step was taken; else None.
        """
        given: list[list[Tensor]] = [[] for _ in self._coordinates]
        wanted: list[list[Tensor]] = [[] for _ in self._coordinates]
        here = self._coordinates[self._own]
        results = iter(done)
        kept = self._kept(done, shape)
        for work, owner, of_state in zip(self._works, self._owners, kept, strict=True):
            result = next(results) if owner == self._own else None
            _set_numbers(work, of_state, result)
            keys = sorted(of_state.keys() - set(_NUMBERS))
            targets: list[Any] = [work.parameter]
            targets += [_place(work, key, of_state[key], here) for key in keys]
            wanted[owner] += [shard(x) if is_dtensor(x) else x for x in targets]
            if result is None:
                continue
            sources = [result.parameter, *(result.state[key] for key in keys)]
            for target, source in zip(targets, sources, strict=True):
                for rank, at in enumerate(self._coordinates):
                    given[rank].append(source[box(target, at)] if is_dtensor(target) else source)
        exchange(given, wanted, self._group, self._device)

    def _kept(self, done: Sequence[ParameterTask], shape: Shape | None) -> list[dict[str, _Kept]]:
        """The states of all tasks after what was done."""
        if shape is not None and all(_is_settled(work, shape) for work in self._works):
            return [
                {
                    key: _Kept(tuple(x.shape), x.dtype, x + 1 if key == "step" else None)
                    for key, x in work.state.items()
                }
                for work in self._works
            ]
        own = [
            {
                key: _Kept(tuple(x.shape), x.dtype, x.clone() if key in _NUMBERS else None)
                for key, x in task.state.items()
            }
            for task in done
        ]
        found: list[Any] = [None] * len(self._coordinates)
        torch.distributed.all_gather_object(found, own, group=self._group)
        told: list[Iterator[dict[str, _Kept]]] = [iter(some) for some in found]
        return [next(told[owner]) for owner in self._owners]


def _spread(work: ParameterTask) -> list[str]:
    """The states of a parameter that are in shards, in the same order on every rank.

    Raises:
        RuntimeError: where one is placed as no step leaves it.
    """
    parameter: Any = work.parameter
    keys = sorted(key for key, x in work.state.items() if is_dtensor(x))
    for key in keys:
        x: Any = work.state[key]
        if x.device_mesh != parameter.device_mesh or not is_boxed(x):
            raise RuntimeError(
                f"the state {key!r} of a DTensor parameter is not placed on the parameter's mesh; "
                f"load checkpoints with torch.distributed.checkpoint.state_dict"
            )
    return keys


def _is_settled(work: ParameterTask, shape: Shape) -> bool:
    """Whether a step leaves the states of a parameter as they are, but for their numbers."""
    compute = COMPUTE[work.parameter.dtype]
    state = {key: x for key, x in work.state.items() if key not in _NUMBERS}
    return (
        work.state.keys() == (shape.complete if shape.pending is None else shape.pending)
        and PENDING_HYPERS not in work.state
        and all(
            key in shape.coded or torch.promote_types(x.dtype, compute) is x.dtype
            for key, x in state.items()
        )
        and all(is_dtensor(x) or not x.ndim for x in state.values())
    )


def _set_numbers(work: ParameterTask, kept: dict[str, _Kept], result: ParameterTask | None) -> None:
    """Give a state the numbers that it has after a step, and take away what it has no more."""
    for key in work.state.keys() - kept.keys():
        del work.state[key]
    for key in _NUMBERS:
        if key not in kept:
            continue
        if result is not None:
            work.state[key] = result.state[key]
        elif key in work.state and work.state[key].shape == kept[key].shape:
            work.state[key].copy_(kept[key].value)
        else:
            value = kept[key].value
            assert value is not None
            work.state[key] = value.clone()


def _place(work: ParameterTask, key: str, kept: _Kept, coordinate: Sequence[int]) -> Any:
    """Where a rank keeps its part of a state; numbers without dimensions are the same on all."""
    parameter: Any = work.parameter
    present: Any = work.state.get(key)
    wanted = is_dtensor(present) or not kept.shape
    if present is not None and wanted and (present.shape, present.dtype) == kept[:2]:
        return present
    local = shard(parameter)
    if not kept.shape:
        work.state[key] = torch.empty((), dtype=kept.dtype, device=local.device)
        return work.state[key]
    whole = torch.empty(kept.shape, dtype=kept.dtype, device="meta")
    like = _Like(parameter.device_mesh, placements(kept.shape, parameter), kept.shape)
    part = whole[box(like, coordinate)].shape
    empty = torch.empty(part, dtype=kept.dtype, device=local.device)
    work.state[key] = placed(empty, kept.shape, whole.stride(), like)
    return work.state[key]


class _Like(NamedTuple):
    """How a DTensor is placed."""

    device_mesh: Any
    placements: Sequence[Any]
    shape: tuple[int, ...]


def placements(shape: Sequence[int], parameter: Any) -> Sequence[Any]:
    """How a state of a parameter is placed: where it has another shape, along its longest side."""
    from torch.distributed.tensor import Shard

    if tuple(shape) == tuple(parameter.shape):
        return parameter.placements  # type: ignore[no-any-return]
    longest = Shard(max(range(len(shape)), key=lambda dim: shape[dim]))
    return tuple(longest if p.is_shard() else p for p in parameter.placements)
