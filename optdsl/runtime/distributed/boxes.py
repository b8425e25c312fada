"""Which part of a DTensor each rank of its mesh has."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Size, Tensor

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

Box = tuple[slice, ...]


def is_boxed(x: Any) -> bool:
    """Whether each rank has a box of a DTensor that `box` knows: a range of each dimension.

    Strided shards, as of FSDP2 over tensor parallelism along the same dimension, are none, and
    neither are tensors that are still to be summed over ranks.
    """
    from torch.distributed.tensor import Replicate, Shard

    return all(type(placement) in {Shard, Replicate} for placement in x.placements)


def box(x: Any, coordinate: Sequence[int], shape: Sequence[int] | None = None) -> Box:
    """The part of a DTensor that the rank at a coordinate of its mesh has.

    A dimension that is sharded over n ranks is cut into n pieces that are as long as its length
    over n, rounded up; the last ones are shorter or empty. Where several dimensions of the mesh
    shard it, each cuts the pieces of those before.

    Args:
        x: the DTensor, or one whose placements count.
        coordinate: of the rank.
        shape: of the whole tensor, if it is not that of `x`.
    """
    ranges = [(0, length) for length in (x.shape if shape is None else shape)]
    sizes = x.device_mesh.shape
    for place, size, placement in zip(coordinate, sizes, x.placements, strict=True):
        if placement.is_shard():
            start, end = ranges[placement.dim]
            piece = -(-(end - start) // size)
            first = min(start + place * piece, end)
            ranges[placement.dim] = first, min(first + piece, end)
    return tuple(slice(*ends) for ends in ranges)


def sends(x: Any, coordinate: Sequence[int]) -> bool:
    """Whether, of the ranks with the same part of a DTensor, the one at a coordinate is first."""
    pairs = zip(coordinate, x.placements, strict=True)
    return not any(place for place, placement in pairs if placement.is_replicate())


def placed(local: Tensor, shape: tuple[int, ...], stride: tuple[int, ...], like: Any) -> Any:
    """This rank's part of a tensor as a DTensor.

    Args:
        local: the part.
        shape: of the whole tensor.
        stride: of the whole tensor.
        like: the mesh and the placements.
    """
    from torch.distributed.tensor import DTensor

    return DTensor.from_local(
        local, like.device_mesh, like.placements, run_check=False, shape=Size(shape), stride=stride
    )


@functools.lru_cache(maxsize=64)
def coordinates(mesh: DeviceMesh, ranks: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """The coordinates in a mesh of some ranks of it, by their numbers in the world."""
    places = {int(mesh.mesh[at]): at for at in _indices(tuple(mesh.mesh.shape))}
    return tuple(places[rank] for rank in ranks)


def _indices(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for length in shape:
        found = [(*index, place) for index in found for place in range(length)]
    return found
