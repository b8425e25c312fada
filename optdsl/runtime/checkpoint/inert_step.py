"""The step that `torch.distributed.checkpoint` takes to see what an optimizer keeps.

It sets the learning rate and all gradients to zero, and takes a step of an optimizer without state,
to get states of the right keys, shapes and placements into which a checkpoint can be loaded. Here
that step makes states of zeros, with counts of 0, and changes nothing else. If no checkpoint is
loaded, a tensor with such a state starts anew at its first gradient.

A step with a learning rate of 0 and gradients of zero may also belong to a training: a warm-up may
start at 0, and a branch of a model may not take part in the first batch. That step counts, as with
torch. The step of a checkpoint is recognized by the function that takes it, which is torch's own or
that of a trainer such as torchtitan.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.distributed.collectives import is_dtensor
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.drawing import drawing
from optdsl.runtime.engines.sharded.shards import shard
from optdsl.runtime.learning.scopes import OWN

Pairs = Sequence[tuple[Tensor, Tensor]]

# The functions of torch.distributed.checkpoint.state_dict and of torchtitan that take the step.
_FUNCTIONS = frozenset({"_init_optim_state", "init_optim_state"})


def is_inert(optimizer: LearningOptimizer) -> bool:
    """Whether the step that is being taken is that of a checkpoint; no communication is needed.

    Args:
        optimizer: an optimizer that has taken no step since it was made or loaded.
    """
    if any(optimizer.state.values()):
        return False
    if any(float(group["lr"]) for group in optimizer.param_groups if "lr" in group):
        return False
    stack = traceback.walk_stack(sys._getframe(1))
    return any(frame.f_code.co_name in _FUNCTIONS for frame, _ in stack)


def materialize(optimizer: LearningOptimizer) -> None:
    """Give every parameter that requires gradients the state that a step makes, with zeros."""
    groups, declared = optimizer.param_groups, optimizer.compiled.program.hypers
    pairs = [[(p, p) for p in group["params"] if p.requires_grad] for group in groups]
    rows = [{h.name: float(group[h.name]) for h in declared} for group in groups]
    of_optimizer = drawing(optimizer)
    for group, trained, hypers in zip(groups, pairs, rows, strict=True):
        for parameter, _ in trained:
            scratch = parameter.detach().clone()
            state: dict[str, Any] = {}
            part = optimizer.part_of(parameter, group)
            # Totals and what tensors share are measured in a step, and nothing is kept of them.
            values = dict.fromkeys((h.name for h in part.program.hypers), 0.0) | hypers
            drawn = of_optimizer(parameter)
            work = ParameterTask(scratch, torch.zeros_like(scratch), state, values, drawn)
            part.of(parameter).advance([work], StepCache())
            for value in state.values():
                value.zero_()
            optimizer.state[parameter] = state
    # The coefficients of tensors have the values that they have for a tensor without state.
    scopes = optimizer.compiled.scopes
    scopes.give_back(scopes.divided(pairs, rows, groups, {}), optimizer.state)


def start_over(
    optimizer: LearningOptimizer, work: Sequence[Pairs], among: Iterable[Tensor] | None
) -> tuple[Tensor, ...]:
    """Clear the states that `materialize` has made for parameters that take a step now.

    A state with a count of 0 and other numbers that are not zero was loaded, and is kept.

    Args:
        optimizer: the optimizer.
        work: pairs of parameters and gradients, by group.
        among: the parameters that may have such a state; None for all.

    Returns:
        The parameters that still have such a state.
    """
    states = optimizer.state
    blank = [p for p in (states if among is None else among) if p in states and _blank(states[p])]
    now = {id(parameter) for pairs in work for parameter, _ in pairs}
    for parameter in blank:
        if id(parameter) in now:
            states[parameter].clear()
    return tuple(p for p in blank if id(p) not in now)


def _blank(state: dict[str, Any]) -> bool:
    """Whether a state has a count of 0 and is all zeros, apart from learned coefficients."""
    count = state.get("step")
    if count is None or without_values(count) or float(count):
        return False
    declared = (value for key, value in state.items() if not key.startswith(OWN))
    return not any(
        bool((shard(x) if is_dtensor(x) else x).any()) for x in declared if isinstance(x, Tensor)
    )
