"""One face for the implementations of a program: the interpreter, emitted code, autograd."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from optdsl import interpret
from optdsl.backends.eager import EagerBackend
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.ir.verify import verify
from optdsl.passes.pipeline import run_passes
from optdsl.plan import plans
from optdsl.runtime.build.python_modules import build
from optdsl.schedule import schedule
from optdsl.specifications import library

Hypers = Mapping[str, float | Tensor]
States = dict[str, Tensor]


def read_spec(name: str) -> Program:
    """A specification of the library, lowered and nothing else; its claims are not decided."""
    return library.read(library.open_source(name), verify=False)


def read_text(text: str) -> Program:
    """The same for a specification's text."""
    return library.read(Source("<text>", text), verify=False)


class Runner(Protocol):
    """How to start and step one tensor."""

    def start(self, theta: Tensor, g: Tensor, hypers: Hypers) -> States:
        """The states before the first step."""

    def step(
        self, theta: Tensor, g: Tensor, state: States, hypers: Hypers, t: int
    ) -> interpret.Step:
        """One step."""


@dataclass(frozen=True)
class Interpreter:
    """The program evaluated one operation at a time."""

    program: Program

    def start(self, theta: Tensor, g: Tensor, hypers: Hypers) -> States:
        return interpret.initial_state(self.program, theta, g, hypers)

    def step(
        self, theta: Tensor, g: Tensor, state: States, hypers: Hypers, t: int
    ) -> interpret.Step:
        return interpret.step(self.program, theta, g, state, hypers, t)


class Eager:
    """The program through every pass and the eager backend."""

    def __init__(self, program: Program) -> None:
        optimized = run_passes(verify(program))
        (plan,) = plans(optimized, rounded=False, kinds=("stored",))
        self._rule = build(EagerBackend().emit(schedule(plan)))
        self._tangents = [t.hyper for t in program.tangents]

    def start(self, theta: Tensor, g: Tensor, hypers: Hypers) -> States:
        found = self._rule.initialize(theta, g, {}, dict(hypers), 1.0)
        return {k: v for k, v in found.items() if not k.startswith("tangent/")}

    def step(
        self, theta: Tensor, g: Tensor, state: States, hypers: Hypers, t: int
    ) -> interpret.Step:
        found = self._rule.step(theta, g, state, dict(hypers), float(t))
        parameter = found.pop("theta")
        tangents = {name: found.pop(f"tangent/{name}") for name in self._tangents}
        return interpret.Step(parameter, found, tangents)


def warmed_up(
    runner: Runner, theta: Tensor, gradients: Iterable[Tensor], hypers: Hypers
) -> tuple[Tensor, States, int]:
    """Parameter and states after the given gradients, and the number of steps taken."""
    state: States = {}
    t = 0
    for t, g in enumerate(gradients, start=1):
        state = state if t > 1 else runner.start(theta, g, hypers)
        result = runner.step(theta, g, state, hypers, t)
        theta, state = result.parameter, result.state
    return theta, state, t


def jacobian(function: Callable[[Tensor], Tensor], at: float) -> Tensor:
    """The derivative of a tensor by a number, element by element, from autograd's tape."""
    point = torch.tensor(at, dtype=torch.float64)
    found = torch.autograd.functional.jacobian(function, point)
    assert isinstance(found, Tensor)
    return found
