"""Evaluates programs in any arithmetic, and in particular on Python floats.

Claims are tested on Python floats, with small tensors as tuples, whenever a specification is read;
that does not need torch. `optdsl.interpret` evaluates programs on torch's tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

from optdsl.ir import arrays, bounded, draws
from optdsl.ir.arrays import Array, elements
from optdsl.ir.bounded import Bounded
from optdsl.ir.laws import Stage
from optdsl.ir.lengths import own_lengths
from optdsl.ir.ops import DRAWS, TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import TENSOR, Extent, Type

Tensor = tuple[float, ...]
# A number of some arithmetic, or a tensor of them.
Number = Any


@dataclass(frozen=True)
class Run:
    """A run of a program: where it starts, and its gradients.

    Attributes:
        hypers: a value for each hyperparameter.
        theta: the parameter at the start.
        gradients: the gradient of each step, with the length of the parameter.
        shape: of a parameter that is read as matrices, how many there are, of how many rows and
            columns; the numbers stand row after row.
    """

    hypers: tuple[tuple[str, float], ...]
    theta: Tensor
    gradients: tuple[Tensor, ...]
    shape: arrays.Shape | None = None


@dataclass(frozen=True)
class Arithmetic:
    """A representation of numbers and tensors, with the operations on them.

    Attributes:
        function: gives the function that computes an operation, from its opcode and from which of
            its arguments are tensors.
        literal: the number for a literal, or for the value of a hyperparameter.
        exact: the number for a float that is exact.
        size: the number of elements of a tensor.
        expanded: a value with the shape that a type has where the parameter is as given.
        of_shape: the value of a leaf that follows from the shape of a matrix; None where numbers
            have no rows and columns.
        drawn: random numbers, from the operation that draws them, the counter and the parameter.
    """

    function: Callable[[str, tuple[bool, ...]], Callable[..., Any]]
    literal: Callable[[Any], Any]
    exact: Callable[[float], Any]
    size: Callable[[Any], int]
    expanded: Callable[[Any, Any, Type], Any]
    of_shape: Callable[[Operation, Any], Any] | None = None
    drawn: Callable[[Operation, Any, Any], Any] | None = None


# Called with the value and the result of each operation with arguments.
Watch = Callable[[Value, Number], None]


@dataclass(frozen=True)
class Point:
    """The inputs of a step; `t` counts from 1."""

    theta: Any
    g: Any
    state: Mapping[str, Number]
    hypers: Mapping[str, Any]
    t: int
    arithmetic: Arithmetic

    def leaf(self, operation: Operation) -> Number:
        """The value of an operation without arguments."""
        match operation.opcode:
            case "constant":
                return self.arithmetic.literal(operation.attribute)
            case "hyper":
                return self.arithmetic.literal(self.hypers[str(operation.attribute)])
            case "step":
                return self.arithmetic.exact(float(self.t))
            case "gradient":
                return self.g
            case "parameter":
                return self.theta
            case "size":
                return self.arithmetic.exact(float(self.arithmetic.size(self.theta)))
            case "given":
                return self.arithmetic.exact(1.0)
            case "state":
                return self.state[str(operation.attribute)]
            case _:
                assert self.arithmetic.of_shape is not None
                return self.arithmetic.of_shape(operation, self.theta)

    def drawn(self, operation: Operation, counter: Number) -> Number:
        """The random numbers of an operation at a counter."""
        assert self.arithmetic.drawn is not None
        return self.arithmetic.drawn(operation, counter, self.theta)

    def extended(self, value: Number, kind: Type) -> Number:
        """A value of smaller extent at the extent of a type."""
        return self.arithmetic.expanded(value, self.theta, kind)


class Code:
    """Some values of a program, prepared for many evaluations."""

    def __init__(self, program: Program, roots: Sequence[Value], arithmetic: Arithmetic) -> None:
        """Look up the function of each operation."""
        self._steady, self._varying = _Part(), _Part()
        of_each_step = set[Value]()
        for value in program.needed(tuple(roots)):
            operation = program.operations[value]
            x, laws = operation.arguments, TABLE[operation.opcode].laws
            if not of_each_step.isdisjoint(x) or laws.stage is Stage.BUFFER or not laws.initial:
                of_each_step.add(value)
            part = self._varying if value in of_each_step else self._steady
            if operation.opcode in DRAWS:
                part.draws[value] = operation
                part.steps.append((value, _undrawn, x))
            elif x:
                tensors = tuple(program.type(a).extent is Extent.TENSOR for a in x)
                part.steps.append((value, arithmetic.function(operation.opcode, tensors), x))
            else:
                part.leaves.append((value, operation))

    def steady(self, at: Point) -> dict[Value, Number]:
        """The results that are the same at every step of a run, at any of its points."""
        found = dict[Value, Number]()
        self._steady.evaluate(at, found)
        return found

    def evaluated(
        self, at: Point, watch: Watch | None = None, steady: Mapping[Value, Number] | None = None
    ) -> dict[Value, Number]:
        """The result of each operation; `steady` has those of earlier steps of the run, if any."""
        found = self.steady(at) if steady is None else dict(steady)
        self._varying.evaluate(at, found)
        if watch is not None:
            for value, _, _ in (*self._steady.steps, *self._varying.steps):
                watch(value, found[value])
        return found


@dataclass
class _Part:
    """Operations in their order, and those of them that draw random numbers."""

    leaves: list[tuple[Value, Operation]] = field(default_factory=list)
    steps: list[tuple[Value, Callable[..., Number], tuple[Value, ...]]] = field(
        default_factory=list
    )
    draws: dict[Value, Operation] = field(default_factory=dict)

    def evaluate(self, at: Point, found: dict[Value, Number]) -> None:
        """Add the results to those that are there."""
        for value, operation in self.leaves:
            found[value] = at.leaf(operation)
        # Most operations have two arguments, and this is the innermost loop of every proof.
        for value, function, x in self.steps:
            if len(x) == 2:
                found[value] = function(found[x[0]], found[x[1]])
            elif len(x) != 1:
                found[value] = function(*[found[a] for a in x])
            elif value in self.draws:
                found[value] = at.drawn(self.draws[value], found[x[0]])
            else:
                found[value] = function(found[x[0]])


def _undrawn(*_: Number) -> Number:
    """What an operation that draws does with its arguments alone; it is called nowhere."""
    raise NotImplementedError


def first_states(program: Program, at: Point, watch: Watch | None = None) -> dict[str, Number]:
    """The states before the first step."""
    found = _code(program, program.initial_values, at.arithmetic).evaluated(at, watch)
    return {s.name: at.extended(found[s.initial], s.type) for s in program.states}


# Trials run a few programs many times.
_code = functools.lru_cache(maxsize=16)(Code)


def trajectory(program: Program, run: Run, watch: Watch | None = None) -> list[Tensor]:
    """The parameter after each step."""
    return _followed(program, run, _FLOATS if run.shape is None else MATRICES, watch)


def rounded(program: Program, run: Run, trusting: bool = False) -> list[tuple[Bounded, ...]]:
    """The parameter after each step, as `trajectory` gives it, with bounds on its rounding errors.

    The run is not one of matrices, for which there is no such analysis.
    With `trusting`, the bounds hold only if rounding has not decided any condition.
    """
    return _followed(program, run, _TRUSTING if trusting else _BOUNDED, None)


def changed(program: Program, run: Run, change: Callable[[float], float]) -> list[Tensor]:
    """A run of matrices in which what is rounded is changed, by a function of the number."""

    def function(opcode: str, tensors: tuple[bool, ...]) -> Callable[..., Any]:
        row, exact = TABLE[opcode], arrays.FUNCTIONS[opcode]
        laws = row.laws
        if laws.selects or laws.jumps:
            return exact

        def number(x: float) -> float:
            return x if laws.integral and x.is_integer() else change(x)

        after, before = arrays.elementwise(number), arrays.elementwise(change)
        if row.stage.mixes:
            return lambda *x: after(exact(*map(before, x)))
        return lambda *x: after(exact(*x))

    def literal(x: float) -> float:
        # Double precision has numbers such as 2 and 0.25.
        return x if not math.isfinite(x) or (x * 1024).is_integer() else change(x)

    return _followed(program, run, replace(MATRICES, function=function, literal=literal), None)


def _followed(
    program: Program, run: Run, arithmetic: Arithmetic, watch: Watch | None
) -> list[tuple[Any, ...]]:
    given = (tuple(map(arithmetic.exact, x)) for x in (run.theta, *run.gradients))
    theta, *gradients = given if run.shape is None else (Array(run.shape, x) for x in given)
    hypers, state, found = dict(run.hypers), dict[str, Number](), list[tuple[Any, ...]]()
    code, steady = _code(program, program.carried_values, arithmetic), None
    if program.axes and run.shape is not None:
        own = own_lengths(program, run.shape, hypers)
        arithmetic = replace(
            arithmetic,
            expanded=functools.partial(arrays.expanded, own=own),
            of_shape=functools.partial(arrays.of_shape, own=own),
            drawn=functools.partial(arrays.drawn, own=own),
        )
    for t, g in enumerate(gradients, start=1):
        at = Point(theta, g, state, hypers, t, arithmetic)
        if t == 1:
            at = replace(at, state=first_states(program, at, watch))
        steady = code.steady(at) if steady is None else steady
        values = code.evaluated(at, watch, steady)
        state = {s.name: at.extended(values[s.next], s.type) for s in program.states}
        theta = at.extended(values[program.parameter], TENSOR)
        found.append(elements(theta))
    return found


class Uniforms:
    """Some uniform values of a program, prepared for evaluation at many steps."""

    def __init__(self, program: Program, values: tuple[Value, ...]) -> None:
        """Look up what the values are made from."""
        self._roots, self._code = values, Code(program, values, _FLOATS)
        opcodes = {program.operations[v].opcode for v in program.needed(values)}
        self.steady = "step" not in opcodes
        """Whether they are the same at every step."""

    def at(self, hypers: Mapping[str, float], t: int) -> tuple[float, ...]:
        """The values at a step."""
        found = self._code.evaluated(Point((), (), {}, hypers, t, _FLOATS))
        return tuple(float(found[v]) for v in self._roots)


def number(program: Program, value: Value, hypers: Mapping[str, float], t: int = 1) -> float:
    """A uniform value at some step."""
    return Uniforms(program, (value,)).at(hypers, t)[0]


def _on_tuples(
    functions: Mapping[str, Callable[..., Any]], opcode: str, tensors: tuple[bool, ...]
) -> Callable[..., Any]:
    """An operation on numbers, on the elements of tuples, or on all elements of one."""
    function = functions[opcode]
    if not any(tensors) or TABLE[opcode].stage in {Stage.REDUCTION, Stage.TOTAL}:
        return function
    match tensors:
        case (True,) | (True, True) | (True, True, True):
            return lambda *x: tuple(map(function, *x))
        case (True, False):
            return lambda x, y: tuple(map(function, x, repeat(y)))
        case (False, True):
            return lambda x, y: tuple(map(function, repeat(x), y))
    return lambda *x: tuple(
        map(function, *(a if whole else repeat(a) for a, whole in zip(x, tensors, strict=True)))
    )


def _expanded(value: Any, like: tuple[Any, ...], kind: Type) -> Any:
    small = isinstance(value, tuple) or kind.extent is not Extent.TENSOR
    return value if small else (value,) * len(like)


_FUNCTIONS = {row.opcode: row.apply for row in TABLE.values() if row.apply is not None}


def spellings() -> frozenset[str]:
    """The operations with arguments that are known here."""
    return frozenset(_FUNCTIONS)


@functools.lru_cache(maxsize=4096)
def _literal(x: float, sign: float) -> Bounded:
    """A literal; zeros, which compare equal, are told apart by their signs."""
    return bounded.literal(math.copysign(x, sign))


def _drawn(operation: Operation, counter: float, theta: Tensor) -> Any:
    """Random numbers for a trial: those of the first tensor of an optimizer whose seed is 0."""
    attribute = str(operation.attribute)
    if operation.type.extent is not Extent.TENSOR:
        return draws.number(attribute, counter, 0)
    return tuple(draws.number(attribute, counter, index) for index in range(len(theta)))


def _drawn_bounded(operation: Operation, counter: Bounded, theta: Any) -> Any:
    found = _drawn(operation, counter.value, theta)
    return tuple(map(bounded.exact, found)) if isinstance(found, tuple) else bounded.exact(found)


_FLOATS = Arithmetic(
    functools.partial(_on_tuples, _FUNCTIONS), float, float, len, _expanded, None, _drawn
)
_BOUNDED = replace(
    _FLOATS,
    function=functools.partial(_on_tuples, bounded.FUNCTIONS),
    literal=lambda x: _literal(x, math.copysign(1.0, x)),
    exact=bounded.exact,
    drawn=_drawn_bounded,
)
_TRUSTING = replace(_BOUNDED, function=functools.partial(_on_tuples, bounded.TRUSTING))
MATRICES = Arithmetic(
    lambda opcode, _: arrays.FUNCTIONS[opcode],
    float,
    float,
    arrays.size,
    arrays.expanded,
    arrays.of_shape,
    arrays.drawn,
)
