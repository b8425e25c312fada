"""Sums observed since the last step (`CompiledOptimizer.observe`), in a state dict."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from optdsl.runtime.engines.compiled import LearningOptimizer, Observed

_KEY = "observed"


def saved(optimizer: LearningOptimizer, observed: Observed | None) -> dict[str, Any]:
    """The entries to add to a state dict: the observed sums, if there are any.

    Raises:
        RuntimeError: if `torch.distributed` asks, whose checkpoints hold only states and groups.
    """
    if observed is None:
        return {}
    # Frame 1 is `state_dict`; frame 2 is its caller.
    if sys._getframe(2).f_globals.get("__name__", "").startswith("torch.distributed."):
        raise RuntimeError(
            f"{type(optimizer).__name__}: checkpoints of torch.distributed cannot hold what was "
            f"observed since the last step; save after step(), or call discard_observed() first"
        )
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return {_KEY: {n: dict(observed[p]) for n, p in enumerate(held) if p in observed}}


def check(optimizer: LearningOptimizer, state_dict: Mapping[str, Any]) -> None:
    """Refuse a malformed entry for observed sums.

    Raises:
        ValueError: for an entry that is not a dict of dicts of numbers.
    """
    entry = state_dict.get(_KEY, {})
    rows = list(entry.values()) if isinstance(entry, dict) else [None]
    if not all(
        isinstance(row, dict)
        and all(isinstance(k, str) and isinstance(v, int | float) for k, v in row.items())
        for row in rows
    ):
        raise ValueError(
            f"this state is not one of {type(optimizer).__name__}: `{_KEY}` is no dict of "
            f"numbers, by parameter and hyperparameter"
        )


def loaded(
    optimizer: LearningOptimizer,
    state_dict: Mapping[str, Any],
    pairs: Iterable[tuple[Any, Tensor]],
) -> Observed | None:
    """The observed sums of a checked state dict, for coefficients that are learned here, or None.

    `pairs` are the index under which each parameter was saved, and the parameter.
    """
    if _KEY not in state_dict:
        return None
    names, rows = set(optimizer.compiled.measured), state_dict[_KEY]
    return {
        parameter: {name: float(x) for name, x in rows[index].items() if name in names}
        for index, parameter in pairs
        if index in rows
    }
