"""Optimizers that `ZeroRedundancyOptimizer` makes: each rank's has a share of the parameters.

The shares are plain tensors that say nothing of each other, and the wrapper hands on all arguments
but its process group. So an optimizer looks, when it is made, whether it is made by that wrapper.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from optdsl.runtime.engines.compiled import LearningOptimizer

_MODULE = "torch.distributed.optim.zero_redundancy_optimizer"
_MAKER = "_init_local_optimizer"


def join_partition(optimizer: LearningOptimizer) -> None:
    """Let an optimizer that is being made as a share learn with the other shares.

    It gets the process group of the wrapper that makes it, unless it has one, and remembers that
    it is a share.
    """
    module = sys.modules.get(_MODULE)
    if module is None or not _learned_together(optimizer):
        return
    wrapper = _maker(module.ZeroRedundancyOptimizer)
    if wrapper is None or wrapper.world_size == 1:
        return
    optimizer._partitioned = True
    if optimizer.process_group is None and not optimizer.compiled.scopes.of_tensors:
        optimizer.process_group = wrapper.process_group


def check_partitioned(optimizer: LearningOptimizer) -> None:
    """Refuse to learn from the share of one rank, as a copy would that has no process group.

    Raises:
        RuntimeError: with what to do.
    """
    if not optimizer._partitioned or optimizer.process_group is not None:
        return
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return
    if torch.distributed.get_world_size() == 1:
        return
    learned = ", ".join(_learned_together(optimizer))
    remedy = "set its process_group to that of the ZeroRedundancyOptimizer"
    if optimizer.compiled.scopes.of_tensors:
        remedy = "learn everything for the optimizer or for groups, or everything for each tensor"
    raise RuntimeError(
        f"{type(optimizer).__name__} learns {learned}, and ZeroRedundancyOptimizer gives each rank "
        f"a share of the parameters, so that every rank would learn something else; {remedy}"
    )


def _learned_together(optimizer: LearningOptimizer) -> list[str]:
    """What is learned from several tensors."""
    compiled = optimizer.compiled
    return [c.name for c in compiled.coefficients if c not in compiled.scopes.of_tensors]


def _maker(kind: type) -> Any:
    """The wrapper of a kind that is making its rank's optimizer at this moment, if any is."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name == _MAKER:
            found = frame.f_locals.get("self")
            if isinstance(found, kind):
                return found
        frame = frame.f_back  # type: ignore[assignment]
    return None
