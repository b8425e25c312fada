"""What was observed since the last step (`CompiledOptimizer.observe`), in a state dict."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from optdsl.runtime.engines.compiled import LearningOptimizer, Observed

_KEY = "observed"


def saved(optimizer: LearningOptimizer, observed: Observed | None) -> dict[str, Any]:
    """The entry of a state dict for what was observed; none where nothing was.

    Raises:
        RuntimeError: where `torch.distributed` asks, whose files keep states and groups only.
    """
    if observed is None:
        return {}
    # The function that asks is the caller of `state_dict`.
    if sys._getframe(2).f_globals.get("__name__", "").startswith("torch.distributed."):
        raise RuntimeError(
            f"{type(optimizer).__name__}: checkpoints of torch.distributed cannot hold what was "
            f"observed since the last step; save after step(), or call discard_observed() first"
        )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return {_KEY: {n: dict(observed[p]) for n, p in enumerate(held) if p in observed}}


def check(optimizer: LearningOptimizer, state_dict: Mapping[str, Any]) -> None:
    """Refuse what a state dict says of observations, if it is not of their form.

    Raises:
        ValueError: naming the entry.
    """
    entry = state_dict.get(_KEY, {})
    rows = list(entry.values()) if isinstance(entry, dict) else [None]
    if not all(isinstance(row, dict) and _is_sums(row) for row in rows):
        raise ValueError(
            f"this state is not one of {type(optimizer).__name__}: `{_KEY}` is no dict of "
            f"numbers, by parameter and hyperparameter"
        )


def loaded(
    optimizer: LearningOptimizer,
    state_dict: Mapping[str, Any],
    pairs: Iterable[tuple[Any, Tensor]],
) -> Observed | None:
    """What a state dict says was observed, as far as it is learned here; None for nothing.

    Args:
        optimizer: the optimizer.
        state_dict: it passed `check`.
        pairs: the index under which each parameter was saved.
    """
    if _KEY not in state_dict:
        return None
    names, rows = set(optimizer.compiled.measured), state_dict[_KEY]
    return {
        parameter: {name: float(x) for name, x in rows[index].items() if name in names}
        for index, parameter in pairs
        if index in rows
    }


def _is_sums(row: dict[Any, Any]) -> bool:
    return all(isinstance(k, str) and isinstance(v, int | float) for k, v in row.items())
