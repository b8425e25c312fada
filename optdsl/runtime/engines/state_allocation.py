"""Where states lie in memory."""

from __future__ import annotations

import torch
from torch import Tensor

# In bytes: from where on states are placed, the addresses that a cache tells apart, and how far
# from each other the states of a parameter begin there.
_LARGE, _PAGE, _APART = 2**18, 2**12, 2**9


def zeros_beside(
    parameter: Tensor,
    number: int,
    dtype: torch.dtype,
    layout: torch.memory_format = torch.preserve_format,
    like: Tensor | None = None,
) -> Tensor:
    """Zeros for the state of that number of a parameter on the CPU.

    Large tensors begin at the same place of a page, all of them, and would drive each other out of
    the nearest cache, which has few places for addresses that agree in their last bits. So the
    states of a parameter begin at different places.

    Args:
        parameter: the parameter.
        number: that of the state, from 0.
        dtype: that of the zeros.
        layout: how they lie.
        like: a tensor of the shape and the strides that they get; the parameter by default.
    """
    like = parameter if like is None else like
    count, width = like.numel(), dtype.itemsize
    if count * width < _LARGE:
        return torch.zeros_like(like, dtype=dtype, memory_format=layout, device="cpu")
    room = torch.zeros(count + _PAGE // width, dtype=dtype, device="cpu")
    wanted = parameter.data_ptr() + (number + 1) * _APART
    skipped = (wanted - room.data_ptr()) % _PAGE // width
    shape = torch.empty_like(like, device="meta", memory_format=layout)
    return room.set_(room.untyped_storage(), skipped, shape.size(), shape.stride())


def copied_beside(parameter: Tensor, number: int, value: Tensor, device: torch.device) -> Tensor:
    """A copy of a state on a device, at a place of its own if that is the CPU."""
    plain = type(value) is Tensor and value.layout is torch.strided
    if device.type != "cpu" or not plain:
        return value.detach().to(device, copy=True)
    return zeros_beside(parameter, number, value.dtype, like=value).copy_(value)
