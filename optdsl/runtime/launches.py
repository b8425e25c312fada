"""What a launch of emitted Triton is given, kept on the device from call to call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from optdsl.backends.base import EntryPoint
from optdsl.runtime.columns import Columns
from optdsl.runtime.engines import Known

_MAP, _LAUNCH = "map", "launch"


@dataclass
class Launch:
    """The arguments of an emitted host function.

    Attributes:
        table: int64, a column after the other: the number of elements of each tensor, its row,
            and the addresses of the parameter, its gradient and its states.
        tensors: how many tensors there are.
        holders: int32, the tensor of each block.
        begins: int64, the first element of each block.
        firsts: int32, the first block of each tensor, and the number of all.
        blocks: how many blocks there are.
        rows: float64, the rows of hyperparameters.
        count: how many there are.
        uniforms, scalars, partials: float64, working space.
        dots: float64, the sums of each block, a row for each dot product.
        total: how long those rows are.
        first: where in them this launch begins.
        given: float64, what was set of the hyperparameters of each row.
        memory: float64, what was learned, and how.
        sources: int32, where in it each hyperparameter is; -1 for those that are not learned.
        later: float64, the uniform values with which each row will be settled.
        width: how many numbers a row has.
    """

    table: Tensor
    tensors: int
    holders: Tensor
    begins: Tensor
    firsts: Tensor
    blocks: int
    rows: Tensor
    count: int
    uniforms: Tensor
    scalars: Tensor
    partials: Tensor
    dots: Tensor
    total: int
    width: int
    first: int = 0
    given: Tensor | None = None
    memory: Tensor | None = None
    sources: Tensor | None = None
    later: Tensor | None = None


def launch(
    entry: EntryPoint,
    columns: Columns,
    numbers: Sequence[int],
    rows: Tensor,
    module: Any,
    own: Known,
) -> Launch:
    """What an entry point is given for the tensors of a call.

    Args:
        entry: the entry point.
        columns: the tensors.
        numbers: the row of each.
        rows: float64, on the device.
        module: the emitted module.
        own: what was made at the call before, replaced by what is made now: only what has changed
            is sent to the device.
    """
    theta, gradient, *kept = columns.addresses_of(("theta", "g", *entry.states))
    fixed = [columns.sizes, list(numbers), theta, *kept]
    before = own.get(_LAUNCH)
    count = len(rows)
    if before is not None and before[0] == fixed and before[2].count == count:
        found: Launch = before[2]
        if before[1] != gradient:
            # Gradients have moved; the rest of the table is as it was.
            found.table[3].copy_(sent(gradient, torch.int64, rows.device), non_blocking=True)
    else:
        found = _made(entry, columns.sizes, [*fixed[:3], gradient, *kept], rows, module, own)
    found.rows = rows
    own[_LAUNCH] = fixed, gradient, found
    return found


def _made(
    entry: EntryPoint,
    sizes: list[int],
    table: list[list[int]],
    rows: Tensor,
    module: Any,
    own: Known,
) -> Launch:
    device = rows.device
    if own.get(_MAP, (None,))[0] != sizes:
        own[_MAP] = sizes, *_map(sizes, module.SPAN, device)
    _, holders, begins, firsts = own[_MAP]
    uniforms, scalars, sums = module.WIDTHS[entry.name]
    blocks = len(holders)
    space = (len(rows) * uniforms, len(sizes) * scalars, blocks * sums)
    working = [torch.empty(max(n, 1), dtype=torch.float64, device=device) for n in space]
    return Launch(
        table=sent(table, torch.int64, device),
        tensors=len(sizes),
        holders=holders,
        begins=begins,
        firsts=firsts,
        blocks=blocks,
        rows=rows,
        count=len(rows),
        uniforms=working[0],
        scalars=working[1],
        partials=working[2],
        dots=torch.empty(len(entry.dots), blocks, dtype=torch.float64, device=device),
        total=blocks,
        width=rows.shape[1],
    )


def _map(sizes: list[int], block: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The tensor and the first element of each block, and the first block of each tensor."""
    counts = torch.tensor([-(-size // block) for size in sizes])
    firsts = torch.tensor([0, *accumulate(counts.tolist())])
    holders = torch.repeat_interleave(torch.arange(len(sizes)), counts)
    begins = (torch.arange(len(holders)) - firsts[holders]) * block
    return holders.to(device, torch.int32), begins.to(device), firsts.to(device, torch.int32)


def sent(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, which does not wait for them."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
