"""How states and hyperparameters are called that no rule declares; only this file spells them."""

from __future__ import annotations

_PENDING, _TANGENT, _VALUE = "pending/", "tangent/", "value/"
# In a parameter's state in eval mode: the parameter as it is trained.
TRAINED = "trained/theta"


def pending(name: str) -> str:
    """The name of a value of the step that is pending."""
    return _PENDING + name


def tangent(hyper: str) -> str:
    """The state that stores the tangent of a hyperparameter until the next gradient is known."""
    return _TANGENT + hyper


# In a state: the sample of which its pending step keeps something, where it is not the rule's own.
SAMPLE = pending("sample")


def value(digest: str) -> str:
    """The state that keeps a value of the pending step, which has this digest."""
    return pending(_VALUE + digest)


def is_value(key: object) -> bool:
    """Whether a name is one of `value`."""
    return str(key).startswith(_PENDING + _VALUE)


def is_pending(key: object) -> bool:
    """Whether a name is one of `pending`."""
    return str(key).startswith(_PENDING)


def is_added(key: object) -> bool:
    """Whether a state is none of the rule's own, but one that a plan or eval mode has added."""
    return key == TRAINED or str(key).startswith((_PENDING, _TANGENT))
