"""How far rounding alone may carry two faithful evaluations of a program apart.

IEEE arithmetic has one answer, so add, sub, mul and div agree to the bit wherever they run. A
power or an exponential does not: vectorized code and the C library are each within one unit in the
last place of the truth, so they may differ by two. What that does to a result depends on what the
program makes of it (1 - b^t with b near 1 amplifies it, sign() may turn on it), so it is measured:
the program runs a few times with every such operation off by some units.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from optdsl import interpret
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import UNIFORM
from tests.oracles.running import Runner

# What IEEE 754 does not round correctly, and sums, whose order is free.
INEXACT = frozenset({"pow", "sqrt", "exp", "log", "tanh", "cos", "sin", "sum", "mean"})
_UNITS = 8.0
_ULP = torch.finfo(torch.float64).eps
# Below this nothing is claimed: in the subnormal range an error is not relative any more.
_FLOOR = 1e-100


@dataclass(frozen=True)
class Nudged:
    """A program whose inexact operations can be moved by a factor each.

    Attributes:
        program: the program with a multiplication after each of them.
        knobs: the names of the hyperparameters that hold the factors.
    """

    program: Program
    knobs: tuple[str, ...]

    def patterns(self) -> list[dict[str, float]]:
        """All up, all down, each second one, and a few arbitrary ones."""
        up, down = 1 + _UNITS * _ULP, 1 - _UNITS * _ULP
        generator = torch.Generator().manual_seed(0)
        signs = [
            [True] * len(self.knobs),
            [False] * len(self.knobs),
            [i % 2 == 0 for i in range(len(self.knobs))],
            [i % 2 == 1 for i in range(len(self.knobs))],
        ]
        for _ in range(4):
            drawn = torch.rand(len(self.knobs), generator=generator)
            signs.append([bool(x > 0.5) for x in drawn])
        return [
            {knob: up if high else down for knob, high in zip(self.knobs, pattern, strict=True)}
            for pattern in signs
        ]


def nudged(program: Program) -> Nudged:
    """The program with a knob on each inexact operation; all knobs at 1 change nothing."""
    operations: list[Operation] = []
    new: list[Value] = []
    knobs: list[str] = []
    for operation in program.operations:
        moved = replace(operation, arguments=tuple(new[a] for a in operation.arguments))
        operations.append(moved)
        if operation.opcode in INEXACT:
            knobs.append(f"knob/{len(knobs)}")
            operations.append(Operation("hyper", (), knobs[-1], UNIFORM))
            pair = (Value(len(operations) - 2), Value(len(operations) - 1))
            operations.append(Operation("mul", pair, None, operation.type))
        new.append(Value(len(operations) - 1))
    return Nudged(
        replace(
            program,
            operations=tuple(operations),
            states=tuple(
                replace(s, initial=new[s.initial], next=new[s.next]) for s in program.states
            ),
            parameter=new[program.parameter],
            tangents=tuple(replace(t, value=new[t.value]) for t in program.tangents),
        ),
        tuple(knobs),
    )


def everything(step: interpret.Step) -> dict[str, Tensor]:
    """All results of a step by name."""
    tangents = {f"tangent/{name}": value for name, value in step.tangents.items()}
    return {"theta": step.parameter, **step.state, **tangents}


def trajectory(
    runner: Runner, theta: Tensor, gradients: Sequence[Tensor], hypers: Mapping[str, float]
) -> list[dict[str, Tensor]]:
    """All results of each step."""
    state = runner.start(theta, gradients[0], hypers)
    found = []
    for t, g in enumerate(gradients, start=1):
        result = runner.step(theta, g, state, hypers, t)
        theta, state = result.parameter, result.state
        found.append(everything(result))
    return found


def disagreement(
    found: Sequence[Mapping[str, Tensor]],
    expected: Sequence[Mapping[str, Tensor]],
    neighbours: Callable[[], Sequence[Sequence[Mapping[str, Tensor]]]],
) -> str | None:
    """Where two trajectories differ by more than rounding explains; None where they nowhere do.

    Args:
        found: the trajectory to judge.
        expected: what it should be.
        neighbours: what it might be for all that is known about rounding; called at most once, and
            only where the two are not equal to the bit.
    """
    near_by: Sequence[Sequence[Mapping[str, Tensor]]] | None = None
    for t, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        for name, value in theirs.items():
            our = ours[name]
            if not isinstance(our, Tensor) or (our.shape, our.dtype) != (value.shape, value.dtype):
                return f"{name} at step {t + 1}: {our!r} is not like {value!r}"
            same = (our == value) | (our.isnan() & value.isnan())
            if bool(same.all()):
                continue
            near_by = neighbours() if near_by is None else near_by
            allowed = _allowed(value, [other[t][name] for other in near_by])
            # A bound that is not finite says that rounding decides between a number and none.
            near = ((our - value).abs() <= allowed) | ~allowed.isfinite()
            if not bool((same | near).all()):
                return f"{name} at step {t + 1}: {our}, not {value}, within {allowed}"
    return None


def _allowed(value: Tensor, neighbours: Sequence[Tensor]) -> Tensor:
    """Twice the largest excursion, and a few roundings of the result itself.

    Where value and neighbours are equally infinite, or all NaN, nothing else will do.
    """
    bound = torch.zeros_like(value)
    for other in neighbours:
        same = (other == value) | (other.isnan() & value.isnan())
        excursion = torch.where(same, 0.0, (other - value).abs())
        # maximum() keeps NaN: a neighbour without a number where there is one.
        bound = torch.maximum(bound, excursion)
    own = torch.where(value.isfinite(), 4 * _ULP * value.abs() + _FLOOR, 0.0)
    return 2 * bound + own
