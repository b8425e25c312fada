"""Steps that `torch.compile` does not trace.

A step calls compiled kernels and changes states in place. Dynamo has nothing to fuse there, and
tracing it took minutes, or failed, depending on the version of torch. So a compiled function that
calls ``optimizer.step()`` has a graph break there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def make_step_opaque(cls: type[torch.optim.Optimizer]) -> None:
    """Hide from Dynamo the methods of an optimizer class that compute with states.

    It is called for every new optimizer, and does nothing after the first one of a class. Torch has
    wrapped the class's step in hooks by then, which are hidden, too, and has imported Dynamo
    itself; importing optdsl alone does not import it.
    """
    if getattr(cls.step, "opaque", False):
        return
    for name in ("step", "observe", "completed_state"):
        setattr(cls, name, _hidden(getattr(cls, name)))


def _hidden(method: Callable[..., Any]) -> Callable[..., Any]:
    # For torch.compile(optimizer.step), older versions of torch would unwrap the disabled function
    # itself and lose the optimizer that it is bound to; hence another function around it.
    hidden = torch.compiler.disable(method)  # type: ignore[no-untyped-call]

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        return hidden(*args, **kwargs)

    called.opaque = True  # type: ignore[attr-defined]
    return called
