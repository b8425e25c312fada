"""How states and hyperparameters that plans add are called; no other file spells these names."""

from __future__ import annotations

_PENDING, _TANGENT = "pending/", "tangent/"


def pending(name: str) -> str:
    """The name of a value of the step that is pending."""
    return _PENDING + name


def tangent(hyper: str) -> str:
    """The state that stores the tangent of a hyperparameter until the next gradient is known."""
    return _TANGENT + hyper


def is_pending(key: object) -> bool:
    """Whether a name is one of `pending`."""
    return str(key).startswith(_PENDING)


def is_added(key: object) -> bool:
    """Whether a state is one that a plan has added to those of the rule."""
    return str(key).startswith((_PENDING, _TANGENT))
