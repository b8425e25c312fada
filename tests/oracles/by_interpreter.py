"""An optimizer made of the interpreter: groups, missing gradients, hyper-gradients, in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from optdsl import interpret
from optdsl.ir.program import Program, Value
from tests.oracles.rounding32 import Near, evaluate


@dataclass
class Parameter:
    """A parameter, its states, and what the step before left.

    Attributes:
        theta: the parameter.
        t: the number of steps taken.
        state: the states after them.
        before: the states before the last one, which an engine may not have advanced yet.
        tangents: the derivatives of `theta` by each learned hyperparameter.
    """

    theta: Near
    t: int = 0
    state: dict[str, Near] = field(default_factory=dict)
    before: dict[str, Near] = field(default_factory=dict)
    tangents: dict[str, Near] = field(default_factory=dict)


@dataclass(frozen=True)
class Sum:
    """A hyper-gradient.

    Attributes:
        value: the sum of the products of gradient and tangent.
        size: the sum of their magnitudes.
        radius: the sum of the products of gradient and the tangent's error.
        weight: the sum of the gradient's magnitudes.
    """

    value: float = 0.0
    size: float = 0.0
    radius: float = 0.0
    weight: float = 0.0

    def __add__(self, other: Sum) -> Sum:
        return Sum(*(x + y for x, y in zip(astuple(self), astuple(other), strict=True)))


class ByInterpreter:
    """Parameters that are stepped one by one."""

    def __init__(self, program: Program, start: Sequence[Tensor], unit: float) -> None:
        """Begin.

        Args:
            program: differentiated, and nothing else.
            start: the parameters.
            unit: the largest relative error of a rounding of the arithmetic whose errors are kept
                account of; 0 keeps none.
        """
        self.program = program
        self.parameters = [Parameter(Near.exactly(x.detach().clone())) for x in start]
        self._unit = unit

    def step(
        self, gradients: Sequence[Tensor | None], hypers: Sequence[Mapping[str, float]]
    ) -> dict[str, Sum]:
        """Step each parameter that has a gradient; the hyper-gradients of the steps before."""
        sums: dict[str, Sum] = {}
        for parameter, g, own in zip(self.parameters, gradients, hypers, strict=True):
            if g is None:
                continue
            double = g.detach().double()
            for name, tangent in parameter.tangents.items():
                terms, size = double * tangent.value, double.abs()
                parts = (terms, terms.abs(), size * tangent.radius, size)
                found = Sum(*(float(x.sum()) for x in parts))
                sums[name] = sums.get(name, Sum()) + found
            self._advance(parameter, double, own)
        return sums

    def _advance(self, parameter: Parameter, g: Tensor, hypers: Mapping[str, float]) -> None:
        program, theta = self.program, parameter.theta
        if not parameter.t:
            exact = interpret.initial_state(program, theta.value, g, hypers)
            parameter.state = self._near(exact, program.initial_values, parameter, g, hypers)
        parameter.t += 1
        values = {name: x.value for name, x in parameter.state.items()}
        done = interpret.step(program, theta.value, g, values, hypers, parameter.t)
        near = self._near(
            {
                "theta": done.parameter,
                **done.state,
                **{f"d/{k}": x for k, x in done.tangents.items()},
            },
            program.step_values,
            parameter,
            g,
            hypers,
        )
        parameter.tangents = {k: near.pop(f"d/{k}") for k in done.tangents}
        parameter.before = parameter.state
        parameter.theta, parameter.state = near.pop("theta"), near

    def _near(
        self,
        exact: Mapping[str, Tensor],
        roots: Sequence[Value],
        parameter: Parameter,
        g: Tensor,
        hypers: Mapping[str, float],
    ) -> dict[str, Near]:
        """What the interpreter found, with radii."""
        if not self._unit:
            return {name: Near.exactly(x.clone()) for name, x in exact.items()}
        theta, state, t = parameter.theta, parameter.state, max(parameter.t, 1)
        found = evaluate(self.program, tuple(roots), theta, g, state, hypers, t, self._unit)
        near = {}
        for (name, x), root in zip(exact.items(), roots, strict=True):
            stored = found[root].rounded(self._unit)
            # The evaluation that has the radii is one of the same program.
            value = stored.value.expand(x.shape)
            # What becomes of a NaN that weighs nothing may differ; it bounds nothing then.
            numbers = ~(value.isnan() | x.isnan())
            torch.testing.assert_close(value[numbers], x[numbers], rtol=1e-9, atol=1e-12)
            radius = stored.radius.nan_to_num(torch.inf, torch.inf).expand(x.shape)
            near[name] = Near(x.clone(), radius.clone())
        return near
