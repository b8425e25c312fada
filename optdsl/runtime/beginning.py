"""The step that `torch.distributed.checkpoint` takes to see what an optimizer keeps.

It sets the learning rate to 0 and all gradients to zero, and takes a step of an optimizer without
state. That step makes states of the right keys, shapes and placements, for a checkpoint to be
loaded into, and changes nothing: counters stay at 0, and a tensor whose count is 0 starts from
scratch with its first true gradient, if no checkpoint came in between.

A learning rate of 0 alone does not make a step such a step, since a warm-up may begin there, and
nor do gradients of zero alone, with which a rule may well do something.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optdsl.runtime.distributed import everywhere, is_dtensor
from optdsl.runtime.engines import Work
from optdsl.runtime.shards import shard

if TYPE_CHECKING:
    from optdsl.runtime.optimizer import CompiledOptimizer

Pairs = Sequence[tuple[Tensor, Tensor]]


def is_inert(optimizer: CompiledOptimizer, work: Sequence[Pairs]) -> bool:
    """Whether a step is that of a checkpoint: no state, no learning rate, no gradient but zeros.

    All ranks agree, each of which may have zeros only in its own shards: with a learning rate of 0
    they all ask each other, whatever state each has.

    Args:
        optimizer: one that has taken no step yet, or none since it was loaded.
        work: parameters with gradients, by group.
    """
    groups = optimizer.param_groups
    rates = [float(group["lr"]) for group in groups if "lr" in group]
    if not rates or any(rates):
        return False
    gradients = [g for pairs in work for _, g in pairs]
    begun = any(optimizer.state.values())
    flags = [bool(gradients), begun or any(map(_moves, gradients))]
    parameters = (p for group in groups for p in group["params"])
    some, moves = everywhere(flags, parameters, optimizer.process_group)
    return some and not moves


def materialize(optimizer: CompiledOptimizer) -> None:
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
            # By itself: tensors that parameters share would be overwritten by each one's own.
            work = Work(scratch, torch.zeros_like(scratch), state, hypers)
            optimizer.compiled.engines.of(parameter).take([work], {})
            for value in state.values():
                value.zero_()
            optimizer.state[parameter] = state
    # What tensors learn for themselves is as it is for a tensor without state.
    scopes = optimizer.compiled.scopes
    scopes.give_back(scopes.divided(pairs, rows, optimizer.param_groups, {}), optimizer.state)


def start_over(optimizer: CompiledOptimizer, work: Sequence[Pairs]) -> bool:
    """Forget states without a step of parameters that take one now; whether others are left."""
    counts = {p: state["step"] for p, state in optimizer.state.items() if "step" in state}
    blank = [p for p, count in counts.items() if float(count) == 0]
    now = {id(parameter) for pairs in work for parameter, _ in pairs}
    left = False
    for parameter in blank:
        if id(parameter) in now:
            optimizer.state[parameter].clear()
        else:
            left = True
    return left


def _moves(gradient: Tensor) -> bool:
    """Whether a gradient is anything but zeros, as far as this rank knows."""
    if gradient.layout is not torch.strided:
        return True
    return bool((shard(gradient) if is_dtensor(gradient) else gradient).any())
