"""A rule on one number, as a Python function of floats.

Millions of steps on a parameter of one element take hours as steps of a torch optimizer, whatever
the backend.  Here the compiler's differentiated program becomes straight-line Python on floats,
with the operations that its table has for them: the same equations and the same tangents in
float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from optdsl.elaboration import Elaboration
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Learned, Program, Value
from optdsl.passes.pipeline import run_passes
from optdsl.passes.scalarize import scalarize

_INFIX = {"add": "+", "sub": "-", "mul": "*"}


def compiled(program: Program, results: tuple[Value, ...]) -> Callable[..., tuple[float, ...]]:
    """Returns a function of (theta, g, t, states, hypers) that returns some values of a program.

    Args:
        program: A program of uniform values; see `optdsl.passes.scalarize`.
        results: The values.
    """
    names: dict[str, Any] = {}
    lines = ["def step(theta, g, t, state, hyper):"]
    for value in program.needed(results):
        operation = program.operations[value]
        x = [f"x{a}" for a in operation.arguments]
        match operation.opcode:
            case "constant":
                names[f"c{value}"] = operation.attribute
                said = f"c{value}"
            case "hyper":
                said = f"hyper[{operation.attribute!r}]"
            case "state":
                said = f"state[{operation.attribute!r}]"
            case "step":
                said = "t"
            case "gradient":
                said = "g"
            case "parameter":
                said = "theta"
            case "define" | "stop_gradient":
                said = x[0]
            case "neg":
                said = f"-{x[0]}"
            case opcode if opcode in _INFIX:
                said = f"{x[0]} {_INFIX[opcode]} {x[1]}"
            case opcode:
                names[opcode] = TABLE[opcode].apply
                said = f"{opcode}({', '.join(x)})"
        lines.append(f"    x{value} = {said}")
    lines.append(f"    return ({''.join(f'x{r}, ' for r in results)})")
    # `where`, `min` and others are functions of the table here, and not Python's own.
    exec("\n".join(lines), names)
    found: Callable[..., tuple[float, ...]] = names["step"]
    return found


@dataclass
class _Stepper:
    """A program on one number, with its states."""

    program: Program
    state: dict[str, float] = field(default_factory=dict)
    t: float = 0.0

    def __post_init__(self) -> None:
        values = (*self.program.carried_values, *(t.value for t in self.program.tangents))
        self._step = compiled(self.program, values)
        self._first = compiled(self.program, self.program.initial_values)
        self._states = tuple(s.name for s in self.program.states)

    def step(self, theta: float, g: float, hypers: Mapping[str, float]) -> tuple[float, ...]:
        """Takes a step; returns the new number and the tangents."""
        if not self.t:
            first = self._first(theta, g, 1.0, {}, hypers)
            self.state = dict(zip(self._states, first, strict=True))
        self.t += 1.0
        new, *rest = self._step(theta, g, self.t, self.state, hypers)
        self.state = dict(zip(self._states, rest, strict=False))
        return new, *rest[len(self._states) :]


class ScalarOptimizer:
    """A rule with all that it learns, on one number; coefficients learn before the step.

    Attributes:
        hypers: The values of all hyperparameters.
    """

    def __init__(self, elaboration: Elaboration, hypers: Mapping[str, float]) -> None:
        """Prepares a rule.

        Args:
            elaboration: The rule.
            hypers: The hyperparameters that differ from the defaults.

        Raises:
            ValueError: It learns a weight vector, or by another signal than the hyper-gradient.
        """
        program = elaboration.program
        for learned in elaboration.learned:
            if learned.signal != "raw" or program.simplex_of(learned.hyper):
                raise ValueError(f"'{learned.hyper}' is learned in a way that is not known here")
        self.hypers = {**program.defaults, **hypers}
        self._stepper = _Stepper(run_passes(scalarize(program)))
        tangents = {t.hyper: i for i, t in enumerate(program.tangents)}
        self._coefficients = [
            (c.learned, tangents[c.name], _Stepper(c.rule), self._rule_hypers(c.rule, c.learned))
            for c in elaboration.coefficients
        ]
        self._tangents: tuple[float, ...] = ()
        self._taken = 0

    @staticmethod
    def _rule_hypers(rule: Program, learned: Learned) -> dict[str, float]:
        return {**rule.defaults, **dict(learned.options)}

    def step(self, theta: float, g: float) -> float:
        """Learns from a gradient, takes the step, and returns the new number."""
        if self._tangents:
            for learned, place, stepper, hypers in self._coefficients:
                slope = g * self._tangents[place]
                if self._taken < learned.after or not math.isfinite(slope):
                    continue
                if learned.clip is not None:
                    slope = min(max(slope, -learned.clip), learned.clip)
                moved = stepper.step(self.hypers[learned.hyper], slope, hypers)[0]
                low, high = learned.bounds.lower, learned.bounds.upper
                self.hypers[learned.hyper] = min(max(moved, low), high)
        new, *tangents = self._stepper.step(theta, g, self.hypers)
        self._tangents = tuple(tangents)
        self._taken += 1
        return new
