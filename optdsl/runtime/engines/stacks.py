"""Small matrices of equal shapes, stepped together as one stack of matrices.

Emitted code of matrices reads stacks as well, so that a step of many small ones is one call of each
operation. Larger ones gain nothing on a CPU: of Muon's steps, those of 16 by 16 in a stack take 0.2
of the time, those of 64 by 128 0.8, and those of 128 by 128 1.1, for batched products are slower
there than as many single ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from optdsl.ir.program import Program
from optdsl.ir.sections import WIDE, of_matrices
from optdsl.ir.storage import draws, stored
from optdsl.runtime.core.owned_numbers import number_of, without_values
from optdsl.runtime.core.tasks import PLAIN, ParameterTask

# Matrices of at most so many elements are stacked, where there are at least so many of them.
_ELEMENTS, _FEWEST = 64 * 128, 4


def stackable(program: Program) -> bool:
    """Whether a step of a stack is that of each of its matrices.

    It is not where a number is of a whole tensor, which may be a stack itself.
    """
    whole = {o.opcode for o in program.operations if o.opcode.endswith("_tensor")}
    scalars = any(not s.type.spans for s in program.states)
    # Each draws for itself, and is stored for itself.
    apart = draws(program) or bool(stored(program))
    # Matrices of a stack are not turned one by one.
    apart = apart or WIDE in program.kind.split()
    return of_matrices(program.kind) and not (whole or scalars or apart)


def divided(
    works: Sequence[ParameterTask],
) -> tuple[list[list[ParameterTask]], list[ParameterTask]]:
    """The works that can be done together, and those to be done one after the other."""
    if len(works) < _FEWEST or len({id(w.state) for w in works}) < len(works):
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
        if len(some) < _FEWEST:
            alone += some
    return [some for some in found.values() if len(some) >= _FEWEST], alone


def _key(work: ParameterTask) -> Any:
    """What matrices of a stack have in common; None for one that is in no stack."""
    parameter = work.parameter
    if parameter.ndim != 2 or not 0 < parameter.numel() <= _ELEMENTS or without_values(parameter):
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
