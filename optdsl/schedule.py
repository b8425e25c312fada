"""From a program to kernels: what is computed when, on the host or over the elements."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from optdsl.ir.program import Program, Value
from optdsl.ir.types import Extent, Type


@dataclass(frozen=True)
class Result:
    """One result of a kernel: its name, its value, and the type in which it leaves."""

    name: str
    value: Value
    type: Type


@dataclass(frozen=True)
class Kernel:
    """A part of a program that runs as a whole.

    Attributes:
        name: "initialize" (once per tensor) or "step".
        program: where the values come from.
        uniform: values computed once on the host in double precision, in order.
        body: values computed per tensor or per element, in order.
        results: what leaves the kernel.
    """

    name: str
    program: Program
    uniform: tuple[Value, ...]
    body: tuple[Value, ...]
    results: tuple[Result, ...]

    @property
    def values(self) -> tuple[Value, ...]:
        """Every value, uniform ones first, each after those it uses."""
        return (*self.uniform, *self.body)

    def uses(self) -> Counter[Value]:
        """How often each value is used, as an argument or as a result."""
        counted = Counter(r.value for r in self.results)
        for value in self.values:
            counted.update(self.program.operations[value].arguments)
        return counted

    def reads(self, opcode: str) -> tuple[str | None, ...]:
        """The attributes with which leaves of that opcode occur, in program order."""
        operations = (self.program.operations[v] for v in self.values)
        return tuple(
            o.attribute if isinstance(o.attribute, str) else None
            for o in operations
            if o.opcode == opcode
        )


def schedule(program: Program) -> tuple[Kernel, Kernel]:
    """The kernel that initializes the states and the kernel that takes a step."""
    initial = tuple(Result(s.name, s.initial, s.type) for s in program.states)
    step = (
        Result("theta", program.parameter, program.parameter_type),
        *(Result(s.name, s.next, s.type) for s in program.states),
        *(Result(f"tangent/{t.hyper}", t.value, program.parameter_type) for t in program.tangents),
    )
    return _kernel("initialize", program, initial), _kernel("step", program, step)


def _kernel(name: str, program: Program, results: tuple[Result, ...]) -> Kernel:
    needed = program.needed(tuple(r.value for r in results))
    uniform = tuple(v for v in needed if program.type(v).extent is Extent.UNIFORM)
    body = tuple(v for v in needed if program.type(v).extent is not Extent.UNIFORM)
    return Kernel(name, program, uniform, body, results)
