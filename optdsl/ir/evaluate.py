"""The meaning of a program on Python floats: small tensors as tuples, and no torch.

For trials of claims, which a specification goes through whenever it is read.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from optdsl.ir import bounded
from optdsl.ir.bounded import Bounded
from optdsl.ir.laws import Stage
from optdsl.ir.ops import APPLY, COMPARE, TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import Extent

Tensor = tuple[float, ...]
# A number of some arithmetic, or a tensor of them.
Number = Any


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


@dataclass(frozen=True)
class Arithmetic:
    """What stands for numbers, and what is done with them.

    Attributes:
        functions: the operations on single numbers, by opcode.
        reductions: the operations on all elements of a tensor, by opcode.
        literal: the number for a literal, or for the value of a hyperparameter.
        exact: the number for one that is exact.
    """

    functions: Mapping[str, Callable[..., Any]]
    reductions: Mapping[str, Callable[[tuple[Any, ...]], Any]]
    literal: Callable[[float], Any]
    exact: Callable[[float], Any]


# Called with the value and the result of each operation with arguments.
Watch = Callable[[Value, Number], None]


def trajectory(program: Program, run: Run, watch: Watch | None = None) -> list[Tensor]:
    """The parameter after each step."""
    return _followed(program, run, _FLOATS, watch)


def rounded(program: Program, run: Run, trusting: bool = False) -> list[tuple[Bounded, ...]]:
    """The parameter after each step, the same numbers, with bounds on what rounding does to it.

    Args:
        program: any.
        run: the run.
        trusting: whether conditions are what they are computed to be; else rounding may decide
            them.
    """
    return _followed(program, run, _TRUSTING if trusting else _BOUNDED, None)


def _followed(
    program: Program, run: Run, arithmetic: Arithmetic, watch: Watch | None
) -> list[tuple[Any, ...]]:
    exact = arithmetic.exact
    hypers = {name: arithmetic.literal(x) for name, x in run.hypers}
    theta, state = tuple(map(exact, run.theta)), dict[str, Number]()
    found: list[tuple[Any, ...]] = []
    roots = (program.parameter, *(s.next for s in program.states))
    needed = program.needed(roots)
    for t, gradient in enumerate(run.gradients, start=1):
        g = tuple(map(exact, gradient))
        at = _Point(theta, g, state, hypers, t, arithmetic, watch)
        if t == 1:
            values = _values(program, program.needed(program.initial_values), at)
            for s in program.states:
                state[s.name] = _extended(values[s.initial], s.type.extent, theta)
        values = _values(program, needed, at)
        state = {s.name: _extended(values[s.next], s.type.extent, theta) for s in program.states}
        theta = _extended(values[program.parameter], Extent.TENSOR, theta)
        found.append(theta)
    return found


class Uniforms:
    """Some uniform values of a program, to be evaluated at many steps."""

    def __init__(self, program: Program, values: tuple[Value, ...]) -> None:
        """Look up what the values are made from."""
        self._program, self._roots = program, values
        self._needed = program.needed(values)
        opcodes = {program.operations[v].opcode for v in self._needed}
        self.steady = "step" not in opcodes
        """Whether they are the same at every step."""

    def at(self, hypers: Mapping[str, float], t: int) -> tuple[float, ...]:
        """The values at a step."""
        point = _Point((), (), {}, hypers, t, _FLOATS, None)
        found = _values(self._program, self._needed, point)
        return tuple(float(found[v]) for v in self._roots)


def number(program: Program, value: Value, hypers: Mapping[str, float], t: int = 1) -> float:
    """A uniform value at some step."""
    return Uniforms(program, (value,)).at(hypers, t)[0]


def _extended(value: Number, extent: Extent, like: tuple[Any, ...]) -> Number:
    if extent is not Extent.TENSOR or isinstance(value, tuple):
        return value
    return (value,) * len(like)


@dataclass(frozen=True)
class _Point:
    """Where a step starts from."""

    theta: tuple[Any, ...]
    g: tuple[Any, ...]
    state: Mapping[str, Number]
    hypers: Mapping[str, Number]
    t: int
    arithmetic: Arithmetic
    watch: Watch | None

    def leaf(self, operation: Operation) -> Number:
        match operation.opcode:
            case "constant":
                return self.arithmetic.literal(operation.attribute)  # type: ignore[arg-type]
            case "hyper":
                return self.hypers[str(operation.attribute)]
            case "step":
                return self.arithmetic.exact(float(self.t))
            case "gradient":
                return self.g
            case "parameter":
                return self.theta
            case "size":
                return self.arithmetic.exact(float(len(self.theta)))
            case _:
                return self.state[str(operation.attribute)]


def _values(program: Program, needed: tuple[Value, ...], at: _Point) -> dict[Value, Number]:
    found: dict[Value, Number] = {}
    for value in needed:
        operation = program.operations[value]
        x = [found[a] for a in operation.arguments]
        found[value] = _applied(operation.opcode, x, at.arithmetic) if x else at.leaf(operation)
        if at.watch is not None and x:
            at.watch(value, found[value])
    return found


def _applied(opcode: str, x: list[Number], arithmetic: Arithmetic) -> Number:
    if opcode in arithmetic.reductions:
        return arithmetic.reductions[opcode](x[0])
    function = arithmetic.functions[opcode]
    length = next((len(a) for a in x if isinstance(a, tuple)), None)
    if length is None:
        return function(*x)
    columns = (a if isinstance(a, tuple) else (a,) * length for a in x)
    return tuple(function(*row) for row in zip(*columns, strict=True))


_FUNCTIONS: dict[str, Callable[..., float]] = {
    **APPLY,
    **{name: lambda x, y, f=f: float(f(x, y)) for name, f in COMPARE.items()},
    "where": lambda condition, x, y: x if condition else y,
}
_REDUCTIONS = {
    row.opcode: row.apply
    for row in TABLE.values()
    if row.stage is Stage.REDUCTION and row.apply is not None
}


def spellings() -> frozenset[str]:
    """The operations with arguments that are known here."""
    return frozenset({*_FUNCTIONS, *_REDUCTIONS})


_FLOATS = Arithmetic(_FUNCTIONS, _REDUCTIONS, float, float)
_BOUNDED = Arithmetic(
    bounded.FUNCTIONS,
    bounded.REDUCTIONS,
    functools.lru_cache(maxsize=4096)(bounded.literal),
    bounded.exact,
)
_TRUSTING = replace(_BOUNDED, functions=bounded.TRUSTING)
