"""States that come from elsewhere: an optimizer in place of its state, a state of torch's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# What torch's optimizers keep and no rule that is written here has to.
_MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}


def check_mapping(state_dict: Any) -> None:
    """Refuse what is no state dict at all, such as the optimizer itself.

    Raises:
        TypeError: with what to give.
    """
    if isinstance(state_dict, Mapping):
        return
    way = "give its state_dict()" if hasattr(state_dict, "state_dict") else "give a state dict"
    raise TypeError(f"a {type(state_dict).__name__} is no state of an optimizer: {way}")


def check_native(optimizer: str, state_dict: Mapping[str, Any], own: Collection[str]) -> None:
    """Refuse a state of torch's Adam, AdamW or SGD, with how to take it over.

    Args:
        optimizer: what the error calls the optimizer.
        state_dict: of a structure that was checked.
        own: the states and hyperparameters that the optimizer has.

    Raises:
        ValueError: where the state is one of them.
    """
    if {"specification", "meaning"} & state_dict.keys():
        return
    kept = {str(key) for state in state_dict["state"].values() for key in state} - {*own}
    groups = state_dict["param_groups"]
    held = {str(key) for group in groups for key in group}
    if "momentum_buffer" in kept or {"dampening", "nesterov"} <= held - {*own}:
        name, rule = "SGD", "sgd"
    elif "beta1" not in held and (_MOMENTS & kept or {"betas", "amsgrad"} <= held):
        decoupled = any(group.get("decoupled_weight_decay") for group in groups)
        maximum = not decoupled and any(group.get("amsgrad") for group in groups)
        name, rule = ("AdamW", "adamw") if decoupled else ("Adam", "amsgrad" if maximum else "adam")
    else:
        return
    raise ValueError(
        f"this is a state of torch's {name}, and not one of {optimizer}: "
        f'optdsl.from_torch(state_dict, "{rule}") makes it one of {rule}, which loads it'
    )
