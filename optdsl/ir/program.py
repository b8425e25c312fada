"""`Program`: one step of an optimizer as a flat list of typed operations in SSA form.

A value is the index of the operation that makes it; an operation uses only earlier values. The
same type serves every stage before and after every rewrite.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NewType, Protocol

from optdsl.diagnostics import Span
from optdsl.ir.domain import Domain, Interval
from optdsl.ir.types import TENSOR, Type

Value = NewType("Value", int)
Attribute = float | str | None


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation; `hint`, a name for its value, and `span` do not change what it computes.

    Operations are equal if they compute the same bits: a literal 0.0 is not equal to -0.0.
    """

    opcode: str
    arguments: tuple[Value, ...]
    attribute: Attribute
    type: Type
    hint: str | None = None
    span: Span | None = field(default=None, repr=False)

    def _key(self) -> tuple[object, ...]:
        attribute = self.attribute
        sign = math.copysign(1.0, attribute) if isinstance(attribute, float) else 0.0
        return self.opcode, self.arguments, attribute, sign, self.type

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Operation) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class Operations(Protocol):
    """Operations by their values."""

    def __getitem__(self, value: Value, /) -> Operation:
        """The operation that makes a value."""


@dataclass(frozen=True, slots=True)
class Hyper:
    """A number that a user sets, a scheduler drives, or the optimizer learns."""

    name: str
    default: float
    domain: Domain


@dataclass(frozen=True, slots=True)
class State:
    """A value that is kept from step to step: its initial value, and its value after a step.

    In a blend, `origins` has the names of the members' states that it is, as in ``Adam.m``.
    `sections` has the numbers of the sections whose tensors have it; empty for all. With `input`,
    it is what was last given to a step. `codec` says how it lies in memory (`optdsl.ir.storage`);
    empty where it lies there as it is computed.
    """

    name: str
    type: Type
    initial: Value
    next: Value
    origins: tuple[str, ...] = ()
    sections: tuple[int, ...] = ()
    input: bool = False
    codec: str = ""


@dataclass(frozen=True, slots=True)
class Simplex:
    """A weight vector: hyperparameters that are in [0, 1] and sum to one.

    `labels` are what its components are called in the language: ``w.Adam`` is the hyperparameter
    ``w_adam``.
    """

    name: str
    labels: tuple[str, ...]
    hypers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Learned:
    """How a hyperparameter is learned by hyper-gradient descent.

    Attributes:
        hyper: the learned hyperparameter.
        rule: the library's rule that runs on it as on a parameter of one element.
        options: the hyperparameters of that rule that differ from their defaults.
        clip: the hyper-gradient is limited to [-clip, clip] first; None for no limit.
        bounds: a closed interval to which every update is projected; a weight vector is
            projected to its simplex as a whole.
        after: the number of steps at the start that leave it as it is.
        exponentiated: whether the rule runs on the logarithms of a weight vector.
        scope: what has a value of its own: the "optimizer", each "group", or each "tensor".
        signal: what the rule follows: the hyper-gradient ("raw"), its "sign", the "cosine" of
            gradient and tangent, or the "normalized" hyper-gradient.
        sample: hyper-gradients are estimated from one in so many elements of large tensors; one
            number for all that a program learns.
        horizon: the factor by which the tangents of earlier steps decay from step to step, in
            [0, 1], before that of the last step is added; 0 for the tangent of the last step alone.
    """

    hyper: str
    rule: str
    options: tuple[tuple[str, float], ...]
    clip: float | None
    bounds: Interval
    after: int
    exponentiated: bool = False
    scope: str = "optimizer"
    signal: str = "raw"
    sample: int = 1
    horizon: float = 0.0


@dataclass(frozen=True, slots=True)
class Tangent:
    """The derivative of the new parameter by a hyperparameter, the old state held constant."""

    hyper: str
    value: Value


@dataclass(frozen=True, slots=True)
class Program:
    """A rule: its declarations, its operations, and which values are its results.

    `sections` has the kinds of its sections, in order; see `optdsl.ir.sections`. A program that is
    of one section alone has its `kind`. `structure` has the hyperparameters whose values decided
    what its operations are, such as how often a function calls itself, with these values.
    """

    name: str = ""
    documentation: tuple[str, ...] = ()
    hypers: tuple[Hyper, ...] = ()
    learned: tuple[Learned, ...] = ()
    operations: tuple[Operation, ...] = ()
    states: tuple[State, ...] = ()
    parameter: Value = Value(0)
    tangents: tuple[Tangent, ...] = ()
    parameter_type: Type = TENSOR
    simplexes: tuple[Simplex, ...] = ()
    evaluation: Value | None = None
    """The point at which the model is evaluated, of the parameter and the states between two steps
    and of `t`, the last step; None where it is the parameter."""
    sections: tuple[str, ...] = ()
    kind: str = ""
    structure: tuple[tuple[str, float], ...] = ()
    codec: str = ""
    """How the parameter lies in memory; see `State`."""
    axes: tuple[tuple[str, Value], ...] = ()
    """The axes that it declares, each with the value that is its length."""

    def hyper(self, name: str) -> Hyper:
        """The hyperparameter of that name; KeyError when there is none."""
        for hyper in self.hypers:
            if hyper.name == name:
                return hyper
        raise KeyError(name)

    @property
    def defaults(self) -> dict[str, float]:
        """The default of each hyperparameter, by its name."""
        return {h.name: h.default for h in self.hypers}

    @property
    def sample(self) -> int:
        """Hyper-gradients are estimated from one in so many elements; see `Learned.sample`."""
        return next((x.sample for x in self.learned), 1)

    def simplex_of(self, hyper: str) -> Simplex | None:
        """The weight vector that a hyperparameter is a component of; None for others."""
        return next((s for s in self.simplexes if hyper in s.hypers), None)

    def type(self, value: Value) -> Type:
        """The type of a value."""
        return self.operations[value].type

    def is_finite_part(self, operation: Operation) -> bool:
        """Whether an operation is where(x - x == 0, x, ...), which is x where x is finite."""
        if operation.opcode != "where":
            return False
        comparison = self.operations[operation.arguments[0]]
        if comparison.opcode != "eq":
            return False
        difference, zero = (self.operations[a] for a in comparison.arguments)
        same = difference.opcode == "sub" and set(difference.arguments) == {operation.arguments[1]}
        return same and zero.attribute == 0.0

    @property
    def initial_values(self) -> tuple[Value, ...]:
        """The values that are computed once, before the first step of a tensor."""
        return tuple(s.initial for s in self.states)

    @property
    def step_values(self) -> tuple[Value, ...]:
        """The values that every step computes: the parameter, the states, the tangents."""
        return (*self.carried_values, *(t.value for t in self.tangents))

    @property
    def results(self) -> tuple[Value, ...]:
        """All results of a program."""
        return (*self.initial_values, *self.step_values, *self.points, *(v for _, v in self.axes))

    @property
    def points(self) -> tuple[Value, ...]:
        """The point at which the model is evaluated; nothing where it is the parameter."""
        return () if self.evaluation is None else (self.evaluation,)

    @property
    def carried_values(self) -> tuple[Value, ...]:
        """The values that the next step starts from: the parameter and the states."""
        return (self.parameter, *(s.next for s in self.states))

    @property
    def equations(self) -> dict[str, Value]:
        """The named equations, primes included: the operations `define`."""
        named = enumerate(self.operations)
        return {str(o.attribute): Value(i) for i, o in named if o.opcode == "define"}

    def rebuilt(
        self, operations: tuple[Operation, ...], new: Sequence[Value] | Mapping[Value, Value]
    ) -> Program:
        """The program with other operations, and with new values in place of all its results."""
        return replace(
            self,
            operations=operations,
            states=tuple(replace(s, initial=new[s.initial], next=new[s.next]) for s in self.states),
            parameter=new[self.parameter],
            tangents=tuple(replace(t, value=new[t.value]) for t in self.tangents),
            evaluation=None if self.evaluation is None else new[self.evaluation],
            axes=tuple((name, new[length]) for name, length in self.axes),
        )

    def lengths_of(self, values: Iterable[Value]) -> tuple[Value, ...]:
        """The lengths of the declared axes along which some values extend."""
        if not self.axes:
            return ()
        used = {axis for v in values for axis in self.operations[v].type.own_axes}
        return tuple(length for name, length in self.axes if name in used)

    def hypers_behind(self, *values: Value) -> tuple[str, ...]:
        """The hyperparameters that some values are made of."""
        behind = (self.operations[v] for v in self.needed(values))
        return tuple(dict.fromkeys(str(o.attribute) for o in behind if o.opcode == "hyper"))

    def needed(self, roots: tuple[Value, ...]) -> tuple[Value, ...]:
        """The values that `roots` depend on, themselves included, in program order."""
        return upstream(self.operations, roots)


def depending(operations: Sequence[Operation], opcode: str) -> list[bool]:
    """Whether each value depends on an operation of that kind."""
    found: list[bool] = []
    for operation in operations:
        found.append(operation.opcode == opcode or any(found[a] for a in operation.arguments))
    return found


def upstream(
    operations: Sequence[Operation], roots: Iterable[Value], stop: Container[Value] = ()
) -> tuple[Value, ...]:
    """The values that `roots` depend on, themselves included, in order.

    The search does not go beyond the values in `stop`.
    """
    wanted = set(roots)
    for index in range(max(wanted, default=-1), -1, -1):
        if index in wanted and index not in stop:
            wanted.update(operations[index].arguments)
    return tuple(sorted(wanted))
