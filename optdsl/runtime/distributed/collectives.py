"""Training on many ranks: hyper-gradients over all of them.

A hyper-gradient is a dot product over all elements, and every element must count once:

- Of a sharded parameter, each rank counts its own shard.
- Of a replicated parameter, only the first rank of each set of replicas counts.
- A plain parameter beside DTensors is a replica on every rank.

So the sums of each mesh are added up over its ranks, and the sums of plain parameters are added
by the first rank of the largest mesh. Ranks gather each other's numbers and add them in the same
order, so that coefficients are equal to the bit on all ranks, whatever algorithm a backend of
torch.distributed uses.
"""

from __future__ import annotations

import functools
import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optdsl.passes.totals import combined
from optdsl.runtime.core.tasks import HyperGradients

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

_SHARDS = "shards/"
Ranks = tuple[int, ...]


def is_distributed() -> bool:
    """Whether this process is a rank of torch.distributed."""
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def has_other_ranks() -> bool:
    """Whether torch.distributed runs with more than one rank."""
    return is_distributed() and torch.distributed.get_world_size() > 1


def is_spread(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an optimizer has DTensors; parameters are looked at only if there are ranks."""
    if not is_distributed():
        return False
    module = sys.modules.get("torch.distributed.tensor")
    kinds = {kind for group in groups for kind in set(map(type, group["params"]))}
    return module is not None and any(issubclass(kind, module.DTensor) for kind in kinds)


def is_dtensor(x: Tensor) -> bool:
    """Whether a tensor is a DTensor; imports nothing."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def over_ranks(
    parts: Sequence[HyperGradients],
    taken: Sequence[int],
    names: Sequence[str],
    parameters: Iterable[Tensor],
    process_group: ProcessGroup | None,
) -> tuple[list[HyperGradients], list[int]]:
    """Sums over all ranks, and the largest counts of steps of any of them.

    There is one collective for each mesh of `parameters` and one for `process_group`. Each rank
    that calls this enters all of them.

    Args:
        parts: the sums that this rank's engines measured; every rank has as many parts.
        taken: counts of steps of this rank's parameters; every rank has as many.
        names: all names that a part can have on any rank.
        parameters: all parameters of the optimizer, with gradients or without.
        process_group: the ranks whose optimizers are parts of one optimizer.
    """
    keys = [f"{number}:{name}" for number in range(len(parts)) for name in names]
    sums: HyperGradients = {}
    for number, part in enumerate(parts):
        for key, value in part.items():
            # The prefix, if there is one, comes first.
            end = key.index("/", len(_SHARDS)) + 1 if key.startswith(_SHARDS) else 0
            sums[f"{key[:end]}{number}:{key[end:]}"] = value
    counts = list(taken)
    meshes = _meshes(parameters)
    # From small to large: the order must be the same on every rank.
    for ranks in sorted(meshes, key=lambda ranks: (len(ranks), ranks)):
        prefix = _key(ranks)
        own = {k.removeprefix(prefix): v for k, v in sums.items() if k.startswith(prefix)}
        others = {k: v for k, v in sums.items() if not k.startswith(prefix)}
        if torch.distributed.get_rank() == ranks[0]:
            for key in [key for key in keys if key in others]:  # sums over replicas
                own[key] = combined(key, [*([own[key]] if key in own else []), others[key]])
        total, counts = _added(own, counts, keys, group_of(meshes[ranks]))
        sums = {k: v for k, v in others.items() if k.startswith(_SHARDS)} | total
    if process_group is not None:
        sums, counts = _added(sums, counts, keys, process_group)
    return [
        {name: sums[key] for name in names if (key := f"{number}:{name}") in sums}
        for number in range(len(parts))
    ], counts


def _added(
    sums: HyperGradients, taken: Sequence[int], names: Sequence[str], group: Any
) -> tuple[HyperGradients, list[int]]:
    """Sums over the ranks of a group, under the names that some rank has, and largest counts."""
    found = [float(name in sums) for name in names]
    row = [*(sums.get(name, 0.0) for name in names), *found, *map(float, taken)]
    columns = list(zip(*gathered(row, group), strict=True))
    values, present = columns[: len(names)], columns[len(names) : 2 * len(names)]
    total = {
        name: combined(name, itertools.compress(parts, found))
        for name, parts, found in zip(names, values, present, strict=True)
        if any(found)
    }
    return total, [int(max(counts)) for counts in columns[2 * len(names) :]]


def gathered(row: list[float], group: Any) -> list[list[float]]:
    """The rows of all ranks of a group, in the order of the ranks."""
    backends = torch.distributed.get_backend_config(group).split(",")
    kinds = [pair.split(":")[0] for pair in backends]
    device = torch.device("cpu")
    if "cpu" not in kinds:
        device = torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())
    mine = torch.tensor(row, dtype=torch.float64, device=device)
    rows = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(rows, mine, group=group)
    found: list[list[float]] = torch.stack(rows).tolist()
    return found


def partners(
    parameters: Iterable[Tensor], process_group: ProcessGroup | None
) -> list[frozenset[int]]:
    """The sets of ranks over which `over_ranks` adds sums up."""
    found = [frozenset(ranks) for ranks in _meshes(parameters)]
    if process_group is not None:
        found.append(frozenset(torch.distributed.get_process_group_ranks(process_group)))
    return found


# The groups that were made here, each with the default process group of that time.
_groups: dict[Ranks, tuple[Any, Any]] = {}


def group_of(mesh: DeviceMesh) -> Any:
    """The process group of all ranks of a mesh."""
    ranks = _ranks(mesh)
    world = torch.distributed.group.WORLD
    if len(ranks) == torch.distributed.get_world_size():
        return world
    if mesh.ndim == 1:
        return mesh.get_group()
    known, group = _groups.get(ranks, (None, None))
    if known is not world or group is None:
        group = torch.distributed.new_group(list(ranks), use_local_synchronization=True)
        _groups[ranks] = world, group
    return group


@functools.lru_cache(maxsize=64)
def _ranks(mesh: DeviceMesh) -> Ranks:
    return tuple(sorted(mesh.mesh.flatten().tolist()))


def _key(ranks: Ranks) -> str:
    return f"{_SHARDS}{','.join(map(str, ranks))}/"


def _meshes(parameters: Iterable[Any]) -> dict[Ranks, DeviceMesh]:
    """The meshes of DTensors that this rank belongs to, one for each set of ranks."""
    meshes = {p.device_mesh for p in parameters if is_dtensor(p)}
    return {_ranks(m): m for m in meshes if m.get_coordinate() is not None}


def prefix(parameter: Any) -> str | None:
    """The prefix of the keys of a DTensor's sums; None where another rank's replica counts."""
    mesh: DeviceMesh = parameter.device_mesh
    places = mesh.get_coordinate()
    if places is None:
        return None
    for place, placement in zip(places, parameter.placements, strict=True):
        if placement.is_partial():
            raise RuntimeError("a parameter with a Partial placement has no value to step from")
        if placement.is_replicate() and place:
            return None
    return _key(_ranks(mesh))


def whole_prefix(parameter: Any, everywhere: bool) -> str | None:
    """The prefix of the keys of sums of whole DTensors.

    Args:
        parameter: one of them.
        everywhere: whether every rank has the sums of all; they count on the first rank then.
    """
    mesh: DeviceMesh = parameter.device_mesh
    places = mesh.get_coordinate()
    return None if places is None or (everywhere and any(places)) else _key(_ranks(mesh))
