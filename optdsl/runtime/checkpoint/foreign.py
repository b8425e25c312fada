"""Arguments that are not states of compiled optimizers, such as states of torch's own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# The states of torch's Adam and AdamW.
_MOMENTS = {"exp_avg", "exp_avg_sq", "max_exp_avg_sq"}
# What the groups of torch's Adam, AdamW and SGD have in every version, which torch's other
# optimizers with such states and options do not have.
_ADAM = {"betas", "amsgrad"}
_SGD = {"dampening", "nesterov"}


def check_mapping(state_dict: Any) -> None:
    """Refuse an argument that is not a mapping, such as the optimizer itself.

    Raises:
        TypeError: the message says what to pass instead.
    """
    if isinstance(state_dict, Mapping):
        return
    way = "give its state_dict()" if hasattr(state_dict, "state_dict") else "give a state dict"
    raise TypeError(f"a {type(state_dict).__name__} is no state of an optimizer: {way}")


def check_native(optimizer: str, state_dict: Mapping[str, Any], own: Collection[str]) -> None:
    """Refuse a state of torch's Adam, AdamW or SGD.

    Args:
        optimizer: the name of the optimizer for the message.
        state_dict: a state dict whose structure was checked.
        own: the names of the optimizer's states and hyperparameters.

    Raises:
        ValueError: for such a state; the message says how to convert it.
    """
    if {"specification", "meaning"} & state_dict.keys():
        return
    kept = {str(key) for state in state_dict["state"].values() for key in state} - {*own}
    groups = state_dict["param_groups"]
    held = {str(key) for group in groups for key in group}
    as_sgd = "momentum_buffer" in kept or held - {*own} >= _SGD
    as_adam = "beta1" not in held and (_MOMENTS & kept or held >= _ADAM)
    if not (as_sgd or as_adam):
        return
    if as_sgd and held >= _SGD:
        name, rule = "SGD", "sgd"
    elif as_adam and held >= _ADAM:
        decoupled = any(group.get("decoupled_weight_decay") for group in groups)
        maximum = not decoupled and any(group.get("amsgrad") for group in groups)
        name, rule = ("AdamW", "adamw") if decoupled else ("Adam", "amsgrad" if maximum else "adam")
    else:
        raise ValueError(
            f"this is a state of an optimizer of torch's, and not one of {optimizer}: states of "
            "torch's Adam, AdamW and SGD alone can be converted, by optdsl.from_torch"
        )
    raise ValueError(
        f"this is a state of torch's {name}, and not one of {optimizer}: "
        f'optdsl.from_torch(state_dict, "{rule}") makes it one of {rule}, which loads it'
    )
