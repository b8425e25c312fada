"""All tensors of an optimizer, stepped by the interpreter: sections, sums over all, inputs.

How far rounding may carry a step is measured: the step is taken a few times with every rounded
number of tensors off by some units in its last place, and the arguments of sums, products and
factorizations with them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from optdsl import interpret, matrices
from optdsl.ir import evaluate
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.sections import flattened, is_turned, of_matrices, section_of
from optdsl.ir.types import TENSOR, Extent
from optdsl.passes.specialize import specialize
from optdsl.passes.totals import GIVEN, SHARED, Staged, staged
from tests.oracles.rounding32 import DOUBLE

Hypers = Mapping[str, float | Tensor]
Round = Callable[[Tensor], Tensor]
# An operation is off by so many units in the last place, in so many tries; what is allowed is so
# many times as much as the largest difference in a tensor.
_UNITS, _TRIES, _MARGIN = 4.0, 3, 8.0


@dataclass
class Held:
    """A tensor before a step; its gradient, and its states if it has taken a step.

    `t` counts its steps, with this one, and `number` is its place in the optimizer.
    """

    theta: Tensor
    g: Tensor
    t: int = 1
    state: dict[str, Tensor] = field(default_factory=dict)
    kind: str | None = None
    number: int = 0


@dataclass(frozen=True)
class After:
    """The parameters and states after a step, shaped as optimizers have them, and shared numbers.

    Attributes:
        tensors: for each tensor ``theta`` and its states.
        shared: the numbers that all tensors share.
    """

    tensors: list[dict[str, Tensor]]
    shared: dict[str, float]


class Together:
    """A rule for several tensors."""

    def __init__(self, program: Program) -> None:
        """Divide it.

        Args:
            program: lowered, and nothing else.
        """
        self.program = program
        self._stages = staged(program) or Staged(program, (), ())
        self._parts: dict[tuple[int, int | None, bool], Program] = {}

    @property
    def inputs(self) -> tuple[str, ...]:
        return self._stages.inputs

    def shared(self, hypers: Mapping[str, float]) -> dict[str, float]:
        """The shared numbers before the first step."""
        program, found = self._stages.program, self._stages.shared
        return {SHARED + s.name: evaluate.number(program, s.initial, hypers) for s in found}

    def step(
        self,
        held: Sequence[Held],
        hypers: Hypers,
        shared: Mapping[str, float],
        given: Mapping[str, Sequence[Tensor]],
        t: int = 1,
        rounded: Round | None = None,
        unit: float = DOUBLE,
    ) -> After:
        """One step.

        Args:
            held: the tensors; those without elements add nothing to sums over all.
            hypers: a value for each hyperparameter, which may be on autograd's tape.
            shared: the shared numbers before it.
            given: for each input that is given, a tensor for each of `held`.
            t: the number of the optimizer's step.
            rounded: rounds numbers; None for exact arithmetic.
            unit: the largest relative error of a rounding in the arithmetic that is expected.
        """
        root = functools.partial(_inverse_root, 2 * unit)
        with patch.dict(matrices.OPERATIONS, {"inverse_root": root}):
            return self._step(held, hypers, shared, given, t, rounded)

    def _step(
        self,
        held: Sequence[Held],
        hypers: Hypers,
        shared: Mapping[str, float],
        given: Mapping[str, Sequence[Tensor]],
        t: int,
        rounded: Round | None,
    ) -> After:
        asked = {f"{GIVEN}{name}": float(name in given) for name in self.inputs}
        numbers = {**hypers, **shared, **asked}
        for level, names in enumerate(self._stages.totals):
            sums: dict[str, Any] = dict.fromkeys(names, 0.0)
            for index, x in enumerate(held):
                program = self._part(level + 1, x, rounded)
                if x.theta.numel() and any(s.name in names for s in program.states):
                    measured = self._one(program, x, numbers, given, index, rounded).state
                    for name in names:
                        sums[name] = sums[name] + measured[name].sum() if name in measured else 0.0
            numbers |= sums
        tensors = []
        for index, x in enumerate(held):
            program = self._part(0, x, rounded)
            done = self._one(program, x, numbers, given, index, rounded)
            wide = {s.name for s in program.states if s.type.extent is Extent.TENSOR}
            state = {k: _out(program, v, x) if k in wide else v for k, v in done.state.items()}
            tensors.append({"theta": done.parameter, **state})
        after = {
            SHARED + s.name: evaluate.number(self._stages.program, s.next, numbers, t)
            for s in self._stages.shared
            if not any(isinstance(v, Tensor) and v.requires_grad for v in numbers.values())
        }
        return After(tensors, after)

    def _one(
        self,
        program: Program,
        x: Held,
        hypers: Hypers,
        given: Mapping[str, Sequence[Tensor]],
        index: int,
        rounded: Round | None,
    ) -> interpret.Step:
        origin = (0, x.number)
        if of_matrices(program.kind) and not x.theta.numel():
            # A matrix without elements has no mean, and `rows / cols` may be no number: its states
            # stay what they are.
            state = x.state or interpret.initial_state(program, x.theta, x.g, hypers, origin)
            return interpret.Step(x.theta, dict(state), {})
        if x.t > 1:
            types = {s.name: s.type for s in program.states}
            kept = {k: v.double() for k, v in x.state.items() if k in types}
            state = {k: _in(program, v, x) if types[k] == TENSOR else v for k, v in kept.items()}
            # What is measured starts from nothing.
            state |= {k: torch.zeros((), dtype=torch.float64) for k in types if k not in state}
        else:
            state = interpret.initial_state(program, x.theta, x.g, hypers, origin)
        state |= {k: _in(program, v[index].double(), x) for k, v in given.items()}
        hook = Tensor.detach if rounded is None else rounded
        return interpret.step(program, x.theta, x.g, state, hypers, x.t, hook, origin)

    def _part(self, stage: int, x: Held, rounded: Round | None) -> Program:
        """The program of a stage, 0 for the step itself, for tensors such as this one."""
        program = [self._stages.program, *self._stages.measures][stage]
        section = section_of(program.sections, x.theta.shape, x.kind) if program.sections else None
        key = stage, section, rounded is not None
        if key not in self._parts:
            alone = program if section is None else specialize(program, section)
            self._parts[key] = alone if rounded is None else shaken(alone)
        return self._parts[key]


def _inverse_root(eps: float, s: Tensor, p: Tensor) -> Tensor:
    """The meaning of the operation where the numbers behind 1 begin with 1 + eps.

    Eigenvalues that rounding may have made of zero are replaced, which depends on the precision.
    """
    values, q = torch.linalg.eigh(s)
    least = values[..., -1:] * s.shape[-1] * eps
    return q @ torch.diag_embed(torch.maximum(values, least) ** (-1 / p).squeeze()) @ q.mT


def _in(program: Program, x: Tensor, like: Held) -> Tensor:
    """What is shaped like the parameter, as the program reads it."""
    found = x.reshape(flattened(program.kind, like.theta.shape))
    return found.mT if is_turned(program.kind, like.theta.shape) else found


def _out(program: Program, x: Tensor, like: Held) -> Tensor:
    shape = like.theta.shape
    return (x.mT if is_turned(program.kind, shape) else x).reshape(shape)


def shaken(program: Program) -> Program:
    """The program with ``stop_gradient`` behind each operation of tensors that may round.

    It also stands before the arguments of what mixes elements. The interpreter has a hook for it.
    """
    operations: list[Operation] = []
    new: list[Value] = []

    def emitted(operation: Operation) -> Value:
        operations.append(operation)
        return Value(len(operations) - 1)

    def hooked(value: Value) -> Value:
        made = operations[value]
        if made.type.extent in {Extent.UNIFORM, Extent.SHARED} or made.type.condition:
            return value
        return emitted(Operation("stop_gradient", (value,), None, made.type))

    for operation in program.operations:
        laws = TABLE[operation.opcode].laws
        arguments = tuple(new[a] for a in operation.arguments)
        if arguments and laws.stage.mixes:
            arguments = tuple(map(hooked, arguments))
        # What held its argument constant for derivatives need not round it.
        alias = operation.opcode == "stop_gradient"
        opcode = "define" if alias else operation.opcode
        value = emitted(replace(operation, opcode=opcode, arguments=arguments))
        exact = not arguments or laws.alias or laws.selects or laws.jumps
        new.append(value if exact else hooked(value))
    return replace(program.rebuilt(tuple(operations), new), tangents=())


def rounding(unit: float, seed: int) -> Round:
    """Moves numbers up or down by some units; whole numbers of moderate size stay as they are."""
    generator = torch.Generator().manual_seed(seed)

    def moved(x: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=generator).double() * 2 - 1
        whole = (x == x.round()) & (x.abs() * unit < 1)
        return torch.where(whole, x, x * (1 + _UNITS * unit * signs))

    return moved


def few(unit: float, exact: After) -> After:
    """Some units of the largest number of each tensor, within which rounding mostly stays."""
    return After(
        [{k: _allowed(unit, x, []) for k, x in values.items()} for values in exact.tensors],
        {k: float(_allowed(unit, torch.tensor(x), [])) for k, x in exact.shared.items()},
    )


def bounds(unit: float, exact: After, again: Callable[[Round], After]) -> After:
    """How far off each number of a step may be, where a rounding is at most `unit`."""
    tries = [again(rounding(unit, seed)) for seed in range(_TRIES)]
    tensors = [
        {k: _allowed(unit, x, [t.tensors[i][k] for t in tries]) for k, x in values.items()}
        for i, values in enumerate(exact.tensors)
    ]
    shared = {
        k: float(_allowed(unit, torch.tensor(x), [torch.tensor(t.shared[k]) for t in tries]))
        for k, x in exact.shared.items()
    }
    return After(tensors, shared)


def _allowed(unit: float, value: Tensor, tries: Sequence[Tensor]) -> Tensor:
    """The same for all elements of a tensor, and some units of the largest one besides."""
    if not value.numel():
        return torch.zeros(())
    largest = torch.zeros((), dtype=torch.float64)
    for x in tries:
        largest = torch.maximum(largest, torch.where(x == value, 0.0, (x - value).abs()).max())
    own = 2 * _UNITS * unit * value.nan_to_num().abs().max() + 1e-44
    return _MARGIN * largest.nan_to_num(torch.inf, torch.inf) + own


def held_constant(program: Program) -> Program:
    """The program with ``stop_gradient`` before the arguments of factorizations.

    Hyper-gradients hold these constant, and autograd does not.
    """
    operations: list[Operation] = []
    new: list[Value] = []
    for operation in program.operations:
        arguments = tuple(new[a] for a in operation.arguments)
        if TABLE[operation.opcode].stage is Stage.FACTORIZATION:
            first = len(operations)
            operations += [
                Operation("stop_gradient", (a,), None, operations[a].type) for a in arguments
            ]
            arguments = tuple(map(Value, range(first, len(operations))))
        operations.append(replace(operation, arguments=arguments))
        new.append(Value(len(operations) - 1))
    return program.rebuilt(tuple(operations), new)
