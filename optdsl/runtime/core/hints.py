"""How torch's optimizers are told to compute: ``foreach``, ``fused``, ``capturable``.

They choose among torch's implementations and change no result, so they are taken as hints: they
are kept in the parameter groups, where trainers look for them, and the compiled kernels do not
depend on them. ``differentiable`` is no such hint: it asks for steps that autograd sees.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, MutableMapping
from typing import Any

# With their defaults, as in torch.
HINTS: Mapping[str, bool | None] = {
    "foreach": None,
    "fused": None,
    "capturable": False,
    "differentiable": False,
}


def taken_out(
    optimizer: str, given: MutableMapping[str, Any], hypers: Collection[str]
) -> dict[str, bool]:
    """Take the hints out of the keyword arguments of a constructor; those that ask for something.

    Args:
        optimizer: what errors call the optimizer.
        given: the keyword arguments, which lose the hints.
        hypers: the names of hyperparameters, which are no hints.

    Raises:
        TypeError: for a hint that is neither a bool nor None.
        ValueError: for ``differentiable=True``.
    """
    found = {name: given.pop(name) for name in HINTS if name in given and name not in hypers}
    check_hints(optimizer, found, hypers)
    return {name: bool(value) for name, value in found.items() if value}


def check_hints(optimizer: str, given: Mapping[str, Any], hypers: Collection[str]) -> None:
    """Refuse hints that cannot be followed, of a constructor or of a parameter group.

    Raises:
        TypeError, ValueError: as `taken_out`.
    """
    for name in HINTS:
        if name not in given or name in hypers:
            continue
        value = given[name]
        if not (value is None or isinstance(value, bool)):
            raise TypeError(f"{optimizer}: {name} must be True, False or None, not {value!r}")
        if name == "differentiable" and value:
            raise ValueError(
                f"{optimizer}: differentiable=True is not supported: a compiled step writes to "
                f"the parameters where autograd does not see it; to train hyperparameters by "
                f"their gradients, give `learn` to optdsl.load"
            )
