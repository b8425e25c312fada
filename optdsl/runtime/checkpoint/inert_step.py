"""The step that `torch.distributed.checkpoint` takes to see what an optimizer keeps.

It sets the learning rate to 0 and all gradients to zero, and takes a step of an optimizer without
state. That step makes states of the right keys, shapes and placements, for a checkpoint to be
loaded into, and changes nothing: counts stay at 0, and a tensor whose state is all zeros, its
count among them, starts from scratch with its first true gradient, if no checkpoint came in
between.

A step with a learning rate of 0 and gradients of zero may also be one of training: a warm-up may
begin there, and a branch of a model may not take part in the first batch. That step counts, as with
torch. So the step of a checkpoint is known by the function that takes it, torch's own or that of a
trainer (torchtitan has one).
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.core.step_cache import StepCache
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.distributed.collectives import is_dtensor
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.shards import shard
from optdsl.runtime.learning.scopes import OWN

if TYPE_CHECKING:
    from types import FrameType

Pairs = Sequence[tuple[Tensor, Tensor]]

# The functions that take the step: of torch.distributed.checkpoint.state_dict, and of torchtitan.
_FUNCTIONS = frozenset({"_init_optim_state", "init_optim_state"})


def is_inert(optimizer: LearningOptimizer) -> bool:
    """Whether the step that is being taken is that of a checkpoint.

    No rank asks another one: each is told by its own caller.

    Args:
        optimizer: one that has taken no step yet, or none since it was loaded.
    """
    if any(optimizer.state.values()):
        return False
    if any(float(group["lr"]) for group in optimizer.param_groups if "lr" in group):
        return False
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_name in _FUNCTIONS:
            return True
        frame = frame.f_back
    return False


def materialize(optimizer: LearningOptimizer) -> None:
    """Give every parameter that is trained the state that it has after a step, all zeros."""
    pairs = []
    rows = []
    for group in optimizer.param_groups:
        hypers = {h.name: float(group[h.name]) for h in optimizer.compiled.program.hypers}
        trained = [p for p in group["params"] if p.requires_grad]
        pairs.append([(p, p) for p in trained])
        rows.append(hypers)
        for parameter in trained:
            scratch = parameter.detach().clone()
            state: dict[str, Any] = {}
            work = ParameterTask(scratch, torch.zeros_like(scratch), state, hypers)
            optimizer.compiled.engines.of(parameter).advance([work], StepCache())
            for value in state.values():
                value.zero_()
            optimizer.state[parameter] = state
    # What tensors learn for themselves is as it is for a tensor without state.
    scopes = optimizer.compiled.scopes
    scopes.give_back(scopes.divided(pairs, rows, optimizer.param_groups, {}), optimizer.state)


def start_over(
    optimizer: LearningOptimizer, work: Sequence[Pairs], among: Iterable[Tensor] | None
) -> tuple[Tensor, ...]:
    """Forget states that `materialize` made of parameters that take a step now.

    A state whose count is 0 and that has anything else was loaded, and is kept.

    Args:
        optimizer: the optimizer.
        work: parameters with gradients, by group.
        among: the parameters whose states may be such; None for all.

    Returns:
        The parameters that have such a state still.
    """
    states = optimizer.state
    blank = [p for p in (states if among is None else among) if p in states and _blank(states[p])]
    now = {id(parameter) for pairs in work for parameter, _ in pairs}
    for parameter in blank:
        if id(parameter) in now:
            states[parameter].clear()
    return tuple(p for p in blank if id(p) not in now)


def _blank(state: dict[str, Any]) -> bool:
    """Whether a state has taken no step, and is zeros but for what its tensor learns."""
    count = state.get("step")
    if count is None or without_values(count) or float(count):
        return False
    declared = (value for key, value in state.items() if not key.startswith(OWN))
    return not any(
        bool((shard(x) if is_dtensor(x) else x).any()) for x in declared if isinstance(x, Tensor)
    )
