"""Checks that all ranks have the same coefficients."""

from __future__ import annotations

from typing import Any

from torch.utils.hooks import RemovableHandle

from optdsl.runtime.distributed.collectives import gathered
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer


def check_ranks(
    optimizer: CompiledOptimizer, every: int = 100, process_group: Any = None
) -> RemovableHandle:
    """Check regularly that all ranks have the same coefficients.

    With DistributedDataParallel, each rank learns by itself from the same gradients, without a
    collective. The coefficients stay equal as long as they start equal and steps are
    deterministic; this finds out if they do not. All ranks have to call it.

    Args:
        optimizer: a compiled optimizer.
        every: the number of steps from one check, which is a small collective, to the next.
        process_group: the ranks to compare; all of them by default.

    Returns:
        A handle whose ``remove()`` ends the checks.

    Raises:
        ValueError: if `every` is less than 1.

    If ranks differ, a step raises RuntimeError with the values of each.
    """
    if every < 1:
        raise ValueError(f"every={every!r} is invalid; it is a number of steps, at least 1")
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
        # Compared as text, since NaN counts as equal to NaN.
        if len(set(map(repr, values))) > 1:
            listed = ", ".join(f"{value!r} on rank {rank}" for rank, value in enumerate(values))
            raise RuntimeError(f"{name} is not the same on all ranks: {listed}")
