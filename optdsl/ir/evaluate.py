"""The meaning of a program on Python floats: small tensors as tuples, and no torch.

For trials of claims, which a specification goes through whenever it is read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from optdsl.ir import host
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import Extent

Tensor = tuple[float, ...]
Number = float | Tensor


@dataclass(frozen=True)
class Run:
    """A run of a program: where it starts, and the gradients that it meets.

    Attributes:
        hypers: a value for each hyperparameter.
        theta: the parameter at the start.
        gradients: one for each step, as long as the parameter.
    """

    hypers: tuple[tuple[str, float], ...]
    theta: Tensor
    gradients: tuple[Tensor, ...]


def trajectory(program: Program, run: Run) -> list[Tensor]:
    """The parameter after each step."""
    hypers = dict(run.hypers)
    theta, state = run.theta, dict[str, Number]()
    found: list[Tensor] = []
    for t, g in enumerate(run.gradients, start=1):
        if t == 1:
            values = _values(program, program.initial_values, theta, g, {}, hypers, t)
            state = {s.name: _extended(values[s.initial], s.type.extent, theta)
                     for s in program.states}  # fmt: skip
        roots = (program.parameter, *(s.next for s in program.states))
        values = _values(program, roots, theta, g, state, hypers, t)
        state = {s.name: _extended(values[s.next], s.type.extent, theta) for s in program.states}
        after = _extended(values[program.parameter], Extent.TENSOR, theta)
        assert isinstance(after, tuple)
        theta = after
        found.append(theta)
    return found


def number(program: Program, value: Value, hypers: Mapping[str, float], t: int = 1) -> float:
    """A uniform value at some step."""
    found = _values(program, (value,), (), (), {}, hypers, t)[value]
    assert isinstance(found, float)
    return found


def _extended(value: Number, extent: Extent, like: Tensor) -> Number:
    if extent is not Extent.TENSOR or isinstance(value, tuple):
        return value
    return (value,) * len(like)


def _values(
    program: Program,
    roots: tuple[Value, ...],
    theta: Tensor,
    g: Tensor,
    state: Mapping[str, Number],
    hypers: Mapping[str, float],
    t: int,
) -> dict[Value, Number]:
    def leaf(operation: Operation) -> Number:
        match operation.opcode:
            case "constant":
                assert isinstance(operation.attribute, float)
                return operation.attribute
            case "hyper":
                return hypers[str(operation.attribute)]
            case "step":
                return float(t)
            case "gradient":
                return g
            case "parameter":
                return theta
            case "size":
                return float(len(theta))
            case _:
                return state[str(operation.attribute)]

    found: dict[Value, Number] = {}
    for value in program.needed(roots):
        operation = program.operations[value]
        x = [found[a] for a in operation.arguments]
        found[value] = _applied(operation.opcode, x) if x else leaf(operation)
    return found


def _applied(opcode: str, x: list[Number]) -> Number:
    if opcode in {"sum", "mean"}:
        assert isinstance(x[0], tuple)
        total = _total(x[0])
        return total / len(x[0]) if opcode == "mean" else total
    function = _FUNCTIONS[opcode]
    length = next((len(a) for a in x if isinstance(a, tuple)), None)
    if length is None:
        return function(*x)
    columns = (a if isinstance(a, tuple) else (a,) * length for a in x)
    return tuple(function(*row) for row in zip(*columns, strict=True))


def _total(numbers: Tensor) -> float:
    """The sum; infinite where it overflows."""
    endless = [x for x in numbers if not math.isfinite(x)]
    try:
        return sum(endless) if endless else math.fsum(numbers)
    except OverflowError:
        return sum(numbers)


_FUNCTIONS: dict[str, Callable[..., float]] = {
    **host.APPLY,
    **{name: lambda x, y, f=f: float(f(x, y)) for name, f in host.COMPARE.items()},
    "where": lambda condition, x, y: x if condition else y,
}


def spellings() -> frozenset[str]:
    """The operations with arguments that are known here."""
    return frozenset({*_FUNCTIONS, "sum", "mean"})
