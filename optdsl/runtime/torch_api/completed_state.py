"""The state of a parameter without a pending step: `CompiledOptimizer.completed_state`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines import shards
from optdsl.runtime.engines.compiled import LearningOptimizer
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
    program = optimizer.part_of(parameter, group).program
    copies = {k: v.clone() for k, v in optimizer.state.get(parameter, {}).items()}
    own = {key: value for key, value in copies.items() if key.startswith(OWN)}
    state = {key: value for key, value in copies.items() if key not in own}
    declared = {s.name for s in program.states} | {"step"}
    if state.keys() - declared and float(state["step"]) > 0:
        hypers = {h.name: float(group[h.name]) for h in program.hypers}
        theta = parameter.detach()
        shards.completed(program, ParameterTask(theta, torch.zeros_like(theta), state, hypers))
    return {key: value for key, value in state.items() if key in declared} | own
