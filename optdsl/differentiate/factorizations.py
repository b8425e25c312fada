"""What a hyper-gradient leaves out: the arguments of factorizations, which are held constant."""

from __future__ import annotations

from collections.abc import Iterator

from optdsl.differentiate import forward
from optdsl.ir.builder import Builder
from optdsl.ir.derivatives import NoDerivative, zero
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value
from optdsl.passes.specialize import specialize


def held(program: Program, hyper: str) -> tuple[str, ...]:
    """The factorizations whose arguments depend on a hyperparameter, and are held constant.

    Those behind `stop_gradient` do not count, which is written to hold what is in it.
    """
    found = (name for part in _parts(program) for name in _held(part, hyper)[0])
    return tuple(dict.fromkeys(found))


def check(program: Program, hyper: str) -> None:
    """Refuse a hyperparameter that moves the parameter only through factorizations.

    Raises:
        NoDerivative: for such a hyperparameter, also if tensors of one section alone are so.
    """
    for part in _parts(program):
        names, moves = _held(part, hyper)
        if names and not moves:
            raise NoDerivative(names[0])


def _parts(program: Program) -> Iterator[Program]:
    """The program of each section, if there are factorizations at all."""
    if any(TABLE[o.opcode].stage is Stage.FACTORIZATION for o in program.operations):
        sections = range(len(program.sections) or 1)
        yield from (specialize(program, n) for n in sections)


def _held(program: Program, hyper: str) -> tuple[list[str], bool]:
    """The factorizations whose arguments move, and whether the parameter moves otherwise."""
    needed = program.needed((program.parameter,))
    tangents = forward.along(Builder(program.operations), program, needed, "hyper", hyper)
    found, waiting, seen = list[str](), [program.parameter], set[Value]()
    while waiting:
        value = waiting.pop()
        operation = program.operations[value]
        if value in seen or TABLE[operation.opcode].derivative is zero:
            continue  # what is behind it is a constant
        seen.add(value)
        factorized = TABLE[operation.opcode].stage is Stage.FACTORIZATION
        if factorized and any(tangents[a] is not None for a in operation.arguments):
            found.append(operation.opcode)
        waiting.extend(operation.arguments)
    return found, tangents[program.parameter] is not None
