"""Eval mode (`CompiledOptimizer.eval`) in a state dict."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from optdsl.plan.keys import TRAINED
from optdsl.runtime.engines.compiled import LearningOptimizer

_KEY = "evaluating"


def saved(optimizer: LearningOptimizer) -> dict[str, Any]:
    """The entries to add to a state dict; none while the model is trained.

    Raises:
        RuntimeError: if `torch.distributed` asks, whose checkpoints hold only states and groups.
    """
    if not optimizer._evaluating:
        return {}
    # Frame 1 is `state_dict`; frame 2 is its caller.
    if sys._getframe(2).f_globals.get("__name__", "").startswith("torch.distributed."):
        raise RuntimeError(
            f"{type(optimizer).__name__} is in eval mode, and checkpoints of torch.distributed "
            f"cannot say so; call train() first"
        )
    return {_KEY: True}


def check(optimizer: LearningOptimizer, state_dict: Mapping[str, Any]) -> None:
    """Refuse states that do not have what the mode asks for.

    Args:
        optimizer: the optimizer that loads them.
        state_dict: valid but for this.

    Raises:
        ValueError: naming the state.
    """
    where = f"this state cannot be loaded into {type(optimizer).__name__}"
    evaluating = state_dict.get(_KEY, False)
    if not isinstance(evaluating, bool):
        raise ValueError(f"{where}: `{_KEY}` is {type(evaluating).__name__}, no bool")
    for index, state in state_dict["state"].items():
        if TRAINED in state and not evaluating:
            raise ValueError(
                f"{where}: state[{index!r}] has a parameter that eval mode keeps aside, and "
                f"`{_KEY}` is missing"
            )
        if evaluating and TRAINED not in state and "step" in state and float(state["step"]):
            raise ValueError(f"{where}: it is in eval mode, and state[{index!r}] has no {TRAINED}")


def loaded(state_dict: Mapping[str, Any]) -> bool:
    """Whether a checked state dict is one of eval mode."""
    return bool(state_dict.get(_KEY, False))
