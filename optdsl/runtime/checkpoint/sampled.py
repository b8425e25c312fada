"""What a state dict says of the sample from which a pending hyper-gradient is estimated.

What is kept for a pending step belongs to the sampled elements only, and its shape does not tell
which they are. So a state dict has the sample (`SAMPLE`) beside it, unless every element counts. An
optimizer does not: there it is the rule's own, and a state of another one keeps the entry until its
step is completed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from optdsl.plan.keys import SAMPLE, TRAINED, is_added
from optdsl.runtime.core.owned_numbers import without_values
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.sampled.choice import sample_of
from optdsl.words import LARGEST_SAMPLE

State = Mapping[str, Any]


def keeps(key: object) -> bool:
    """Whether a key is of what is kept of the sampled elements for a pending step."""
    return is_added(key) and key not in {TRAINED, SAMPLE}


def marked(optimizer: LearningOptimizer, states: Mapping[Any, State]) -> dict[Any, State]:
    """States as a state dict has them; `states` are those of the optimizer."""
    size = optimizer.compiled.program.sample
    found = dict(states)
    for index, state in states.items() if size > 1 else ():
        if SAMPLE not in state and any(map(keeps, state)):
            found[index] = {**state, SAMPLE: entry(size)}
    return found


def saved_sample(state: State) -> int:
    """The sample of a state of a state dict.

    Raises:
        ValueError: for what is no whole number from 1 to the largest.
    """
    if SAMPLE not in state:
        return 1
    found = state[SAMPLE]
    number = float("nan")
    if isinstance(found, Tensor) and found.numel() == 1 and not without_values(found):
        number = float(found)
    if not (1 <= number <= LARGEST_SAMPLE and number == int(number)):
        raise ValueError(f"{SAMPLE} is {found!r}, and no whole number from 1 to {LARGEST_SAMPLE}")
    return int(number)


def shapes(parameter: Tensor, size: int) -> list[torch.Size]:
    """The shapes that something may have that is kept of a parameter for a pending step."""
    sample = sample_of(parameter.shape, size)
    # Of a shard it has the shard's shape; see `optdsl.runtime.engines.sampled.tensors`.
    return [parameter.shape] if sample.whole else [torch.Size([sample.count]), parameter.shape]


def settle(optimizer: LearningOptimizer, parameter: Tensor, saved: State) -> None:
    """Note the sample of a loaded state where it is not the rule's own.

    Args:
        optimizer: it has loaded the state.
        parameter: the parameter of the state.
        saved: the state, as it was saved.
    """
    state, size = optimizer.state[parameter], saved_sample(saved)
    state.pop(SAMPLE, None)
    if size != optimizer.compiled.program.sample and any(map(keeps, state)):
        state[SAMPLE] = entry(size)


def entry(size: int) -> Tensor:
    """The entry `SAMPLE` of a state."""
    return torch.tensor(float(size), dtype=torch.float64, device="cpu")
