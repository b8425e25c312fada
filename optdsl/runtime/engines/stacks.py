"""Small matrices of equal shapes, stepped together as one stack; see `optdsl.ir.stacks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optdsl.ir.stacks import ELEMENTS, FEWEST
from optdsl.runtime.core.owned_numbers import number_of, without_values
from optdsl.runtime.core.tasks import PLAIN, ParameterTask


def divided(
    works: Sequence[ParameterTask],
) -> tuple[list[list[ParameterTask]], list[ParameterTask]]:
    """The works that can be done together, and those to be done one after the other."""
    if len(works) < FEWEST or len({id(w.state) for w in works}) < len(works):
        return [], list(works)
    found: dict[Any, list[ParameterTask]] = {}
    alone = []
    for work in works:
        key = _key(work)
        if key is None:
            alone.append(work)
        else:
            found.setdefault(key, []).append(work)
    for some in found.values():
        if len(some) < FEWEST:
            alone += some
    return [some for some in found.values() if len(some) >= FEWEST], alone


def _key(work: ParameterTask) -> Any:
    """What matrices of a stack have in common; None for one that is in no stack."""
    parameter = work.parameter
    if parameter.ndim != 2 or not 0 < parameter.numel() <= ELEMENTS or without_values(parameter):
        return None
    tensors = [parameter, work.gradient, *(x for k, x in work.state.items() if k != "step")]
    if not all(type(x) in PLAIN and x.layout is torch.strided for x in tensors):
        return None
    described = tuple((x.shape, x.dtype, x.device) for x in tensors)
    return described, tuple(work.state), number_of(work.state["step"]), id(work.hypers)


def stacked(works: Sequence[ParameterTask]) -> ParameterTask:
    """One task for works of equal shapes; its tensors are copies."""
    state = {
        key: torch.stack([work.state[key] for work in works])
        for key in works[0].state
        if key != "step"
    }
    parameter = torch.stack([work.parameter.detach() for work in works])
    gradient = torch.stack([work.gradient for work in works])
    return ParameterTask(parameter, gradient, state, works[0].hypers)
