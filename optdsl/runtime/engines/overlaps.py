"""Tensors of a step that share memory, and what is done so that every engine takes the same step.

Kernels may assume that what they write overlaps with nothing else. Where it does, the step is the
one that reads before it writes: a gradient counts as it was when the step began, a state has
memory of its own from then on, and parameters that share memory are stepped one after the other.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import PENDING_HYPERS, PLAIN, STATE, ParameterTask

# The first address, and the one behind the last.
Extent = tuple[int, int]

# What several parameters may share: it is replaced, and not written to.
_SHARED = frozenset({"step", PENDING_HYPERS})
# In so many steps states are back in the memory where they were.
STEPS = 4


class Written(NamedTuple):
    """What a step writes, which was found to overlap with nothing that it writes.

    Attributes:
        columns: the addresses of parameters and states, column by column.
        begins, ends: int64, the extents in order; `ends` has one more, which is before the first.
        lengths: int64, the number of bytes of each gradient.
        gradients: addresses of gradients that did not overlap with it either.
    """

    columns: list[list[int]]
    begins: Tensor
    ends: Tensor
    lengths: Tensor
    gradients: list[list[int]]


def written(
    columns: list[list[int]], lengths: Sequence[Sequence[int]], gradients: Sequence[int]
) -> Written | None:
    """What is written; None where some of it overlaps.

    Args:
        columns: the addresses of parameters and states, column by column.
        lengths: the number of bytes of each.
        gradients: the number of bytes of each gradient.
    """
    begins = _int64(list(chain.from_iterable(columns)))
    ends = begins + _int64(list(chain.from_iterable(lengths)))
    held = (ends > begins) & (begins != 0)
    begins, order = begins[held].sort()
    ends = ends[held][order]
    if bool((ends[:-1] > begins[1:]).any()):
        return None
    return Written(columns, begins, torch.cat([ends.new_zeros(1), ends]), _int64(gradients), [[]])


def meets(own: Written, gradients: list[int]) -> bool:
    """Whether a gradient overlaps with something that is written."""
    if own.gradients[0] == gradients:
        return False
    begins = _int64(gradients)
    # The last of what is written that begins before a gradient ends.
    last = torch.searchsorted(own.begins, begins + own.lengths)
    if bool(((own.ends[last] > begins) & (own.lengths > 0)).any()):
        return True
    own.gradients[0] = gradients
    return False


class Seen(list[Written]):
    """What was found at the calls before, the last one first."""


def remember(known: StepCache, own: Written) -> None:
    """Keep what was found for the calls to come."""
    before = known.get(Seen)
    before[:] = [own, *before[: STEPS - 1]]


def apart(works: Sequence[ParameterTask], known: StepCache) -> Sequence[ParameterTask]:
    """The works, such that nothing that a step of one writes changes what another one reads.

    For engines that step one parameter after the other, on any device.

    Args:
        works: what there is to do; states get memory of their own where they have to.
        known: what was found at the call before; replaced by what is found at this one.
    """
    parameters, gradients, states, *_ = zip(*works, strict=True)
    tensors = (*parameters, *(x for _, _, x in _held(states)))
    if not set(map(type, chain(tensors, gradients))).issubset(PLAIN):
        return works
    try:
        columns = [list(map(Tensor.data_ptr, tensors))]
        places = list(map(Tensor.data_ptr, gradients))
    except RuntimeError:  # of tensors without memory
        return works
    lengths, of_gradients = list(map(_length, tensors)), list(map(_length, gradients))
    before = next(iter(known.get(Seen)), None)
    key = [*columns, lengths, of_gradients]
    if before is None or before.columns != key:
        found = written(columns, [lengths], of_gradients)
        before = None if found is None else found._replace(columns=key)
        known.get(Seen)[:] = [] if before is None else [before]
    if before is not None and not meets(before, places):
        return works
    return _copied(works)


def separated(works: Sequence[ParameterTask]) -> tuple[list[ParameterTask], list[ParameterTask]]:
    """Works that can be done at once, and others to be done after them, one after the other.

    Gradients that overlap with a parameter are copied, and states that overlap with anything get
    memory of their own.
    """
    parts, again = _copied(works), _later([_extent(work.parameter) for work in works])
    first = [work for n, work in enumerate(parts) if n not in again]
    return first, [work for n, work in enumerate(parts) if n in again]


def once(works: Sequence[ParameterTask]) -> tuple[Sequence[ParameterTask], Sequence[ParameterTask]]:
    """Each parameter once, and the rest: one that is twice in a group takes two steps in a row."""
    if len(set(map(id, map(STATE, works)))) == len(works):
        return works, ()
    first = {id(w.state): w for w in reversed(works)}
    return list(first.values())[::-1], [w for w in works if first[id(w.state)] is not w]


def overlapping(
    parameters: Sequence[Tensor], gradients: Sequence[Tensor], states: Iterable[dict[str, Any]]
) -> bool:
    """Whether anything that a step writes overlaps with anything else of it."""
    held = (*parameters, *(x for _, _, x in _held(states)))
    own = written([list(map(Tensor.data_ptr, held))], [list(map(_length, held))],
                  list(map(_length, gradients)))  # fmt: skip
    return own is None or meets(own, list(map(Tensor.data_ptr, gradients)))


def _held(states: Iterable[dict[str, Any]]) -> Iterator[tuple[dict[str, Any], str, Tensor]]:
    """The tensors that are states' own, each with its state and its key there."""
    for state in states:
        for key, x in state.items():
            if key not in _SHARED and isinstance(x, Tensor):
                yield state, key, x


def _copied(works: Sequence[ParameterTask]) -> list[ParameterTask]:
    """Works whose gradients and states overlap with nothing else that is written."""
    thetas = [_extent(work.parameter) for work in works]
    gradients = [_extent(work.gradient) for work in works]
    _free_states(works, [*thetas, *gradients])
    return [
        work._replace(gradient=work.gradient.clone()) if shared else work
        for work, shared in zip(works, _meeting(gradients, thetas), strict=True)
    ]


def _free_states(works: Sequence[ParameterTask], others: Sequence[Extent]) -> None:
    """Give states memory of their own that overlap with `others` or with each other."""
    states = {id(work.state): work.state for work in works}.values()
    held = list(_held(states))
    extents = [_extent(x) for _, _, x in held]
    taken = _later(extents)
    for n, shared in enumerate(_meeting(extents, others)):
        if shared or n in taken:
            state, key, x = held[n]
            state[key] = x.clone()


def _meeting(some: Sequence[Extent], others: Sequence[Extent]) -> list[bool]:
    """Whether each of some extents overlaps with any of the others."""
    ordered = sorted(e for e in others if e[0] < e[1])
    begins = [begin for begin, _ in ordered]
    furthest = [0, *accumulate((end for _, end in ordered), max)]
    return [b < e and furthest[bisect_left(begins, e)] > b for b, e in some]


def _later(extents: Sequence[Extent]) -> set[int]:
    """Of those that hang together, the numbers of all but the first."""
    clusters: list[list[int]] = []
    reach = 0
    for begin, end, number in sorted((b, e, n) for n, (b, e) in enumerate(extents) if b < e):
        if begin >= reach:
            clusters.append([])
        clusters[-1].append(number)
        reach = max(reach, end)
    return {n for cluster in clusters for n in cluster if n != min(cluster)}


def _extent(x: Tensor) -> Extent:
    begin = x.data_ptr()
    return begin, begin + _length(x) if begin else begin


def _length(x: Tensor) -> int:
    """The number of bytes from the first element to behind the last one."""
    if x.is_contiguous():
        return x.nbytes
    if not x.numel():
        return 0
    last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
    return (last + 1) * x.itemsize


def _int64(numbers: Sequence[int]) -> Tensor:
    if not numbers:
        return torch.empty(0, dtype=torch.int64, device="cpu")
    return torch.frombuffer(array("q", numbers), dtype=torch.int64)
