"""Steps of matrices with products, cut into parts: C where it runs, torch for the rest.

Products, factorizations, and what torch computes in bfloat16 or only where a condition of the host
holds, are parts that the eager backend spells. What is computed before, between and after them is
spelled in C. Each part is a kernel; a value that another part needs is a state whose name begins
with `BETWEEN`, and ends with its type.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from optdsl.backends.base import SourceModule
from optdsl.backends.between_parts import BETWEEN, between
from optdsl.backends.branches import ROOT, branches
from optdsl.backends.c import matrix_module
from optdsl.backends.eager import emit_function, module_of
from optdsl.backends.matrix_expressions import MatrixPrinter, in_bfloat16, on_host
from optdsl.backends.tiled_passes import reduction, runs_value
from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, State, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Result, Role, make_kernel

# A part with fewer operations on elements is left to torch, whose products compute some of them.
_FEWEST = 4


@dataclass(frozen=True)
class Part:
    """A part of a step.

    Attributes:
        kernel: what it computes.
        torch: whether torch runs it.
    """

    kernel: Kernel
    torch: bool


def parts(kernel: Kernel) -> tuple[Part, ...]:
    """The parts of a step, in order; one part if nothing, or everything, is for torch."""
    cut = _Cut(kernel)
    levels = cut.levels()
    if not levels or set(levels.values()) == {1}:
        return (Part(kernel, True),)
    return tuple(cut.part(level, levels) for level in sorted(set(levels.values())))


def emit(kernels: Mapping[str, Kernel], dtype: str) -> tuple[SourceModule, SourceModule]:
    """The C file of the parts of a step, and the Python module of the others and of the start."""
    cut = parts(kernels[Role.STEP])
    functions = [emit_function(kernels[Role.INITIALIZE])]
    functions += [emit_function(part.kernel) for part in cut if part.torch]
    compiled = [part.kernel for part in cut if not part.torch]
    return matrix_module(compiled, dtype), module_of(kernels[Role.STEP].program, functions)


def interleaves(program: Program) -> bool:
    """Whether some of a step of a program of matrices is to run in C, and products between.

    It is not worth it where no part in C has reductions: Muon's products are nearly all of its
    step, and what is around them takes one pass less in C.
    """
    results = (
        Result("theta", program.parameter, program.parameter_type),
        *(Result(s.name, s.next, s.type) for s in program.states),
    )
    cut = parts(make_kernel(Role.STEP, program, results))
    return any(_reduces(part.kernel) for part in cut if not part.torch)


def _reduces(kernel: Kernel) -> bool:
    return any(reduction(kernel.program, value) is not None for value in kernel.body)


class _Cut:
    """A kernel and what of it is for torch."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel, self._program = kernel, kernel.program
        program = kernel.program
        host = on_host(program)
        narrow = in_bfloat16(program, host)
        regions = branches(kernel, MatrixPrinter(program, {}, {}))
        guarded = {v for region, values in regions.items() if region is not ROOT for v in values}
        guarded |= {region[0] for region in regions if region is not None}
        # What every part reads or computes for itself.
        self._free = {
            v
            for v in kernel.values
            if v in host or program.type(v).condition or TABLE[program.operations[v].opcode].leaf
        }
        self._free |= set(kernel.uniform)
        self._torch = {
            v
            for v in kernel.body
            if v not in self._free
            and (
                v in narrow or v in guarded or not runs_value(program, v) or self._widens(v, narrow)
            )
        }
        self._needs = {v: self._needed(program.operations[v].arguments) for v in kernel.body}

    def _widens(self, value: Value, narrow: Iterable[Value]) -> bool:
        operation = self._program.operations[value]
        return operation.opcode == "float32" and operation.arguments[0] in set(narrow)

    def _needed(self, arguments: Iterable[Value]) -> set[Value]:
        """The values of parts that some arguments are made of."""
        found: set[Value] = set()
        for argument in arguments:
            if argument not in self._free:
                found.add(argument)
            elif self._program.type(argument).condition:
                found |= self._needed(self._program.operations[argument].arguments)
        return found

    def levels(self) -> dict[Value, int]:
        """The number of the part in which each value is computed: odd if torch runs it."""
        while True:
            found: dict[Value, int] = {}
            for value in self._kernel.body:
                if value in self._free:
                    continue
                torch = value in self._torch
                own = (found[a] + ((a in self._torch) != torch) for a in self._needs[value])
                found[value] = max(own, default=int(torch))
                found[value] += (found[value] + torch) % 2
            self._sink(found)
            elements = Counter(
                level
                for v, level in found.items()
                if not level % 2 and self._program.type(v).extent is Extent.TENSOR
            )
            few = {level for level in found.values() if not level % 2 and elements[level] < _FEWEST}
            if not few:
                return found
            self._torch |= {v for v, level in found.items() if level in few}

    def _sink(self, levels: dict[Value, int]) -> None:
        """Move what is spelled in C to the last part where it is early enough."""
        users: dict[Value, int] = {}
        for value in reversed(self._kernel.body):
            if value in self._free:
                continue
            if value in users and value not in self._torch:
                levels[value] = users[value] - users[value] % 2
            for argument in self._needs[value]:
                users[argument] = min(users.get(argument, levels[value]), levels[value])

    def part(self, level: int, levels: Mapping[Value, int]) -> Part:
        """The part of a number."""
        program, last = self._program, max(levels.values())
        own = [v for v in self._kernel.body if levels.get(v) == level]
        outside = {v for v in self._kernel.body if v not in self._free and levels[v] != level}
        wanted = {a for v in outside for a in self._needs[v] if levels[a] == level}
        builder, bound = Builder(), dict[Value, Value]()
        given: list[State] = []
        results: list[tuple[str, Value]] = []
        final = {r.name: r for r in self._kernel.stored}
        for name, result in final.items():
            known = levels.get(result.value, self._settled(levels))
            if known == level:
                results.append((name, result.value))
            elif self._needed([result.value]) & set(own):
                wanted |= self._needed([result.value]) & set(own)
        torch = bool(level % 2)
        for value in sorted(
            {a for v in own for a in self._needs[v]}
            | {a for _, v in results for a in self._needed([v])}
        ):
            if levels[value] != level:
                name = between(value, program)
                bound[value] = builder.emit("state", attribute=name, type=program.type(value))
                given.append(State(name, program.type(value), bound[value], bound[value]))
        lengths = [v for _, v in program.axes] if torch else []
        roots = [*wanted, *(v for _, v in results), *lengths]
        new = builder.copied(program, roots, bound)
        later = self._read_after(level, levels)
        states = {s.name: s for s in program.states}
        made: list[Result] = []
        kept: list[State] = []
        for name, value in results:
            kind = final[name].type
            stored = name
            if not torch and name in later and level != last:
                stored = f"{BETWEEN}{name}/{kind}"
            made.append(Result(stored, new[value], kind))
        for value in sorted(wanted):
            name, kind = between(value, program), program.type(value)
            made.append(Result(name, new[value], kind))
        for result in made:
            if result.name != "theta" and result.name not in states:
                kept.append(State(result.name, result.type, result.value, result.value))
        for state in states.values():
            leaf = builder.emit("state", attribute=state.name, type=state.type)
            kept.append(replace(state, initial=leaf, next=leaf))
        theta = builder.emit("parameter")
        own_axes = tuple((name, new[v]) for name, v in program.axes) if torch else ()
        alone = replace(
            program,
            operations=builder.operations,
            states=(*given, *kept),
            parameter=theta,
            tangents=(),
            learned=(),
            evaluation=None,
            axes=own_axes,
        )
        return Part(make_kernel(f"{self._kernel.name}_{level}", alone, tuple(made)), torch)

    def _settled(self, levels: Mapping[Value, int]) -> int:
        """The part that stores what no part computes: the last one in C."""
        return max((n for n in levels.values() if not n % 2), default=max(levels.values()))

    def _read_after(self, level: int, levels: Mapping[Value, int]) -> set[str]:
        """What later parts read of the parameter and the states."""
        found: set[str] = set()
        operations = self._program.operations

        def leaves(values: Iterable[Value]) -> None:
            for value in values:
                operation = operations[value]
                if TABLE[operation.opcode].stage is Stage.BUFFER:
                    found.add(str(operation.attribute or "theta"))
                elif value in self._free:
                    leaves(operation.arguments)

        for value, own in levels.items():
            if own > level:
                leaves(operations[value].arguments)
        for result in self._kernel.stored:
            if levels.get(result.value, self._settled(levels)) > level:
                leaves([result.value])
        return found
