"""Sums over all tensors, and what is shared by all tensors, are taken out of a program.

A kernel works on tensors one by one. So a step of a rule that reads sums over all of them has
stages: programs that measure what is summed, each with the totals of the stages before it, and the
step itself. In both, a total is a hyperparameter, and so is a state that all tensors share: such
numbers are the host's, in double precision. Every backend runs the stages as it runs any program.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from optdsl.ir.builder import Builder
from optdsl.ir.domain import EVERYTHING
from optdsl.ir.host import maximum
from optdsl.ir.ops import NEUTRAL, TABLE, TOTALS
from optdsl.ir.program import Hyper, Program, State, Value, upstream
from optdsl.ir.types import SCALAR, Extent
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.specialize import specialize

# The prefixes of the hyperparameters that stand for totals, for shared states, and for whether an
# input is given.
TOTAL, SHARED, GIVEN = "total/", "shared/", "given/"
# What the name of a total ends with that is not a sum, but the largest number.
_LARGEST = "/max"


@dataclass(frozen=True)
class Staged:
    """A rule whose steps have stages.

    Attributes:
        program: the step, in which totals and shared states are hyperparameters.
        measures: the programs before it, in order; each has states that are what is summed up.
        shared: the states that all tensors share; initial values and next ones are uniform values
            of `program`.
        inputs: the names of its inputs, which are states that are set before a step.
        required: those of them that every step needs, since nothing asks whether they are given.
    """

    program: Program
    measures: tuple[Program, ...]
    shared: tuple[State, ...]
    inputs: tuple[str, ...] = ()
    required: tuple[str, ...] = ()

    @property
    def totals(self) -> tuple[tuple[str, ...], ...]:
        """The names of the totals of each measuring program."""
        return tuple(
            tuple(s.name for s in p.states if s.name.startswith(TOTAL)) for p in self.measures
        )

    def read_by_shared(self) -> tuple[str, ...]:
        """The hyperparameters of users that shared states depend on."""
        values = [v for s in self.shared for v in (s.initial, s.next)]
        read = (self.program.operations[v] for v in self.program.needed(tuple(values)))
        names = {str(o.attribute) for o in read if o.opcode == "hyper"}
        return tuple(sorted(n for n in names if not n.startswith((TOTAL, SHARED, GIVEN))))


def combines(name: str) -> str:
    """What makes one number of two parts of a total: "add", or "max"."""
    return "max" if name.endswith(_LARGEST) else "add"


def combined(name: str, parts: Iterable[float]) -> float:
    """A total of its parts, those of tensors, kinds or ranks; of none, what adds nothing.

    Args:
        name: of the total, or of another sum over ranks.
        parts: the parts.
    """
    function = maximum if combines(name) == "max" else operator.add
    return functools.reduce(function, parts, NEUTRAL[combines(name)])


def staged(program: Program) -> Staged | None:
    """The stages of a rule; None for a rule without any, as most are.

    Args:
        program: of all sections, through all passes.
    """
    shared = {s.name for s in program.states if s.type.extent is Extent.SHARED}
    inputs = tuple(s.name for s in program.states if s.input)
    if not (shared or inputs) and not any(o.opcode in TOTALS for o in program.operations):
        return None
    builder = Builder()
    new: list[Value] = []
    levels: dict[Value, int] = {}
    summed: list[tuple[str, Value, int]] = []
    known: dict[tuple[str, Value], int] = {}
    for operation in program.operations:
        arguments = tuple(new[a] for a in operation.arguments)
        level = max((levels[a] for a in arguments), default=0)
        if operation.opcode == "given":
            name = f"{GIVEN}{operation.attribute}"
            value = builder.emit("hyper", attribute=name, hint=operation.hint)
        elif operation.opcode in TOTALS:
            # Equal totals in different places are one.
            place = known.setdefault((operation.opcode, arguments[0]), len(summed))
            name = f"{TOTAL}{place}"
            if TABLE[operation.opcode].combined == "max":
                name += _LARGEST
            if place == len(summed):
                summed.append((name, arguments[0], level))
            value = builder.emit("hyper", attribute=name, hint=f"total_{place}")
            level += 1
        elif operation.opcode == "state" and operation.attribute in shared:
            name = f"{SHARED}{operation.attribute}"
            value = builder.emit("hyper", attribute=name, hint=str(operation.attribute))
        else:
            value = builder.copy(operation, arguments)
        new.append(value)
        levels[value] = max(level, levels.get(value, 0))
    names = [
        *(name for name, _, _ in summed),
        *(f"{SHARED}{name}" for name in sorted(shared)),
        *(f"{GIVEN}{name}" for name in inputs),
    ]
    hypers = (*program.hypers, *(Hyper(name, 0.0, EVERYTHING) for name in names))
    whole = replace(program.rebuilt(builder.operations, new), hypers=hypers)
    kept = tuple(s for s in whole.states if s.name not in shared)
    found = tuple(s for s in whole.states if s.name in shared)
    step = replace(whole, states=kept)
    measures = (
        _measure(step, [(n, x) for n, x, own in summed if own == level])
        for level in sorted({own for _, _, own in summed})
    )
    return Staged(step, tuple(measures), found, inputs, required_inputs(program))


def required_inputs(program: Program) -> tuple[str, ...]:
    """The inputs of a rule that every step needs.

    They are used elsewhere than in a branch of a `where` whose condition depends on whether they
    are given.
    """
    inputs = tuple(s.name for s in program.states if s.input)
    own = {s.next for s in program.states if s.input}
    roots = [program.parameter, *(s.next for s in program.states if s.next not in own)]
    return tuple(name for name in inputs if _unguarded(program, roots, name))


def _unguarded(program: Program, roots: Sequence[Value], name: str) -> bool:
    """Whether some values use an input where nothing asks whether it is given."""
    operations = program.operations
    asked: list[bool] = []
    for operation in operations:
        given = operation.opcode == "given" and operation.attribute == name
        asked.append(given or any(asked[a] for a in operation.arguments))
    wanted = set(roots)
    for index in range(max(wanted, default=-1), -1, -1):
        operation = operations[index]
        if index not in wanted:
            continue
        if operation.opcode == "state" and operation.attribute == name:
            return True
        x = operation.arguments
        wanted.update(x[:1] if operation.opcode == "where" and asked[x[0]] else x)
    return False


def _measure(step: Program, summed: Sequence[tuple[str, Value]]) -> Program:
    """The program that measures some totals, which changes nothing else."""
    builder = Builder(step.operations)
    sections = {name: _sections(step, x, NEUTRAL[combines(name)]) for name, x in summed}
    totals = []
    for name, x in summed:
        reduction = "sum" if combines(name) == "add" else "max_matrix"
        part = builder.emit(reduction, x) if builder[x].type.spans else x
        zero = builder.constant(0.0)
        totals.append(State(name, SCALAR, zero, part, sections=sections[name]))
    behind = upstream(builder.operations, [s.next for s in totals])
    read = {str(o.attribute) for v in behind if (o := builder[v]).opcode == "state"}
    states = [
        replace(s, next=builder.emit("state", attribute=s.name, type=s.type))
        for s in step.states
        if s.name in read
    ]
    parameter = builder.emit("parameter")
    # Nobody knows the totals of this stage and of later ones yet.
    known = {str(o.attribute) for v in behind if (o := builder[v]).opcode == "hyper"}
    hypers = tuple(h for h in step.hypers if h.name in known or not h.name.startswith(TOTAL))
    return eliminate_dead(
        replace(
            step,
            operations=builder.operations,
            hypers=hypers,
            states=(*states, *totals),
            parameter=parameter,
            tangents=(),
            learned=(),
            evaluation=None,
        )
    )


def _sections(step: Program, summed: Value, neutral: float) -> tuple[int, ...]:
    """The sections whose tensors add something to a total; () for all."""
    alone = replace(step, states=(), tangents=(), evaluation=None, parameter=summed)

    def adds(section: int) -> bool:
        found = specialize(alone, section)
        operation = found.operations[found.parameter]
        return operation.opcode != "constant" or operation.attribute != neutral

    found = tuple(n for n in range(len(step.sections)) if adds(n))
    return () if len(found) == len(step.sections) else found
