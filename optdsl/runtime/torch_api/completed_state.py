"""The state of a parameter without a pending step: `CompiledOptimizer.completed_state`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optdsl.ir.storage import added
from optdsl.plan.keys import TRAINED
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.sharded import shards
from optdsl.runtime.learning.scopes import OWN


def completed_state(optimizer: LearningOptimizer, parameter: Tensor) -> dict[str, Any]:
    """See `CompiledOptimizer.completed_state`."""
    if not isinstance(parameter, Tensor):
        raise TypeError(f"completed_state takes a parameter of the optimizer, not {parameter!r}")
    group = next(
        (g for g in optimizer.param_groups if any(p is parameter for p in g["params"])), None
    )
    if group is None:
        raise ValueError(
            f"{type(optimizer).__name__} has no such parameter, of shape {tuple(parameter.shape)}"
        )
    hypers = {h.name: float(group[h.name]) for h in optimizer.compiled.program.hypers}
    state = optimizer.state.get(parameter, {})
    own = {key: value for key, value in state.items() if key.startswith(OWN)}
    found = completed(optimizer, parameter, hypers) | own
    return {key: value.clone() for key, value in found.items()}


def completed(
    optimizer: LearningOptimizer, parameter: Tensor, hypers: dict[str, float]
) -> dict[str, Any]:
    """The states of the rule for a parameter, and ``step``; copies where a step is pending.

    Args:
        optimizer: the optimizer, in which nothing changes.
        parameter: one of its parameters.
        hypers: the hyperparameters of its group.
    """
    program = optimizer.part_of(parameter).program
    state = {k: v for k, v in optimizer.state.get(parameter, {}).items() if not k.startswith(OWN)}
    theta = state.pop(TRAINED, parameter.detach())
    declared = {s.name for s in program.states} | {"step"} | added(program).keys()
    if state.keys() - declared and float(state["step"]) > 0:
        state = {key: value.clone() for key, value in state.items()}
        shards.completed(program, ParameterTask(theta, torch.zeros_like(theta), state, hypers))
    return {key: value for key, value in state.items() if key in declared}
