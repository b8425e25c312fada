"""The emitted module that moves the coefficients of a rule on a device."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

from optdsl.runtime.build.python_modules import module
from optdsl.runtime.engines.compiled import Compiled


def learning_module(compiled: Compiled, dots: Sequence[str]) -> ModuleType | None:
    """The built module that moves the coefficients of a rule; None if nothing is measured.

    `dots` are the coefficients whose hyper-gradients are measured, in order.
    """
    if not compiled.coefficients or not dots:
        return None
    name = compiled.program.name
    return module(compiled.back.device_learning(name, compiled.blocks, dots, compiled.order))
