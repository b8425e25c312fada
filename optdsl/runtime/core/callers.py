"""Whose line a warning is about."""

from __future__ import annotations

import sys

# What lies between an optimizer and the user's line that made it or took a step.
# (Schedulers, hooks, scalers and Dynamo of torch wrap a step.)
_BETWEEN = ("optdsl.runtime.", "torch.")


def outside() -> int:
    """The stack level, for a warning of the caller's, of the first frame outside of optimizers."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_BETWEEN):
        level, frame = level + 1, frame.f_back
    return level
