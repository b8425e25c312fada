"""Pieces of the sampled elements of a tensor, which are copied just before they are stepped.

So the copies lie in the cache, and each thread makes its own. The tangents of sampled elements are
kept one after the other, and so are parts of what is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.core.tasks import COMPUTE, ParameterTask
from optdsl.runtime.engines.piece_buffers import Buffers, Job
from optdsl.runtime.engines.sampled import choice
from optdsl.runtime.engines.sampled.choice import Sample


class SampledTask(NamedTuple):
    """The sampled elements of a tensor on the CPU, as they are stepped piece by piece.

    Attributes:
        work: the task of the tensor.
        sample: its sampled elements.
        kept: the states of which those of sampled elements are kept.
    """

    work: ParameterTask
    sample: Sample
    kept: frozenset[str]

    def jobs(self, states: Sequence[str], dtype: torch.dtype, most: int) -> Iterator[Job]:
        """The jobs of a step, of which nothing but what is kept remains.

        Args:
            states: those that a step reads or writes.
            dtype: the precision of the step.
            most: the elements of a piece.
        """
        work, block = self.work, choice.BLOCK
        copied = [work.parameter.detach().view(-1), work.gradient.view(-1)]
        copied += [work.state[name].view(-1) for name in states if name not in self.kept]
        for name in self.kept:
            # A tangent is not there before the first step, which does not read it.
            if name not in work.state:
                work.state[name] = torch.empty(self.sample.count, dtype=dtype, device="cpu")
        length = most // block * block or most
        index = self.sample.index(work.parameter.device)
        for begin in range(0, self.sample.count, length):
            part = index[begin : begin + length]
            kept = {n: work.state[n][begin : begin + length] for n in self.kept}
            # All blocks are whole, but for one at the end.
            whole = not (begin % block or len(part) % block)
            blocks = part[::block] // block if whole else None
            yield partial(_piece, copied, (states, kept), part, blocks, dtype, length)


def sampled_task(
    work: ParameterTask, sample: Sample | None, kept: Iterable[str], read: Iterable[str]
) -> SampledTask | None:
    """The task of the sampled elements of a tensor; None where it cannot be stepped so.

    Args:
        work: the task of the tensor, whose elements lie one after the other, as those of its
            gradient and its states do.
        sample: its sampled elements.
        kept: the states of which those of sampled elements are kept.
        read: those among them that a step reads.
    """
    # A shard keeps them in its own shape, and its blocks may begin anywhere.
    if sample is None or work.place is not None or work.parameter.device.type != "cpu":
        return None
    dtype, kept = COMPUTE[work.parameter.dtype], frozenset(kept)
    for name in kept:
        x = work.state.get(name)
        if x is None:
            if name in read:
                return None
        elif x.shape != (sample.count,) or x.dtype is not dtype or not x.is_contiguous():
            return None
    return SampledTask(work, sample, kept)


def _piece(
    copied: Sequence[Tensor],
    named: tuple[Sequence[str], dict[str, Tensor]],
    index: Tensor,
    blocks: Tensor | None,
    dtype: torch.dtype,
    least: int,
    own: Buffers,
) -> Iterator[Sequence[Tensor]]:
    """Copies of sampled elements, with memory for what is kept of them."""
    states, kept = named
    copies = own.sampled(len(copied), len(index), dtype, least)
    for x, copy in zip(copied, copies, strict=True):
        _copy(x, index, blocks, copy)
    rest = iter(copies[2:])
    yield (*copies[:2], *(kept[name] if name in kept else next(rest) for name in states))


def _copy(x: Tensor, index: Tensor, blocks: Tensor | None, copy: Tensor) -> None:
    """Copy the elements of an index, which are those of some blocks if there are any."""
    if x.dtype is not copy.dtype:
        copy.copy_(x.index_select(0, index))
    elif blocks is None:
        torch.index_select(x, 0, index, out=copy)
    else:
        number, block = len(x) // choice.BLOCK, choice.BLOCK
        rows = x[: number * block].view(number, block)
        torch.index_select(rows, 0, blocks, out=copy.view(len(blocks), block))
