"""Runs of tensors that are not alike, for programs that can tell: where sums are over all tensors.

The tensors are of several sizes and kinds, stand in groups with different hyperparameters, and have
no gradient in some steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from optdsl.ir.arrays import Shape
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, State, Value, upstream
from optdsl.ir.sections import WIDE, is_stacked, of_matrices
from optdsl.ir.trajectories import Part, Run
from optdsl.ir.types import Extent
from optdsl.prove.runs import MATRICES, Draws

RUNS = 8
_STEPS = 5
_SIZES = (1, 3, 2)
_SHAPES: tuple[Shape, ...] = ((1, 2, 3), (1, 2, 2), (1, 1, 3))
# By the place of a tensor, the steps without its gradient; at each step, others have theirs.
_MISSING: dict[int, tuple[int, ...]] = {0: (0, 3), 1: (1,)}


def spans_tensors(programs: Sequence[Program]) -> bool:
    """Whether some of the programs sum over all tensors, or have states that all tensors share."""
    return any(_shares(p) for p in programs)


def _shares(program: Program) -> bool:
    needed = program.needed(program.carried_values)
    totals = (TABLE[program.operations[v].opcode].stage is Stage.TOTAL for v in needed)
    return any(totals) or bool(_shared(program))


def _shared(program: Program) -> list[State]:
    """The states that all tensors share."""
    return [s for s in program.states if s.type.extent is Extent.SHARED and not s.input]


def mixed(
    both: Sequence[Sequence[Program]], settings: Mapping[str, float], work: int
) -> Iterator[Run]:
    """The runs, as many as an amount of work allows.

    Args:
        both: for each rule its programs, one for each kind of tensors; the runs have the
            hyperparameters of the first one.
        settings: fixed values of some hyperparameters.
        work: about how many operations may be computed.
    """
    programs = [p for own in both for p in own]
    draws = Draws(programs, settings)
    kinds = [p.kind for p in both[0]]
    matrices = any(map(of_matrices, kinds))
    size = sum(len(p.operations) for p in programs) // len(kinds)
    own = _of_groups(programs, settings)
    for index in range(RUNS):
        hypers = draws.defaults if index < 4 else draws.hypers()
        other = draws.hypers()
        # Each kind once, and tensors of one kind if there are no others.
        chosen = [*range(len(kinds)), *([index % len(kinds)] * max(1, 3 - len(kinds)))]
        parts = []
        for place, section in enumerate(chosen):
            part = _part(kinds[section], section, index + place, matrices)
            if index % 2 and not draws.inputs:
                part = replace(part, missing=_MISSING.get(place, ()))
            if index % 4 > 1 and place == len(chosen) - 1:
                part = replace(part, hypers=tuple((name, other[name]) for name in own))
            parts.append(part)
        numbers = sum(part.size for part in parts)
        work -= size * _STEPS * numbers * (MATRICES if matrices else 1)
        if work < 0 and index:
            return
        theta = tuple(draws.number(1.0) for _ in range(numbers))
        gradients = tuple(
            tuple(
                0.0 if step in part.missing else draws.number(1.0)
                for part in parts
                for _ in range(part.size)
            )
            for step in range(_STEPS)
        )
        run = Run(tuple(hypers.items()), theta, gradients, mixed=tuple(parts))
        yield draws.with_inputs(run)


def _part(kind: str, section: int, turn: int, matrices: bool) -> Part:
    """A tensor of a kind; where one is read as a matrix, so are all."""
    if not of_matrices(kind):
        size = _SIZES[turn % len(_SIZES)]
        return Part(size, (1, 1, size) if matrices else None, section)
    stack, rows, cols = _SHAPES[turn % len(_SHAPES)]
    if turn % 2 and WIDE not in kind.split():
        rows, cols = cols, rows
    stack = 2 if is_stacked(kind) else stack
    return Part(stack * rows * cols, (stack, rows, cols), section)


def _of_groups(programs: Sequence[Program], settings: Mapping[str, float]) -> list[str]:
    """The hyperparameters that groups may set differently."""
    common = set(settings)
    for program in programs:
        # Inside a sum over all tensors each group has its own.
        totals = {
            Value(v)
            for v, o in enumerate(program.operations)
            if TABLE[o.opcode].stage is Stage.TOTAL
        }
        roots = [v for s in _shared(program) for v in (s.initial, s.next)]
        for value in upstream(program.operations, roots, totals):
            operation = program.operations[value]
            if operation.opcode == "hyper":
                common.add(str(operation.attribute))
    first = programs[0]
    return [h.name for h in first.hypers if h.name not in common and not first.simplex_of(h.name)]
