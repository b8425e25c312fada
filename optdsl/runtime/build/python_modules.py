"""From emitted Python text to functions."""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from optdsl.backends.base import PIECES, PIECES_OUTSIDE, EntryPoint, SourceModule


@dataclass(frozen=True)
class Function:
    """A built entry point, called with named values."""

    entry: EntryPoint
    call: Callable[..., tuple[Any, ...]]

    def __call__(
        self,
        theta: Any,
        g: Any,
        state: dict[str, Any],
        hypers: dict[str, Any],
        t: float,
        out: Any = None,
        draws: Any = None,
    ) -> dict[str, Any]:
        """Call it with the arguments that it takes; the results by name.

        Args:
            theta: the parameter.
            g: the gradient.
            state: the states by name.
            hypers: the hyperparameters by name.
            t: the number of the step.
            out: memory for the new parameter, or None; a function that does not write there
                returns another tensor.
            draws: what draws random numbers for the parameter.

        Raises:
            RuntimeError: where it draws random numbers and is not told of which tensor.
        """
        values = (hypers[name] for name in self.entry.hypers)
        keywords = dict(zip(self.entry.keywords, values, strict=True))
        if self.entry.takes_step:
            keywords["t"] = t
        if self.entry.writes:
            keywords["out"] = out
        if self.entry.draws:
            if draws is None:
                raise RuntimeError(
                    "random numbers are drawn, and it is not known for which tensor of which "
                    "optimizer; this is a defect of optdsl"
                )
            keywords["draws"] = draws
        results = self.call(theta, g, *(state[s] for s in self.entry.states), **keywords)
        return dict(zip(self.entry.results, results, strict=True))


class Runs(Protocol):
    """A built entry point."""

    @property
    def entry(self) -> EntryPoint:
        """What it takes and returns."""

    @property
    def __call__(self) -> Callable[..., dict[str, Any]]:
        """See `Function`."""


@dataclass(frozen=True)
class Rule:
    """A built rule: how its states start, and its step; all are called as a `Function` is.

    Where hyper-gradients are estimated from a sample, `outside` is the step of other elements.
    """

    initialize: Runs
    step: Runs
    outside: Runs | None = None
    pieces: Function | None = None
    """The step of pieces of tensors, where the text has it; called by `optdsl.runtime.engines`."""
    pieces_outside: Function | None = None
    """The same for elements outside the sample."""


def module(source: SourceModule) -> ModuleType:
    """The module of an emitted Python text, executed once; tracebacks show its lines."""
    digest = hashlib.sha256(source.text.encode()).hexdigest()[:12]
    name = f"optdsl_generated_{source.name}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    filename = f"<{name}>"
    linecache.cache[filename] = (len(source.text), None, source.text.splitlines(True), filename)
    # torch.compile looks for the module of every function that it traces.
    found = sys.modules[name] = ModuleType(name)
    exec(compile(source.text, filename, "exec"), found.__dict__)
    return found


def function(source: SourceModule, name: str) -> Function:
    """A function of an emitted Python module."""
    return Function(source.entries[name], getattr(module(source), name))


def build(source: SourceModule) -> Rule:
    """The functions of an emitted Python module that is a rule."""
    others = ("step_outside", PIECES, PIECES_OUTSIDE)
    found = (function(source, n) if n in source.entries else None for n in others)
    return Rule(function(source, "initialize"), function(source, "step"), *found)
