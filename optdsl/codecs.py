"""The arithmetic of the codecs of `optdsl.ir.storage`, on tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optdsl.ir.storage import Buffer

# Uniform numbers of a shape, for what is rounded at random.
Uniform = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Coder:
    """The arithmetic of a codec.

    Attributes:
        encode: the buffers for a value, from the value, the dtype of the first buffer, and what
            gives a uniform number for each element.
        decode: the value in some precision, from the buffers.
    """

    encode: Callable[[Tensor, torch.dtype, Uniform], tuple[Tensor, ...]]
    decode: Callable[[Sequence[Tensor], torch.dtype], Tensor]


def stochastic(x: Tensor, dtype: torch.dtype, uniform: Tensor) -> Tensor:
    """A tensor rounded to bfloat16 or float16, up or down at random, so that the mean is exact.

    What is not finite, or larger than the largest number of the dtype, is rounded to the nearest;
    any other dtype is reached by an ordinary cast.

    Args:
        x: float32 or float64.
        dtype: the dtype of the result.
        uniform: a number in [0, 1) for each element.
    """
    if dtype not in {torch.bfloat16, torch.float16}:
        return x.to(dtype)
    nearest = x.to(dtype)
    # The sign is the first bit, so that the next number away from zero is one more.
    bits = nearest.view(torch.int16)
    beyond = nearest.to(x.dtype).abs() > x.abs()
    toward = torch.where(beyond, bits - 1, bits)
    away = (toward + 1).view(dtype)
    low, high = (v.to(x.dtype).abs() for v in (toward.view(dtype), away))
    chosen = torch.where(uniform * (high - low) < x.abs() - low, away, toward.view(dtype))
    known = high.isfinite() & x.isfinite()
    return torch.where(known, chosen, nearest)


def _compensated(x: Tensor, dtype: torch.dtype, _: Uniform) -> tuple[Tensor, ...]:
    rounded = x.to(dtype)
    rest = x - rounded.to(x.dtype)
    # An infinity has no rest.
    return rounded, torch.where(rest.isfinite(), rest, 0).to(dtype)


def _first(buffers: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    return buffers[0].to(dtype)


def dtype_of(buffer: Buffer, parameter: torch.dtype) -> torch.dtype:
    """The dtype of a buffer, where the parameter has a dtype."""
    found: torch.dtype = getattr(torch, buffer.dtype) if buffer.dtype else parameter
    return found


CODERS = {
    "bfloat16": Coder(lambda x, dtype, _: (x.to(dtype),), _first),
    "bfloat16 stochastic": Coder(lambda x, dtype, u: (stochastic(x, dtype, u(x)),), _first),
    "stochastic": Coder(lambda x, dtype, u: (stochastic(x, dtype, u(x)),), _first),
    "compensated": Coder(
        _compensated, lambda buffers, dtype: buffers[0].to(dtype) + buffers[1].to(dtype)
    ),
}
