"""Turns programs into kernels: which values are computed when, and where results are stored."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import DRAWS, TABLE
from optdsl.ir.program import Operation, Program, Tangent, Value, upstream
from optdsl.ir.types import TENSOR, Extent, Type
from optdsl.learning.signals import SQUARE
from optdsl.plan import Plan
from optdsl.plan.keys import is_pending


class Role(enum.StrEnum):
    """What a kernel does in a step; the values are the names of emitted functions."""

    INITIALIZE = "initialize"
    """The states of a tensor before its first step."""
    STEP = "step"
    """A step of a tensor without a pending step."""
    COMPLETE = "complete"
    """The hyper-gradients of the pending step, whose states are completed."""
    STEP_COMPLETED = "step_completed"
    """A step right after `COMPLETE`, with the same gradient."""
    FUSED = "complete_and_step"
    """`COMPLETE` and the next step at once."""
    STEP_OUTSIDE = "step_outside"
    """A step of elements from which no hyper-gradient is estimated."""
    EVALUATE = "evaluate"
    """The point at which the model is evaluated, after a step."""


@dataclass(frozen=True)
class Result:
    """One result of a kernel, with the type in which it is stored."""

    name: str
    value: Value
    type: Type


@dataclass(frozen=True)
class Loop:
    """One pass over the elements of a tensor.

    Attributes:
        scalars: values computed once for the tensor before the loop, in order.
        body: values computed for each element, in order; values of an earlier loop that this loop
            needs are computed again.
        reductions: the sums and means that the loop computes.
    """

    scalars: tuple[Value, ...]
    body: tuple[Value, ...]
    reductions: tuple[Value, ...]


@dataclass(frozen=True)
class Kernel:
    """A part of a program that runs as a whole.

    Attributes:
        name: a `Role`, or that of a variant of it.
        program: where the values come from.
        uniform: values computed once on the host in double precision, in order.
        body: values computed per tensor or per element, in order.
        results: the values that are stored.
        dots: the values that are multiplied by the gradient and summed over all elements of all
            tensors.
        rotates: whether states may take over each other's memory, so that nothing is copied.
    """

    name: str
    program: Program
    uniform: tuple[Value, ...]
    body: tuple[Value, ...]
    results: tuple[Result, ...]
    dots: tuple[Result, ...] = ()
    rotates: bool = True

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value, uniform ones first, each after those it uses."""
        return (*self.uniform, *self.body)

    def uses(self) -> Counter[Value]:
        """How often each value is used, as an argument or as a result."""
        counted = Counter(r.value for r in (*self.results, *self.dots))
        for value in self.values:
            counted.update(self.program.operations[value].arguments)
        return counted

    def reads(self, opcode: str) -> tuple[str | None, ...]:
        """The attributes of the leaves with an opcode, in program order."""
        operations = (self.program.operations[v] for v in self.values)
        return tuple(
            o.attribute if isinstance(o.attribute, str) else None
            for o in operations
            if o.opcode == opcode
        )

    @property
    def draws(self) -> bool:
        """Whether random numbers are drawn."""
        return any(self.program.operations[v].opcode in DRAWS for v in self.values)

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """The passes over the elements: each but the last ends with reductions."""
        operations = self.program.operations
        level: dict[Value, int] = {}
        for value in self.body:
            arguments = [a for a in operations[value].arguments if a in level]
            level[value] = max((level[a] + (_reduces(operations[a])) for a in arguments), default=0)
        reductions = [v for v in self.body if _reduces(operations[v])]
        scalar = [v for v in self.body if self.program.type(v).extent is Extent.SCALAR]
        found = []
        for number in range(max((level[v] + 1 for v in reductions), default=0) + 1):
            ends = tuple(v for v in reductions if level[v] == number)
            last = not any(level[v] >= number for v in reductions)
            roots = [r.value for r in (*self.stored, *self.dots)] if last else []
            roots += [a for v in ends for a in operations[v].arguments]
            behind = upstream(operations, roots, set(scalar))
            body = tuple(v for v in behind if self.program.type(v).extent is Extent.TENSOR)
            between = tuple(v for v in scalar if level[v] == number and v not in reductions)
            found.append(Loop(between, body, ends))
        return tuple(found)

    @cached_property
    def buffers(self) -> dict[str, str]:
        """For each tensor state, the state in whose memory it is after the kernel.

        A state whose new value is the old value of another state takes over the memory of that
        state, so that nothing is copied. The other state gets memory that is free.
        """
        tensors = [s for s in self.program.states if s.type.extent is Extent.TENSOR]
        if not self.rotates:
            return {s.name: s.name for s in tensors}
        # What is stored in another way is no memory for a state.
        alike = (self._rotated([s.name for s in tensors if s.codec == codec])
                 for codec in dict.fromkeys(s.codec for s in tensors))  # fmt: skip
        found = {name: home for part in alike for name, home in part.items()}
        return {s.name: found[s.name] for s in tensors}

    def _rotated(self, tensors: Sequence[str]) -> dict[str, str]:
        """The same for states of these names, which are stored alike."""
        results = {r.name: r.value for r in self.results}
        sources = {
            name: str(self.program.operations[results[name]].attribute)
            for name in tensors
            if name in results and self.program.operations[results[name]].opcode == "state"
        }
        found = {name: name for name in tensors if sources.get(name) == name}
        for name, source in sources.items():
            if source in tensors and source not in found.values():
                found.setdefault(name, source)
        found |= {n: n for n in tensors if n not in found and n not in found.values()}
        others = [name for name in tensors if name not in found]
        free = [name for name in tensors if name not in found.values()]
        found |= zip(others, free, strict=True)
        return found

    def home(self, result: Result) -> str:
        """The buffer that a result is written to: "theta", or that of a state."""
        return self.buffers.get(result.name, result.name)

    @cached_property
    def stored(self) -> tuple[Result, ...]:
        """The results that are written: all but those that are where they belong already."""
        stored = []
        for result in self.results:
            operation = self.program.operations[result.value]
            source = "theta" if operation.opcode == "parameter" else operation.attribute
            if operation.opcode not in {"parameter", "state"} or source != self.home(result):
                stored.append(result)
        return tuple(stored)

    @property
    def read(self) -> frozenset[tuple[str, str | None]]:
        """What the last loop reads from memory: opcodes, and names of states."""
        return self.reads_in(self.loops[-1])

    def reads_in(self, loop: Loop) -> frozenset[tuple[str, str | None]]:
        """What a loop reads from memory: opcodes, and names of states."""
        operations = (self.program.operations[v] for v in loop.body)
        return frozenset(
            (o.opcode, str(o.attribute) if o.opcode == "state" else None)
            for o in operations
            if TABLE[o.opcode].stage is Stage.BUFFER
        )

    @property
    def traffic(self) -> tuple[int, int]:
        """How many tensors a step reads from memory, and how many it writes."""
        read = self.read | {("gradient", None)} if self.dots else self.read
        written = sum(r.type.extent is Extent.TENSOR for r in self.stored)
        return len(read), written

    @property
    def earlier(self) -> int:
        """How many tensors the passes before the last one read, such as those for norms."""
        return sum(len(self.reads_in(loop)) for loop in self.loops[:-1])


def schedule(plan: Plan) -> dict[str, Kernel]:
    """The kernels of a plan, by name; kernels that complete a step only if something is learned.

    If a step keeps its gradient, `COMPLETE` stores it, since it reads the gradient anyway, and
    `STEP_COMPLETED`, which runs next with the same gradient, does not.

    Where hyper-gradients are estimated from a sample, `INITIALIZE` starts the states of the rule,
    which all elements have, and not those of the sampled ones, which start at zero.
    """
    program = plan.advance
    first = program if plan.outside is None else plan.outside
    initial = tuple(Result(s.name, s.initial, s.type) for s in first.states)
    kernels = [
        make_kernel(Role.INITIALIZE, first, initial),
        make_kernel(Role.STEP, program, _results(program)),
    ]
    if plan.outside is not None:
        kernels.append(make_kernel(Role.STEP_OUTSIDE, plan.outside, _results(plan.outside)))
    if plan.complete is not None and plan.fused is not None:
        kept = set(filter(is_pending, plan.kept))
        early = {
            s.name
            for s in program.states
            if s.name in kept and program.operations[s.next].opcode == "gradient"
        }
        complete = _keeping_the_gradient(plan.complete, early)
        complete, products = _measured(complete, plan.squared)
        fused, sums = _measured(plan.fused, plan.squared)
        kernels += [
            make_kernel(Role.COMPLETE, complete, _results(complete, kept - early), products),
            make_kernel(Role.STEP_COMPLETED, program, _results(program, early)),
            make_kernel(Role.FUSED, fused, _results(fused), sums),
        ]
    if plan.outside is not None:
        # A state of all elements and one of sampled ones cannot trade places.
        kernels = [replace(kernel, rotates=False) for kernel in kernels]
    return {kernel.name: kernel for kernel in kernels}


def evaluating(program: Program) -> dict[str, Kernel]:
    """The kernel that computes the point at which the model is evaluated, by its name."""
    points = tuple(Result("theta", v, program.parameter_type) for v in program.points)
    return {Role.EVALUATE: make_kernel(Role.EVALUATE, program, points)}


def _keeping_the_gradient(program: Program, names: Container[str]) -> Program:
    """The program with the gradient as the new value of the states of these names."""
    builder = Builder(program.operations)
    gradient = builder.emit("gradient", type=TENSOR)
    states = tuple(replace(s, next=gradient) if s.name in names else s for s in program.states)
    return replace(program, operations=builder.operations, states=states)


def cheapest(plans: Iterable[Plan]) -> Plan:
    """The plan with the least state; of equal ones, the one that moves the least memory."""

    def moved(plan: Plan) -> float:
        kernels = schedule(plan)
        return sampled_traffic(kernels, kernels.get(Role.FUSED, kernels[Role.STEP]), plan.sample)

    return min(plans, key=lambda p: (state_tensors(p), moved(p)))


def state_tensors(plan: Plan) -> float:
    """The number of states that have one number for each element.

    One that has a number for each sampled element counts as its part of that, as in large tensors.
    """
    own = [s.name for s in plan.states if s.type.extent is Extent.TENSOR]
    return sum(1 / plan.sample if name in plan.kept else 1 for name in own)


def sampled_traffic(kernels: Mapping[str, Kernel], kernel: Kernel, sample: int) -> float:
    """How many tensors a step reads and writes, where sampled elements take one by `kernel`.

    Args:
        kernels: those of the plan.
        kernel: what runs for sampled elements.
        sample: one in so many elements is sampled; the others take the plain step.
    """
    outside = sum(kernels[Role.STEP_OUTSIDE].traffic) if sample > 1 else 0
    return sampled_mean(sum(kernel.traffic), outside, sample)


def sampled_mean(sampled: float, outside: float, sample: int) -> float:
    """The mean of what sampled elements take, one in `sample`, and of what the others take."""
    return sampled if sample == 1 else sampled / sample + outside * (1 - 1 / sample)


def _results(program: Program, dropped: Iterable[str] = ()) -> tuple[Result, ...]:
    return (
        Result("theta", program.parameter, program.parameter_type),
        *(Result(s.name, s.next, s.type) for s in program.states if s.name not in dropped),
    )


def _measured(program: Program, squared: bool) -> tuple[Program, tuple[Result, ...]]:
    """A program and its dots, with the gradient's own square if it is measured, too."""
    if squared and program.tangents:
        builder = Builder(program.operations)
        own = Tangent(SQUARE, builder.emit("gradient", type=TENSOR))
        tangents, operations = (*program.tangents, own), builder.operations
        program = replace(program, operations=operations, tangents=tangents)
    kind = program.parameter_type
    return program, tuple(Result(t.hyper, t.value, kind) for t in program.tangents)


def make_kernel(
    name: str, program: Program, results: tuple[Result, ...], dots: tuple[Result, ...] = ()
) -> Kernel:
    """The kernel that computes some results of a program."""
    needed = program.needed(tuple(r.value for r in (*results, *dots)))
    if program.axes:
        along = {axis for r in results for axis in r.type.own_axes}
        lengths = [v for name, v in program.axes if name in along]
        needed = program.needed((*needed, *program.lengths_of(needed), *lengths))
    uniform = tuple(v for v in needed if program.type(v).extent is Extent.UNIFORM)
    body = tuple(v for v in needed if program.type(v).extent is not Extent.UNIFORM)
    return Kernel(name, program, uniform, body, results, dots)


def _reduces(operation: Operation) -> bool:
    return TABLE[operation.opcode].stage is Stage.REDUCTION
