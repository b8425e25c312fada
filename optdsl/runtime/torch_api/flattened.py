"""Parameters of FullyShardedDataParallel: each rank has a shard of several flattened parameters.

They are plain tensors with an attribute that FSDP sets. Nothing tells which ranks have the other
shards, so that a process group has to be given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from optdsl.ir.ops import stages
from optdsl.runtime.core.tasks import PENDING_HYPERS, Place
from optdsl.runtime.distributed.collectives import has_other_ranks
from optdsl.runtime.engines.compiled import LearningOptimizer

_MARK = "_fsdp_flattened"


def check_flattened(optimizer: LearningOptimizer) -> None:
    """Refuse to learn from the shards of one rank only, and to take sums over parts of tensors.

    Raises:
        RuntimeError: for such an optimizer; the message says what to do.
    """
    if not has_other_ranks():
        return
    compiled = optimizer.compiled
    found = stages(compiled.program.operations)
    drawn = compiled.draws
    reduces = bool(compiled.program.sections) or any(stage.mixes for stage in found)
    if not (compiled.coefficients or reduces or drawn):
        return
    marks = {_is_flattened(p) for group in optimizer.param_groups for p in group["params"]}
    if True not in marks:
        return
    name = type(optimizer).__name__
    if reduces:
        raise RuntimeError(
            f"{name} looks at tensors as a whole, and FullyShardedDataParallel gives each "
            f"rank a part of several; use DistributedDataParallel, or another rule"
        )
    if drawn:
        raise RuntimeError(
            f"{name} draws random numbers by the index in a tensor, and FullyShardedDataParallel "
            f"gives each rank a part of several; shard by fully_shard (FSDP2)"
        )
    learned = ", ".join(c.name for c in compiled.coefficients)
    remedy = "give the optimizer process_group=model.process_group, or shard by fully_shard (FSDP2)"
    if compiled.scopes.of_tensors:
        remedy = "learn for the optimizer or for groups, or shard by fully_shard (FSDP2)"
    if optimizer.process_group is None:
        raise RuntimeError(
            f"{name} learns {learned}, and FullyShardedDataParallel gives each rank a share of "
            f"the parameters, so that every rank would learn something else; {remedy}"
        )
    if False in marks:
        raise RuntimeError(
            f"{name} learns {learned} from parameters that FullyShardedDataParallel shards and "
            f"from others that every rank has, which would count once a rank; give the others an "
            f"optimizer of their own, or shard by fully_shard (FSDP2)"
        )


def packed(states: dict[Any, Any], parameters: Iterable[Tensor]) -> dict[Any, Any]:
    """The states of a state dict in a form that `FullyShardedDataParallel` accepts.

    It takes every tensor with a dimension for a shard of a parameter. The hyperparameters of a
    pending step are no shard, so they become a tuple of numbers. `parameters` are all of the
    optimizer.
    """
    if not any(map(_is_flattened, parameters)):
        return states
    return {
        key: {k: tuple(v.tolist()) if k == PENDING_HYPERS else v for k, v in state.items()}
        for key, state in states.items()
    }


def unpacked(state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state dict in which the tuples that `packed` has made are tensors again."""
    states = state_dict.get("state")
    if not isinstance(states, dict):
        return state_dict
    found = {}
    for key, state in states.items():
        if isinstance(state, dict) and _is_packed(state.get(PENDING_HYPERS)):
            row = torch.tensor(state[PENDING_HYPERS], dtype=torch.float64, device="cpu")
            found[key] = {**state, PENDING_HYPERS: row}
    return {**state_dict, "state": {**states, **found}} if found else state_dict


def place_of(parameter: Tensor) -> Place | None:
    """Where a shard of flattened parameters is, for elements that are sampled; None for others.

    Where it is in the parameters as they were is not known, so that it counts as a whole.
    """
    return Place.of_all(parameter) if _is_flattened(parameter) else None


def _is_packed(value: Any) -> bool:
    return isinstance(value, tuple | list) and all(type(x) is float for x in value)


def _is_flattened(parameter: Tensor) -> bool:
    return bool(getattr(parameter, _MARK, False))
