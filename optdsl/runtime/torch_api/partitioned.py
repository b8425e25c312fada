"""Optimizers that `ZeroRedundancyOptimizer` makes, one on each rank for a part of the parameters.

The parameters are plain tensors, and the wrapper does not pass on its process group. So a new
optimizer looks for the wrapper among its callers.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

from optdsl.runtime.distributed.collectives import has_other_ranks
from optdsl.runtime.engines.compiled import LearningOptimizer

_MODULE = "torch.distributed.optim.zero_redundancy_optimizer"
_MAKER = "_init_local_optimizer"


def join_partition(optimizer: LearningOptimizer) -> None:
    """Let an optimizer that a `ZeroRedundancyOptimizer` is making learn with the other ranks.

    It gets the wrapper's process group, unless it has one, and is marked as partitioned.
    """
    module = sys.modules.get(_MODULE)
    if module is None or not _together(optimizer):
        return
    wrapper = _maker(module.ZeroRedundancyOptimizer)
    if wrapper is None or wrapper.world_size == 1:
        return
    optimizer._partitioned = True
    if optimizer.process_group is None and not optimizer.compiled.scopes.of_tensors:
        optimizer.process_group = wrapper.process_group


def check_partitioned(optimizer: LearningOptimizer) -> None:
    """Refuse to learn from one rank's part only, as an optimizer without process group would.

    Raises:
        RuntimeError: for such an optimizer; the message says what to do.
    """
    if optimizer._partitioned and optimizer.compiled.draws and has_other_ranks():
        raise RuntimeError(
            f"{type(optimizer).__name__} draws random numbers by the number of a tensor, and "
            f"ZeroRedundancyOptimizer numbers the share of each rank by itself; shard by "
            f"fully_shard (FSDP2), or use DistributedDataParallel"
        )
    if not (optimizer._partitioned and optimizer.process_group is None and has_other_ranks()):
        return
    scopes = optimizer.compiled.scopes
    what, other = "takes sums over all tensors", "sum something else"
    if scopes.of_groups:
        what = f"learns {', '.join(c.name for c in scopes.of_groups)}"
        other = "learn something else"
    remedy = "set its process_group to that of the ZeroRedundancyOptimizer"
    if scopes.of_tensors:
        remedy = "learn everything for the optimizer or for groups, or everything for each tensor"
    raise RuntimeError(
        f"{type(optimizer).__name__} {what}, and ZeroRedundancyOptimizer gives each rank a share "
        f"of the parameters, so that every rank would {other}; {remedy}"
    )


def _together(optimizer: LearningOptimizer) -> bool:
    """Whether a step of one tensor depends on the tensors of other ranks."""
    compiled = optimizer.compiled
    shared = compiled.parts.stages is not None or compiled.draws
    return bool(compiled.scopes.of_groups) or shared


def _maker(kind: type) -> Any:
    """The wrapper of a type that is making an optimizer at this moment; None without one."""
    stack = traceback.walk_stack(sys._getframe(1))
    makers = (f.f_locals.get("self") for f, _ in stack if f.f_code.co_name == _MAKER)
    return next((found for found in makers if isinstance(found, kind)), None)
