"""Training on many ranks: parameters in shards, and hyper-gradients over all of them.

A step runs on the shard of each rank. A state that has the shape of its parameter is a DTensor
with the parameter's placements, so that `torch.distributed.checkpoint` can save and load it;
numbers such as the count of steps are plain tensors, the same on every rank.

A hyper-gradient is a dot product over all elements, and every element must count once:

- Of a sharded parameter, each rank has its own share.
- Of a replicated one, all ranks have all: only the first of each set of replicas counts.
- A plain parameter beside sharded ones is a replica on every rank.

So the sums of a mesh are added up over its ranks, and the others go with the first rank of the
largest mesh. Ranks exchange rows of numbers, and each adds them in the same order: coefficients are
the same to the bit everywhere, whatever algorithm a backend uses.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optdsl.ir.program import Program
from optdsl.runtime import migrate
from optdsl.runtime.engines import PENDING_HYPERS, Engine, Known, Sums, Work

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

_SHARDS = "shards/"
Ranks = tuple[int, ...]


def is_spread(groups: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an optimizer has DTensors; costs nothing where there are no ranks."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    module = sys.modules.get("torch.distributed.tensor")
    kinds = {kind for group in groups for kind in set(map(type, group["params"]))}
    return module is not None and any(issubclass(kind, module.DTensor) for kind in kinds)


def is_dtensor(x: Tensor) -> bool:
    """Whether a tensor is a DTensor; imports nothing."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


class ShardEngine:
    """Runs an engine on the shards that this rank has; see `optdsl.runtime.engines.Engine`.

    Its sums are under keys that `over_ranks` understands.
    """

    def __init__(self, inner: Engine, prefix: str | None) -> None:
        """Run `inner` on shards whose sums have this `prefix`."""
        self.plan, self.shape = inner.plan, inner.shape
        self._inner = inner
        self._prefix = prefix

    def settle(self, works: Sequence[Work], known: Known) -> Sums:
        """Of the shards."""
        with _opened(works) as local:
            return _filed(self._inner.settle(local, self._own(known)), self._prefix)

    def take(self, works: Sequence[Work], known: Known) -> None:
        """Of the shards."""
        with _opened(works) as local:
            self._inner.take(local, self._own(known))
        _written(works)

    def take_settled(self, works: Sequence[Work], known: Known) -> None:
        """Of the shards."""
        with _opened(works) as local:
            self._inner.take_settled(local, self._own(known))
        _written(works)

    def settle_and_take(self, works: Sequence[Work], known: Known) -> Sums:
        """Of the shards."""
        with _opened(works) as local:
            sums = self._inner.settle_and_take(local, self._own(known))
        _written(works)
        return _filed(sums, self._prefix)

    def _own(self, known: Known) -> Known:
        """What the inner engine keeps for shards, apart from what it keeps for plain tensors."""
        own: Known = known.setdefault(self, {})
        return own


def check_whole(program: Program, parameter: Tensor) -> None:
    """Refuse a rule that looks at a whole tensor where ranks have parts of it.

    Raises:
        RuntimeError: with what to do.
    """
    placed: Any = parameter
    sizes = placed.device_mesh.shape
    whole = all(p.is_replicate() or n == 1 for p, n in zip(placed.placements, sizes, strict=True))
    if not whole and any(operation.opcode in {"sum", "mean"} for operation in program.operations):
        raise RuntimeError(
            f"{program.name} takes sums or means over a tensor, and a parameter of shape "
            f"{tuple(parameter.shape)} is in shards on several ranks; replicate it, or leave it "
            f"to another optimizer"
        )


def completed(program: Program, work: Work) -> Sums:
    """As `migrate.completed`, of a DTensor too."""
    if not is_dtensor(work.parameter):
        return migrate.completed(program, work)
    check_whole(program, work.parameter)
    with _opened([work]) as (local,):
        return _filed(migrate.completed(program, local), prefix(work.parameter))


def over_ranks(
    parts: Sequence[Sums],
    taken: Sequence[int],
    names: Sequence[str],
    parameters: Iterable[Tensor],
    process_group: ProcessGroup | None,
) -> tuple[list[Sums], list[int]]:
    """Sums over all ranks, and the largest counts of steps of any of them.

    One collective for each set of ranks that `parameters` have meshes of, and one for
    `process_group`: each rank that calls this enters all of them.

    Args:
        parts: what this rank's engines measured; every rank has as many.
        taken: how many steps parameters of this rank have taken; every rank has as many.
        names: all that can be in a part on any rank.
        parameters: all of the optimizer, with gradients or without.
        process_group: the ranks whose optimizers are parts of one.
    """
    keys = [f"{number}:{name}" for number in range(len(parts)) for name in names]
    sums: Sums = {}
    for number, part in enumerate(parts):
        for key, value in part.items():
            prefix, name = _split(key)
            sums[f"{prefix}{number}:{name}"] = value
    counts = list(taken)
    meshes = _meshes(parameters)
    # From small to large, the same way on every rank.
    for ranks in sorted(meshes, key=lambda ranks: (len(ranks), ranks)):
        prefix = _key(ranks)
        own = {k.removeprefix(prefix): v for k, v in sums.items() if k.startswith(prefix)}
        others = {k: v for k, v in sums.items() if not k.startswith(prefix)}
        if torch.distributed.get_rank() == ranks[0]:
            # Replicas, all of these.
            for key in keys:
                if key in others:
                    own[key] = own.get(key, 0.0) + others[key]
        total, counts = _added(own, counts, keys, _group(ranks, meshes[ranks]))
        sums = {k: v for k, v in others.items() if k.startswith(_SHARDS)} | total
    if process_group is not None:
        sums, counts = _added(sums, counts, keys, process_group)
    return [
        {name: sums[key] for name in names if (key := f"{number}:{name}") in sums}
        for number in range(len(parts))
    ], counts


def everywhere(
    flags: Sequence[bool], parameters: Iterable[Tensor], process_group: ProcessGroup | None
) -> list[bool]:
    """For each flag, whether it is true on some rank; every rank calls this at the same time."""
    names = [str(number) for number in range(len(flags))]
    sums = {name: 1.0 for name, flag in zip(names, flags, strict=True) if flag}
    # As replicas, only the first rank's would count: so they are filed as shares of each mesh.
    parameters = list(parameters)
    for ranks in _meshes(parameters):
        sums |= {_key(ranks) + name: 1.0 for name in names if name in sums}
    (total,), _ = over_ranks([sums], [], names, parameters, process_group)
    return [name in total for name in names]


def _added(
    sums: Sums, taken: Sequence[int], names: Sequence[str], group: Any
) -> tuple[Sums, list[int]]:
    """Sums over the ranks of a group: those that some rank has."""
    found = [float(name in sums) for name in names]
    row = [*(sums.get(name, 0.0) for name in names), *found, *map(float, taken)]
    columns = list(zip(*gathered(row, group), strict=True))
    values, present = columns[: len(names)], columns[len(names) : 2 * len(names)]
    total = {n: sum(v) for n, v, p in zip(names, values, present, strict=True) if any(p)}
    return total, [int(max(counts)) for counts in columns[2 * len(names) :]]


def gathered(row: list[float], group: Any) -> list[list[float]]:
    """The rows of all ranks, in their order."""
    device = _device(group)
    mine = torch.tensor(row, dtype=torch.float64, device=device)
    rows = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size(group))]
    torch.distributed.all_gather(rows, mine, group=group)
    found: list[list[float]] = torch.stack(rows).tolist()
    return found


def _device(group: Any) -> torch.device:
    """Where a group exchanges tensors."""
    kinds = [pair.split(":")[0] for pair in torch.distributed.get_backend_config(group).split(",")]
    if "cpu" in kinds:
        return torch.device("cpu")
    return torch.device(kinds[0], torch.get_device_module(kinds[0]).current_device())


# Groups made here, with the world of processes that they belong to.
_groups: dict[Ranks, tuple[Any, Any]] = {}


def _group(ranks: Ranks, mesh: DeviceMesh) -> Any:
    """The process group of a mesh as a whole."""
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


def _split(key: str) -> tuple[str, str]:
    """The prefix of a key of sums, empty for a plain tensor's, and the name."""
    end = key.index("/", len(_SHARDS)) + 1 if key.startswith(_SHARDS) else 0
    return key[:end], key[end:]


def _meshes(parameters: Iterable[Any]) -> dict[Ranks, DeviceMesh]:
    """The meshes of DTensors that this rank belongs to, one for each set of ranks."""
    meshes = {p.device_mesh for p in parameters if is_dtensor(p)}
    return {_ranks(m): m for m in meshes if m.get_coordinate() is not None}


def prefix(parameter: Any) -> str | None:
    """Under what a DTensor's sums are filed; None where another rank's count instead."""
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


def _filed(sums: Sums, prefix: str | None) -> Sums:
    return {} if prefix is None else {prefix + name: value for name, value in sums.items()}


@contextmanager
def _opened(works: Sequence[Work]) -> Iterator[list[Work]]:
    """The shards of works; what happens to their states happens to those of the DTensors."""
    wrapped: dict[int, Any] = {}
    states: dict[int, dict[str, Any]] = {}
    local = []
    for work in works:
        if id(work.state) not in states:
            states[id(work.state)] = _state_of_shard(work, wrapped)
        local.append(
            Work(
                shard(work.parameter),
                shard(_gradient(work)),
                states[id(work.state)],
                work.hypers,
            )
        )
    try:
        yield local
    finally:
        for work, part in zip(works, local, strict=True):
            for key in work.state.keys() - part.state.keys():
                del work.state[key]
            for key, value in part.state.items():
                known = wrapped.get(id(value))
                work.state[key] = _wrapped(key, value, work, part) if known is None else known


def _state_of_shard(work: Work, wrapped: dict[int, Any]) -> dict[str, Any]:
    """The state of a shard; `wrapped` receives the DTensors by the identity of their shards."""
    parameter: Any = work.parameter
    state: dict[str, Any] = {}
    for key, value in work.state.items():
        if _is_number(key, value, parameter):
            state[key] = value
            wrapped[id(value)] = value
            continue
        if not is_dtensor(value) or value.placements != parameter.placements:
            raise RuntimeError(
                f"the state {key!r} of a DTensor parameter is not placed as the parameter is; "
                f"load checkpoints with torch.distributed.checkpoint.state_dict"
            )
        state[key] = shard(value)
        wrapped[id(state[key])] = value
    return state


def _gradient(work: Work) -> Tensor:
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
    return not is_dtensor(value) and value.ndim == 0 and parameter.ndim > 0


def _wrapped(key: str, value: Any, work: Work, part: Work) -> Any:
    """What a shard's state has got, as the DTensor's state keeps it."""
    from torch.distributed.tensor import DTensor

    parameter: Any = work.parameter
    if _is_number(key, value, parameter) or value.shape != part.parameter.shape:
        return value
    return DTensor.from_local(
        value,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def shard(x: Any) -> Tensor:
    """The shard of a DTensor, the same object each time."""
    local = x._local_tensor
    # A collective may still be under way.
    return local.wait() if hasattr(local, "wait") else local  # type: ignore[no-any-return]


def _written(works: Sequence[Work]) -> None:
    """Autograd finds out about the writes as if torch had made them."""
    torch.autograd.graph.increment_version([work.parameter for work in works])
