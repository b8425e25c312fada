"""The reference meaning of a program: float64 tensors, one operation at a time.

Slow and plain on purpose: it is the oracle of every backend.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optdsl.ir.evaluate import Arithmetic, Code, Point, first_states
from optdsl.ir.ops import LEAVES
from optdsl.ir.program import Program
from optdsl.ir.types import TENSOR


@dataclass(frozen=True)
class Step:
    """What one step makes of a tensor; all float64.

    Attributes:
        parameter: the new parameter.
        state: the new states by name; shaped like the parameter, or () for scalars.
        tangents: the derivatives of `parameter` by hyperparameter, shaped like it.
    """

    parameter: Tensor
    state: dict[str, Tensor]
    tangents: dict[str, Tensor]


def _pow(x: Tensor, y: Tensor) -> Tensor:
    """x^y; a plain number as exponent is given as one, so that a square is x * x to the bit."""
    if y.ndim == 0 and not y.requires_grad:
        return torch.pow(x, y.item())
    if y.requires_grad or not bool((y.abs() == 0.5).any()):
        return torch.pow(x, y)
    # Powers of 1/2 and -1/2 are roots, as where the exponent is a number.
    root = torch.sqrt(x)
    return torch.where(y == 0.5, root, torch.where(y == -0.5, 1 / root, torch.pow(x, y)))


def _mix(*parts: Tensor) -> Tensor:
    """See the table. On autograd's tape, the derivative by a weight is what its part adds."""
    pairs = list(zip(parts[0::2], parts[1::2], strict=True))
    total, mean = torch.zeros((), dtype=torch.float64, device="cpu"), pairs[0][1].detach()
    for weight, x in ((w.detach(), x.detach()) for w, x in pairs):
        total = total + weight
        share = weight / total
        gap = mean - x
        # Infinities have no difference, but they have a mean.
        apart = (1 - share) * mean + share * x
        moved = torch.where(gap.isfinite(), mean - share * gap, apart)
        moved = torch.where(share == 1, x, moved)
        mean = torch.where(weight == 0, mean, moved)
    if not any(p.requires_grad for p in parts):
        return mean
    # This sum is zero, and has the derivatives of the mean.
    change = torch.zeros((), dtype=torch.float64, device="cpu")
    for weight, x in pairs:
        hidden = (weight == 0) & ~torch.isfinite(x)
        change = change + weight * (torch.where(hidden, mean, x) - mean)
    return mean + (change - change.detach())


# What torch calls by the opcode itself.
_OF_TORCH = (
    "neg", "add", "sub", "mul", "div", "sqrt", "exp", "log", "tanh", "abs", "where",
    "lt", "le", "gt", "ge", "eq", "ne", "sum", "mean",
)  # fmt: skip
_APPLY: dict[str, Callable[..., Tensor]] = {
    **{opcode: getattr(torch, opcode) for opcode in _OF_TORCH},
    "define": lambda x: x,
    "stop_gradient": Tensor.detach,
    "pow": _pow,
    "mix": _mix,
    "sign": lambda x: torch.where(torch.isnan(x), x, torch.sign(x)),
    "max": torch.maximum,
    "min": torch.minimum,
}


def spellings() -> frozenset[str]:
    """The operations that the interpreter knows."""
    return frozenset({*_APPLY, *LEAVES})


def initial_state(
    program: Program, parameter: Tensor, gradient: Tensor, hypers: Mapping[str, float | Tensor]
) -> dict[str, Tensor]:
    """The states before the first step, given the first gradient.

    Args:
        program: any program, blended, differentiated or neither.
        parameter: the parameter, of any shape.
        gradient: the first gradient, of the same shape.
        hypers: a value for every hyperparameter; tensors stay on autograd's tape.
    """
    at = Point(_double(parameter), _double(gradient), {}, hypers, 1, _TORCH)
    return first_states(program, at)


def step(
    program: Program,
    parameter: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    hypers: Mapping[str, float | Tensor],
    t: int,
    stop_gradient: Callable[[Tensor], Tensor] = Tensor.detach,
) -> Step:
    """One step; see `initial_state` for the arguments, `t` counts from 1.

    `stop_gradient` computes the operation of that name, in program order.
    """
    functions = {**_APPLY, "stop_gradient": stop_gradient}
    arithmetic = replace(_TORCH, function=lambda opcode, _: functions[opcode])
    at = Point(_double(parameter), _double(gradient), state, hypers, t, arithmetic)
    values = Code(program, program.step_values, arithmetic).evaluated(at)
    return Step(
        at.extended(values[program.parameter], TENSOR),
        {s.name: at.extended(values[s.next], s.type) for s in program.states},
        {t.hyper: at.extended(values[t.value], TENSOR) for t in program.tangents},
    )


def evaluation_point(
    program: Program,
    parameter: Tensor,
    state: Mapping[str, Tensor],
    hypers: Mapping[str, float | Tensor],
    t: int,
) -> Tensor:
    """The point at which the model is evaluated after step `t`; see `step` for the arguments."""
    theta = _double(parameter)
    at = Point(theta, theta, state, hypers, t, _TORCH)
    if program.evaluation is None:
        return theta
    found = Code(program, program.points, _TORCH).evaluated(at)
    point: Tensor = at.extended(found[program.evaluation], TENSOR)
    return point


def _double(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    # Whatever the default device is.
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")


_TORCH = Arithmetic(
    lambda opcode, _: _APPLY[opcode],
    _double,
    _double,
    Tensor.numel,
    lambda value, like: value.expand(like.shape),
)
