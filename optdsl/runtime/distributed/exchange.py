"""One collective in which every rank sends tensors to every other one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

# In bytes: tensors of every dtype begin at multiples of it.
_ALIGNED = 16


def exchange(
    given: Sequence[Sequence[Tensor]],
    wanted: Sequence[Sequence[Tensor]],
    group: Any,
    device: torch.device,
) -> None:
    """Send tensors to all ranks of a group, and receive theirs: one ``all_to_all_single``.

    Args:
        given: what each rank gets from this one, by its place in the group; of any dtypes, views
            included.
        wanted: what receives the tensors that each rank gives to this one: of the same number,
            shapes and dtypes, in the same order.
        group: the process group.
        device: of the tensors.
    """
    own = torch.distributed.get_rank(group)
    for source, target in zip(given[own], wanted[own], strict=True):
        if source is not target:
            target.copy_(source)
    sent = [0 if rank == own else _room(some) for rank, some in enumerate(given)]
    received = [0 if rank == own else _room(some) for rank, some in enumerate(wanted)]
    outbox = torch.empty(sum(sent), dtype=torch.uint8, device=device)
    inbox = torch.empty(sum(received), dtype=torch.uint8, device=device)
    for place, tensor in _places(given, own):
        _read(outbox, place, tensor).copy_(tensor)
    torch.distributed.all_to_all_single(inbox, outbox, received, sent, group=group)
    for place, tensor in _places(wanted, own):
        tensor.copy_(_read(inbox, place, tensor))


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.dtype.itemsize


def _padded(tensor: Tensor) -> int:
    return -(-_bytes(tensor) // _ALIGNED) * _ALIGNED


def _room(tensors: Sequence[Tensor]) -> int:
    return sum(map(_padded, tensors))


def _places(tensors: Sequence[Sequence[Tensor]], own: int) -> list[tuple[int, Tensor]]:
    """Where the tensors of all other ranks lie in a buffer, with the tensors."""
    found, start = [], 0
    for rank, some in enumerate(tensors):
        for tensor in some if rank != own else ():
            found.append((start, tensor))
            start += _padded(tensor)
    return found


def _read(buffer: Tensor, place: int, like: Tensor) -> Tensor:
    """The part of a buffer that is a tensor of the same shape and dtype as another one."""
    part = buffer[place : place + _bytes(like)]
    return part.view(like.dtype).view(like.shape)
