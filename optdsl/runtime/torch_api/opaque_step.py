"""Steps that `torch.compile` does not look into.

A step calls compiled kernels and changes states in place; there is nothing for Dynamo to fuse, and
tracing it took minutes, or failed, depending on the version of torch. With this module a compiled
function that calls ``optimizer.step()`` has a graph break there, and no part of the step is traced.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch


def make_step_opaque(cls: type[torch.optim.Optimizer]) -> None:
    """Hide the step of an optimizer class from Dynamo, and what computes with states, once a class.

    It is called when an optimizer has been made: by then torch has put its hooks around the
    class's step, which are hidden with it, and has imported Dynamo for methods of its own. So
    importing optdsl does not import Dynamo.
    """
    if getattr(cls.step, "opaque", False):
        return
    for name in ("step", "observe", "completed_state"):
        setattr(cls, name, _hidden(getattr(cls, name)))


def _hidden(method: Callable[..., Any]) -> Callable[..., Any]:
    # For torch.compile(optimizer.step), older versions of torch would unwrap a function that is
    # itself the disabled one, and lose the optimizer that it is bound to.
    hidden = torch.compiler.disable(method)  # type: ignore[no-untyped-call]

    @functools.wraps(method)
    def called(*args: Any, **kwargs: Any) -> Any:
        return hidden(*args, **kwargs)

    called.opaque = True  # type: ignore[attr-defined]
    return called
