"""What a launch of emitted Triton is given, kept on the device from call to call."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from optdsl.backends.base import EntryPoint, SourceModule
from optdsl.runtime.build.python_modules import module as built
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.engines.segment_columns import SegmentColumns
from optdsl.runtime.engines.tensor_table import TensorTable

# In so many steps states are back in the memory where they were.
_STEPS = 4


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
        later: float64, the uniform values with which each row will be completed.
        twin: for the same tensors, where states stay in their own memory.
        width: how many numbers a row has.
        lanes: how many threads a warp of the device has.
        options: what the device's compiler is told besides.
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
    lanes: int
    options: dict[str, int]
    first: int = 0
    given: Tensor | None = None
    memory: Tensor | None = None
    sources: Tensor | None = None
    later: Tensor | None = None
    twin: Launch | None = None

    def shares(self, other: Launch) -> None:
        """Use the working space of another launch for as many tensors."""
        for name in ("uniforms", "scalars", "partials", "dots"):
            if getattr(self, name).shape == getattr(other, name).shape:
                setattr(self, name, getattr(other, name))


def launch(
    entry: EntryPoint,
    columns: TensorTable | SegmentColumns,
    numbers: Sequence[int],
    rows: Tensor,
    module: Any,
    own: StepCache,
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
    fixed = [columns.sizes, list(columns.spread(numbers)), theta, *kept]
    # States that take over each other's memory come back to where they were after some steps.
    before = own.get(_Launches).kept
    found = next((x for x in before if x.fixed == fixed and x.launch.count == len(rows)), None)
    if found is None:
        check_not_captured(rows.device, "tensors have moved")
        made = _made(entry, columns.sizes, [*fixed[:3], gradient, *kept], rows, module, own)
        if before:
            made.shares(before[0].launch)
        found = _Kept(fixed, gradient, made)
        before[:] = [found, *before[: _STEPS - 1]]
    elif captured(rows.device):
        # Replays find the gradients where they are now, whatever is sent meanwhile.
        fill(found.launch.table[3], gradient)
    elif found.gradient != gradient:
        # Gradients have moved; the rest of the table is as it was.
        new = sent(gradient, torch.int64, rows.device)
        found.launch.table[3].copy_(new, non_blocking=True)
    found.gradient = gradient
    found.launch.rows = rows
    return found.launch


@dataclass
class _Kept:
    """A launch, and the addresses that its table has."""

    fixed: list[list[int]]
    gradient: list[int]
    launch: Launch


@dataclass
class _Launches:
    """What is kept for an entry point.

    Attributes:
        kept: the launches of the last calls, the last one first.
        sizes: the numbers of elements of the tensors of the last call.
        blocks: holders, begins and firsts of `Launch` for these.
    """

    kept: list[_Kept] = field(default_factory=list)
    sizes: list[int] | None = None
    blocks: tuple[Tensor, Tensor, Tensor] | None = None


def _made(
    entry: EntryPoint,
    sizes: list[int],
    table: list[list[int]],
    rows: Tensor,
    module: Any,
    own: StepCache,
) -> Launch:
    device = rows.device
    seen = own.get(_Launches)
    if seen.sizes != sizes or seen.blocks is None:
        seen.sizes, seen.blocks = sizes, _map(sizes, module.SPAN, device)
    holders, begins, firsts = seen.blocks
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
        lanes=lanes(device),
        options=_OPTIONS if device.type == "cuda" and torch.version.hip is None else {},
    )


# Three programs of 128 threads on a multiprocessor of NVIDIA's, which has 65,536 registers. The
# compiler takes more where it may, for nothing.
REGISTERS = 168
_OPTIONS = {"maxnreg": REGISTERS}


@functools.cache
def lanes(device: torch.device) -> int:
    """How many threads a warp of a device has."""
    if device.type != "cuda":
        return 32
    return int(torch.cuda.get_device_properties(device).warp_size)


def _map(sizes: list[int], block: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The tensor and the first element of each block, and the first block of each tensor."""
    counts = torch.tensor([-(-size // block) for size in sizes], device="cpu")
    firsts = torch.tensor([0, *accumulate(counts.tolist())], device="cpu")
    holders = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), counts)
    begins = (torch.arange(len(holders), device="cpu") - firsts[holders]) * block
    return holders.to(device, torch.int32), begins.to(device), firsts.to(device, torch.int32)


# A captured graph keeps the arguments of its launches, and not what the host sends.
_AT_ONCE = 16
_FILLING = f"""\
import triton
import triton.language as tl


@triton.jit(do_not_specialize={["start", "count", *(f"a{k}" for k in range(_AT_ONCE))]})
def fill(column, start, count, {", ".join(f"a{k}" for k in range(_AT_ONCE))}):
    p = column + start
{"".join(f"    tl.store(p + {k}, a{k}, mask={k} < count){chr(10)}" for k in range(_AT_ONCE))}"""


# Of tensors without elements, which nothing reads. It has 64 bits as every address: so there is one
# kernel, which must be there before a graph is captured.
_NOWHERE = 1 << 40


def fill(column: Tensor, numbers: Sequence[int]) -> None:
    """Make addresses those of a column by arguments of launches."""
    fill = built(SourceModule("Fill", "python", _FILLING, {})).fill
    for start in range(0, len(numbers), _AT_ONCE):
        some = [number or _NOWHERE for number in numbers[start : start + _AT_ONCE]]
        rest = [_NOWHERE] * (_AT_ONCE - len(some))
        fill[(1,)](column, start, len(some), *some, *rest, num_warps=1, enable_fp_fusion=True)


def captured(device: torch.device) -> bool:
    """Whether launches on a device become part of a graph now."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def check_not_captured(device: torch.device, what: str) -> None:
    """Refuse to do in a graph what the host has to take part in.

    Raises:
        RuntimeError: with what to do.
    """
    if captured(device):
        raise RuntimeError(
            f"a step cannot be captured, since {what}; take a step outside of the graph before, "
            f"and another one, and capture then"
        )


def sent(values: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Numbers on a device, which does not wait for them."""
    if device.type != "cuda":
        return torch.tensor(values, dtype=dtype, device=device)
    pinned = torch.tensor(values, dtype=dtype, device="cpu", pin_memory=True)
    return pinned.to(device, non_blocking=True)
