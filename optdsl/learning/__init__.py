"""Learning is a program: from hyper-gradients to new coefficients, on numbers of the host.

A learned hyperparameter (a coefficient) is moved by a rule of the library, run on a parameter of
one element. `Block.program` is all that happens between two steps as one `Program` whose values
are uniform: the signal, the clip, the rule, the return to the bounds, and whether anything moves at
all. Every backend spells it with its ordinary emitter.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

from optdsl.ir.builder import Builder
from optdsl.ir.domain import EVERYTHING
from optdsl.ir.laws import Stage
from optdsl.ir.ops import DRAWS, TABLE
from optdsl.ir.program import Hyper, Learned, Program, Simplex, State, Value
from optdsl.ir.sections import section_of
from optdsl.ir.types import UNIFORM
from optdsl.ir.verify import verify
from optdsl.learning import signals, simplex
from optdsl.learning.arithmetic import Arithmetic
from optdsl.learning.signals import SQUARE, square_keys
from optdsl.options import OptionError
from optdsl.passes.pipeline import run_passes
from optdsl.passes.scalarize import scalarize
from optdsl.passes.specialize import specialize

__all__ = ["SQUARE", "TAKEN", "Block", "Coefficient", "blocks", "hypergradient_key", "measured_key",
           "memory_key", "scalarized", "square_keys"]  # fmt: skip

TAKEN = "taken"
"""The input that says how many steps were taken before this one."""


def hypergradient_key(hyper: str) -> str:
    """Where the last hyper-gradient of a coefficient is kept, as it was measured."""
    return f"hypergradient/{hyper}"


def memory_key(hyper: str, name: str) -> str:
    """Where what the rule of a coefficient remembers is kept: a state, or "step"."""
    return f"learn/{hyper}/{name}"


def measured_key(hyper: str) -> str:
    """The input with a hyper-gradient: a dot product of the gradient with a tangent."""
    return f"measured/{hyper}"


@dataclass(frozen=True)
class Coefficient:
    """A learned hyperparameter and the rule that moves it.

    Attributes:
        learned: how it is learned.
        rule: a rule of the library on uniform values (see `optdsl.passes.scalarize`).
    """

    learned: Learned
    rule: Program

    @property
    def name(self) -> str:
        """The hyperparameter."""
        return self.learned.hyper

    @property
    def hypergradient_key(self) -> str:
        """See `hypergradient_key`."""
        return hypergradient_key(self.name)

    @property
    def step_key(self) -> str:
        """Where the number of updates of the coefficient is kept."""
        return memory_key(self.name, "step")

    @property
    def mean_key(self) -> str:
        """Where the running mean of squared norms of the gradient is kept."""
        return memory_key(self.name, "signal/mean")

    @cached_property
    def memory_keys(self) -> tuple[str, ...]:
        """Where what the rule remembers is kept: the number of updates, and its states.

        If the signal is "normalized", also the running mean of squared norms of the gradient.
        """
        own = (self.mean_key,) if self.learned.signal == "normalized" else ()
        return self.step_key, *own, *(memory_key(self.name, s.name) for s in self.rule.states)

    def defaults(self) -> dict[str, float]:
        """The entries before the first hyper-gradient."""
        return {**dict.fromkeys((self.hypergradient_key, *self.memory_keys), 0.0), self.step_key: 0}


@dataclass(frozen=True)
class Block:
    """Coefficients that move as one: a single one, or the weights of a vector.

    Attributes:
        coefficients: what moves, each by its own rule.
        vector: whether they are a weight vector, which moves on its simplex.
    """

    coefficients: tuple[Coefficient, ...]
    vector: bool

    @property
    def scope(self) -> str:
        """What has a value of its own: the "optimizer", each "group", or each "tensor"."""
        return self.coefficients[0].learned.scope

    @cached_property
    def program(self) -> Program:
        """How they move when their hyper-gradients are known.

        Its hyperparameters are the inputs: `TAKEN`, and of each coefficient what was measured. Its
        states are what a group keeps: of each coefficient its value, its last hyper-gradient, the
        number of its updates, and the states of its rule. It has no use for a parameter.

        Hyper-gradients that are not finite are recorded and move nothing, and so are those that
        would leave a coefficient or the memory of its rule not finite.
        """
        return _Moves(self).program()


def blocks(coefficients: Iterable[Coefficient], program: Program) -> tuple[Block, ...]:
    """The learned coefficients, those of one weight vector of the program together."""
    together: dict[Simplex | str, list[Coefficient]] = {}
    for coefficient in coefficients:
        vector = program.simplex_of(coefficient.name)
        together.setdefault(vector or coefficient.name, []).append(coefficient)
    return tuple(Block(tuple(c), isinstance(key, Simplex)) for key, c in together.items())


class _Moves:
    """Writes the program of a block."""

    def __init__(self, block: Block) -> None:
        self._block = block
        self._builder = Builder()
        self._math = Arithmetic(self._builder)
        self._inputs: list[str] = []

    def program(self) -> Program:
        math, coefficients = self._math, self._block.coefficients
        after = max(c.learned.after for c in coefficients)
        parameter = self._builder.emit("parameter", type=UNIFORM)
        taken = self._input(TAKEN)
        measured = [self._input(measured_key(c.name)) for c in coefficients]
        means = {c.name: self._mean(c) for c in coefficients if c.learned.signal == "normalized"}
        followed = [self._signal(c, h, means) for c, h in zip(coefficients, measured, strict=True)]
        moves = math.all(
            [
                self._builder.emit("ge", taken, math.number(after)),
                *map(math.finite, (*measured, *means.values())),
            ]
        )
        if self._block.vector:
            # Only differences move a vector. What all have in common would hide them from a clip,
            # and from a rule that goes by signs or scales.
            common = self._builder.emit("div", math.sum(followed), math.number(len(followed)))
            followed = [self._builder.emit("sub", h, common) for h in followed]
        old = [self._kept(c.name) for c in coefficients]
        entries = {c.mean_key: means[c.name] for c in coefficients if c.name in means}
        moved = []
        for coefficient, start, h in zip(coefficients, self._outward(old), followed, strict=True):
            reached, memory = self._stepped(coefficient, start, self._limited(coefficient, h))
            moves = math.all([moves, *map(math.finite, (reached, *memory.values()))])
            moved.append(reached)
            entries |= memory
        entries |= dict(zip((c.name for c in coefficients), self._inward(moved), strict=True))
        entries = {
            key: self._builder.emit("where", moves, new, self._kept(key))
            for key, new in entries.items()
        }
        recorded = (hypergradient_key(c.name) for c in coefficients)
        entries |= dict(zip(recorded, measured, strict=True))
        nothing = math.number(0.0)
        program = Program(
            name=" and ".join(c.name for c in coefficients),
            documentation=(f"How {', '.join(c.name for c in coefficients)} move.",),
            hypers=tuple(Hyper(name, 0.0, EVERYTHING) for name in self._inputs),
            operations=self._builder.operations,
            states=tuple(State(key, UNIFORM, nothing, new) for key, new in entries.items()),
            parameter=parameter,
            parameter_type=UNIFORM,
        )
        return run_passes(verify(program))

    @property
    def _exponentiated(self) -> bool:
        return all(c.learned.exponentiated for c in self._block.coefficients)

    def _input(self, name: str) -> Value:
        if name not in self._inputs:
            self._inputs.append(name)
        return self._builder.emit("hyper", attribute=name, hint=name)

    def _kept(self, key: str) -> Value:
        return self._builder.emit("state", attribute=key, type=UNIFORM, hint=f"{key}_before")

    def _updates(self, coefficient: Coefficient) -> Value:
        """The number of updates, the one that is being made included."""
        return self._builder.emit("add", self._kept(coefficient.step_key), self._math.number(1.0))

    def _mean(self, coefficient: Coefficient) -> Value:
        """The running mean of squared norms of the gradient, the current one included."""
        nothing, kept = self._math.number(0.0), self._kept(coefficient.mean_key)
        before = self._math.where("eq", self._kept(coefficient.step_key), 0.0, nothing, kept)
        return signals.running_mean(self._math, before, self._input(SQUARE))

    def _signal(
        self, coefficient: Coefficient, measured: Value, means: Mapping[str, Value]
    ) -> Value:
        """What the rule follows: the hyper-gradient, a cosine, or a quotient."""
        match coefficient.learned.signal:
            case "cosine":
                return signals.cosine(self._math, coefficient.name, measured, self._input)
            case "normalized":
                square, updates = self._input(SQUARE), self._updates(coefficient)
                mean = means[coefficient.name]
                return signals.normalized(self._math, measured, square, mean, updates)
            case _:
                return measured

    def _limited(self, coefficient: Coefficient, signal: Value) -> Value:
        """The signal as its rule sees it."""
        learned = coefficient.learned
        if learned.signal == "sign":
            signal = self._builder.emit("sign", signal)
        if learned.clip is not None:
            signal = self._math.limited(signal, -learned.clip, learned.clip)
        return signal

    def _stepped(
        self, coefficient: Coefficient, start: Value, signal: Value
    ) -> tuple[Value, dict[str, Value]]:
        """Where a step of the rule leads, and what the rule remembers then."""
        rule, builder = coefficient.rule, self._builder
        count, following = self._kept(coefficient.step_key), self._updates(coefficient)
        options = rule.defaults | dict(coefficient.learned.options)
        bound: dict[Value, Value] = {}
        leaves = {"parameter": start, "gradient": signal, "step": following}
        for index, operation in enumerate(rule.operations):
            if operation.opcode in leaves:
                bound[Value(index)] = leaves[operation.opcode]
            elif operation.opcode == "hyper":
                bound[Value(index)] = self._math.number(options[str(operation.attribute)])
        fresh = builder.copied(rule, rule.initial_values, bound)
        begins = builder.emit("eq", count, self._math.number(0.0))
        before = {
            s.name: builder.emit(
                "where", begins, fresh[s.initial], self._kept(memory_key(coefficient.name, s.name))
            )
            for s in rule.states
        }
        for index, operation in enumerate(rule.operations):
            if TABLE[operation.opcode].stage is Stage.BUFFER and operation.opcode not in leaves:
                bound[Value(index)] = before[str(operation.attribute)]
        new = builder.copied(rule, rule.step_values, bound)
        memory = {memory_key(coefficient.name, s.name): new[s.next] for s in rule.states}
        return new[rule.parameter], {coefficient.step_key: following, **memory}

    def _outward(self, values: list[Value]) -> list[Value]:
        """The numbers on which the rules of coefficients run."""
        return simplex.logarithms(self._math, values) if self._exponentiated else values

    def _inward(self, moved: list[Value]) -> list[Value]:
        """The coefficients, within their bounds, for the results of their rules."""
        if self._exponentiated:
            return simplex.softmax(self._math, moved)
        if self._block.vector:
            return simplex.project(self._math, moved)
        bounds = [c.learned.bounds for c in self._block.coefficients]
        return [self._math.limited(x, b.lower, b.upper) for b, x in zip(bounds, moved, strict=True)]


@lru_cache(maxsize=64)
def scalarized(rule: Program) -> Program:
    """A rule as it runs on a coefficient, of which it learns nothing itself.

    Raises:
        OptionError: where no section of the rule is for single numbers, or where it draws random
            numbers.
    """
    if any(o.opcode in DRAWS for o in rule.operations):
        raise OptionError(
            f"{rule.name} draws random numbers for the elements of tensors, and cannot learn a "
            f"coefficient"
        )
    if rule.sections:
        section = section_of(rule.sections, ())
        if section is None:
            raise OptionError(f"{rule.name} cannot learn a coefficient, which is no matrix")
        rule = specialize(rule, section)
    return run_passes(verify(scalarize(replace(rule, learned=()))))
