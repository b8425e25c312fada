"""Evaluates programs in any arithmetic, and in particular on Python floats.

Claims are tested on Python floats, with small tensors as tuples, whenever a specification is read;
that does not need torch. `optdsl.interpret` evaluates programs on torch's tensors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any

from optdsl.ir import arrays, bounded, draws
from optdsl.ir.bounded import Bounded
from optdsl.ir.laws import Stage
from optdsl.ir.ops import COMPARE, DRAWS, TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import Extent, Type

Tensor = tuple[float, ...]
# A number of some arithmetic, or a tensor of them.
Number = Any


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


# Called with the value and the result of each condition.
Watch = Callable[[Value, Number], None]


@dataclass(frozen=True)
class Point:
    """The inputs of a step; `t` counts from 1, and the inputs of a rule are among its states."""

    theta: Any
    g: Any
    state: Mapping[str, Number]
    hypers: Mapping[str, Any]
    t: int
    arithmetic: Arithmetic
    given: Container[str] | None = None
    """The names of the inputs that are given to the step; None for all of them."""

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
                known = self.given is None or operation.attribute in self.given
                return self.arithmetic.exact(float(known))
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
        self._steady, self._varying, self._conditions = Part(), Part(), list[Value]()
        of_each_step = set[Value]()
        for value in program.needed(tuple(roots)):
            operation = program.operations[value]
            x, laws = operation.arguments, TABLE[operation.opcode].laws
            if not of_each_step.isdisjoint(x) or laws.stage is Stage.BUFFER or not laws.initial:
                of_each_step.add(value)
            part = self._varying if value in of_each_step else self._steady
            if operation.opcode in COMPARE:
                self._conditions.append(value)
            part.add(program, value, arithmetic)

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
            for value in self._conditions:
                watch(value, found[value])
        return found


@dataclass
class Part:
    """Operations in their order, and those of them that draw random numbers."""

    leaves: list[tuple[Value, Operation]] = field(default_factory=list)
    steps: list[tuple[Value, Callable[..., Number], tuple[Value, ...]]] = field(
        default_factory=list
    )
    draws: dict[Value, Operation] = field(default_factory=dict)

    def add(self, program: Program, value: Value, arithmetic: Arithmetic) -> None:
        """Add the operation that makes a value."""
        operation = program.operations[value]
        x = operation.arguments
        if operation.opcode in DRAWS:
            self.draws[value] = operation
            self.steps.append((value, _undrawn, x))
        elif x:
            tensors = tuple(program.type(a).extent is Extent.TENSOR for a in x)
            self.steps.append((value, arithmetic.function(operation.opcode, tensors), x))
        else:
            self.leaves.append((value, operation))

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


def first_states(program: Program, at: Point, code: Code | None = None) -> dict[str, Number]:
    """The states before the first step; `code` is that of the initial values, if it is known."""
    code = code or Code(program, program.initial_values, at.arithmetic)
    found = code.evaluated(at)
    return {s.name: at.extended(found[s.initial], s.type) for s in program.states}


class Uniforms:
    """Some uniform values of a program, prepared for evaluation at many steps."""

    def __init__(self, program: Program, values: tuple[Value, ...]) -> None:
        """Look up what the values are made from."""
        self._roots, self.prepared = values, Code(program, values, FLOATS)
        opcodes = {program.operations[v].opcode for v in program.needed(values)}
        self.steady = "step" not in opcodes
        """Whether they are the same at every step."""

    def at(self, hypers: Mapping[str, float], t: int) -> tuple[float, ...]:
        """The values at a step."""
        found = self.prepared.evaluated(Point((), (), {}, hypers, t, FLOATS))
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


FLOATS = Arithmetic(
    functools.partial(_on_tuples, _FUNCTIONS), float, float, len, _expanded, None, _drawn
)
BOUNDED = replace(
    FLOATS,
    function=functools.partial(_on_tuples, bounded.FUNCTIONS),
    literal=lambda x: _literal(x, math.copysign(1.0, x)),
    exact=bounded.exact,
    drawn=_drawn_bounded,
)
TRUSTING = replace(BOUNDED, function=functools.partial(_on_tuples, bounded.TRUSTING))
MATRICES = Arithmetic(
    lambda opcode, _: arrays.FUNCTIONS[opcode],
    float,
    float,
    arrays.size,
    arrays.expanded,
    arrays.of_shape,
    arrays.drawn,
)
