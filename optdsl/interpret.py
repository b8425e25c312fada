"""The reference meaning of a program: float64 tensors, one operation at a time.

Slow and plain on purpose: it is the oracle of every backend.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from optdsl import matrices
from optdsl.codecs import CODERS, dtype_of
from optdsl.ir import draws
from optdsl.ir.evaluate import Arithmetic, Code, Point, first_states
from optdsl.ir.lengths import own_lengths
from optdsl.ir.ops import DRAWS, LEAVES
from optdsl.ir.program import Operation, Program
from optdsl.ir.sections import flattened, is_turned, of_matrices, section_of, value_shape
from optdsl.ir.storage import PARAMETER, stored
from optdsl.ir.types import TAPS, TENSOR, Extent, Type
from optdsl.passes.specialize import specialize


@dataclass(frozen=True)
class Step:
    """What one step makes of a tensor; all float64.

    Attributes:
        parameter: the new parameter.
        state: the new states by name; shaped like the parameter, or () for scalars. Where the
            parameter is read as matrices, see `optdsl.ir.sections.value_shape`.
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
    "neg", "add", "sub", "mul", "div", "sqrt", "exp", "log", "tanh", "cos", "sin", "floor",
    "abs", "where", "lt", "le", "gt", "ge", "eq", "ne", "sum", "mean",
)  # fmt: skip
_APPLY: dict[str, Callable[..., Tensor]] = {
    **{opcode: getattr(torch, opcode) for opcode in _OF_TORCH},
    "define": lambda x: x,
    "stop_gradient": Tensor.detach,
    "pow": _pow,
    "mix": _mix,
    "sign": lambda x: torch.where(torch.isnan(x), x, torch.sign(x)),
    "sum_all": torch.sum,  # of the one tensor that there is here
    "max_all": torch.amax,
    "max_matrix": torch.amax,
    "min_matrix": torch.amin,
    "max": torch.maximum,
    "min": torch.minimum,
}


def _of_shape(operation: Operation, theta: Tensor, own: Mapping[str, int]) -> Tensor:
    """The value of a leaf that follows from the shape of a matrix."""
    size = value_shape(operation.type, theta.shape, own)
    if operation.opcode == "indices":
        return torch.arange(size[-2], dtype=torch.float64).unsqueeze(-1).expand(size)
    if operation.opcode == "identity":
        return torch.eye(size[-1], dtype=torch.float64).expand(size)
    if operation.attribute == TAPS:
        return _double(own[TAPS])
    return _double(theta.shape[-2 if operation.attribute == "rows" else -1])


def _drawn(
    origin: Origin,
    matrix: bool,
    own: Mapping[str, int],
    operation: Operation,
    counter: Tensor,
    theta: Tensor,
) -> Tensor:
    """Random numbers, one after the other."""
    size = theta.shape if operation.type.extent is Extent.TENSOR else torch.Size()
    if matrix:
        size = torch.Size(value_shape(operation.type, theta.shape, own))
    attribute, t = str(operation.attribute), float(counter)
    numbers = [draws.number(attribute, t, i, *origin) for i in range(size.numel())]
    return torch.tensor(numbers, dtype=torch.float64, device="cpu").reshape(size)


def spellings() -> frozenset[str]:
    """The operations that the interpreter knows."""
    return frozenset({*_APPLY, *matrices.OPERATIONS, *LEAVES, *DRAWS})


# Of what is drawn: the seed of the optimizer, and the number of the tensor in it.
Origin = tuple[int, int]


def initial_state(
    program: Program,
    parameter: Tensor,
    gradient: Tensor,
    hypers: Mapping[str, float | Tensor],
    origin: Origin = (0, 0),
) -> dict[str, Tensor]:
    """The states before the first step, given the first gradient.

    Args:
        program: any program, blended, differentiated or neither.
        parameter: the parameter, of any shape.
        gradient: the first gradient, of the same shape.
        hypers: a value for every hyperparameter; tensors stay on autograd's tape.
        origin: the seed and the number of the tensor, of which random numbers are functions.

    Raises:
        ValueError: for a parameter that no section of the program takes.
    """
    alone, theta, g = _read(program, parameter, gradient)
    own = own_lengths(alone, parameter.shape, hypers)
    arithmetic = _arithmetic(alone, Tensor.detach, own, origin)
    return first_states(alone, Point(theta, g, {}, hypers, 1, arithmetic))


def step(
    program: Program,
    parameter: Tensor,
    gradient: Tensor,
    state: Mapping[str, Tensor],
    hypers: Mapping[str, float | Tensor],
    t: int,
    stop_gradient: Callable[[Tensor], Tensor] = Tensor.detach,
    origin: Origin = (0, 0),
    dtype: torch.dtype = torch.float64,
) -> Step:
    """One step; see `initial_state` for the arguments and errors, `t` counts from 1.

    `stop_gradient` computes the operation of that name, in program order. `dtype` is that of the
    parameter, if the rule says how it is stored. What is stored is given as the next step sees it.
    """
    alone, theta, g = _read(program, parameter, gradient)
    own = own_lengths(alone, parameter.shape, hypers)
    arithmetic = _arithmetic(alone, stop_gradient, own, origin)
    at = Point(theta, g, state, hypers, t, arithmetic)
    values = Code(alone, alone.step_values, arithmetic).evaluated(at)
    codecs = stored(alone)

    def kept(name: str, value: Tensor) -> Tensor:
        if name not in codecs:
            return value
        attribute, own = f"uniform store {name}", dtype_of(codecs[name].buffers[0], dtype)
        coder = CODERS[codecs[name].name]
        uniform = [draws.number(attribute, float(t), i, *origin) for i in range(value.numel())]
        drawn = torch.tensor(uniform, dtype=torch.float64, device="cpu").reshape(value.shape)
        return coder.decode(coder.encode(value, own, lambda _: drawn), torch.float64)

    return Step(
        _written(alone, kept(PARAMETER, at.extended(values[alone.parameter], TENSOR)), parameter),
        {s.name: kept(s.name, at.extended(values[s.next], s.type)) for s in alone.states},
        {
            t.hyper: _written(alone, at.extended(values[t.value], TENSOR), parameter)
            for t in alone.tangents
        },
    )


def evaluation_point(
    program: Program,
    parameter: Tensor,
    state: Mapping[str, Tensor],
    hypers: Mapping[str, float | Tensor],
    t: int,
) -> Tensor:
    """The point at which the model is evaluated after step `t`; see `step` for the arguments."""
    alone, theta, _ = _read(program, parameter, parameter)
    arithmetic = _arithmetic(alone, Tensor.detach, own_lengths(alone, parameter.shape, hypers))
    at = Point(theta, theta, state, hypers, t, arithmetic)
    if alone.evaluation is None:
        return _written(alone, theta, parameter)
    found = Code(alone, alone.points, arithmetic).evaluated(at)
    point: Tensor = at.extended(found[alone.evaluation], TENSOR)
    return _written(alone, point, parameter)


def _read(program: Program, parameter: Tensor, gradient: Tensor) -> tuple[Program, Tensor, Tensor]:
    """The program of the section that takes a parameter, which is read as the section does."""
    if program.sections:
        section = section_of(program.sections, parameter.shape)
        if section is None:
            raise ValueError(
                f"no section of {program.name} takes a tensor of shape {tuple(parameter.shape)}"
            )
        program = specialize(program, section)
    theta, g = (_turned(program, _double(x), parameter) for x in (parameter, gradient))
    return program, theta, g


def _turned(program: Program, x: Tensor, parameter: Tensor) -> Tensor:
    """A tensor that is shaped like the parameter, as the program reads it."""
    matrices = x.reshape(flattened(program.kind, parameter.shape))
    return matrices.mT if is_turned(program.kind, parameter.shape) else matrices


def _written(program: Program, x: Tensor, parameter: Tensor) -> Tensor:
    """A value of the program in the place of the parameter, with its shape."""
    return (x.mT if is_turned(program.kind, parameter.shape) else x).reshape(parameter.shape)


def _arithmetic(
    program: Program,
    stop_gradient: Callable[[Tensor], Tensor],
    own: Mapping[str, int],
    origin: Origin = (0, 0),
) -> Arithmetic:
    """The operations on the tensors of a program; `own` has the lengths of its axes."""
    matrix = of_matrices(program.kind)
    functions = {
        **_APPLY,
        **(matrices.OPERATIONS if matrix else {}),
        "stop_gradient": stop_gradient,
    }
    return Arithmetic(
        lambda opcode, _: functions[opcode],
        _double,
        _double,
        (lambda x: x.shape[-2] * x.shape[-1]) if matrix else Tensor.numel,
        functools.partial(_matrix_expanded, own=own) if matrix else _expanded,
        functools.partial(_of_shape, own=own),
        functools.partial(_drawn, origin, matrix, own),
    )


def _expanded(value: Tensor, theta: Tensor, kind: Type) -> Tensor:
    return value.expand(theta.shape) if kind.extent is Extent.TENSOR else value


def _matrix_expanded(value: Tensor, theta: Tensor, kind: Type, own: Mapping[str, int]) -> Tensor:
    return value.expand(value_shape(kind, theta.shape, own))


def _double(value: object) -> Tensor:
    if isinstance(value, Tensor):
        return value.to(torch.float64)
    # Whatever the default device is.
    return torch.as_tensor(value, dtype=torch.float64, device="cpu")
