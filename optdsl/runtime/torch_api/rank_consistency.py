"""Whether all ranks have learned the same."""

from __future__ import annotations

from typing import Any

from torch.utils.hooks import RemovableHandle

from optdsl.runtime.distributed.collectives import gathered
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer


def check_ranks(
    optimizer: CompiledOptimizer, every: int = 100, process_group: Any = None
) -> RemovableHandle:
    """Check after every so many steps that all ranks have the same coefficients.

    For DistributedDataParallel, where each rank learns by itself, from gradients that are the same
    everywhere. No collective is needed then as long as steps are deterministic, and this finds out
    when one was not, or when ranks began with different coefficients. All ranks have to call it.

    Args:
        optimizer: a compiled optimizer.
        every: how many steps lie between two checks, each of which is a small collective.
        process_group: the ranks; all of them by default.

    Returns:
        A handle whose ``remove()`` ends the checks.

    Raises:
        ValueError: when `every` is less than 1.

    A step raises RuntimeError where ranks differ, with the values of each.
    """
    if every < 1:
        raise ValueError(f"every={every!r} cannot be; it is a number of steps, at least 1")
    steps = 0

    def check(checked: Any, *_: Any) -> None:
        nonlocal steps
        steps += 1
        if steps % every == 0:
            _check(checked, process_group)

    return optimizer.register_step_post_hook(check)


def _check(optimizer: CompiledOptimizer, process_group: Any) -> None:
    own = optimizer.metrics()
    rows = gathered(list(own.values()), process_group)
    for name, values in zip(own, zip(*rows, strict=True), strict=True):
        # By their spelling: NaN is the same as NaN.
        if len(set(map(repr, values))) > 1:
            listed = ", ".join(f"{value!r} on rank {rank}" for rank, value in enumerate(values))
            raise RuntimeError(f"{name} is not the same on all ranks: {listed}")
