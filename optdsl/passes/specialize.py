"""Makes of a rule with sections the program of one of them.

What holds for other sections only, states included, is left out. The pass is not part of the
default pipeline: the runtime asks for the program of a section when a tensor is of its kind.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import COMPARE, NEUTRAL, TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.sections import is_stacked, of_matrices
from optdsl.ir.types import Extent
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite

# Reductions of all matrices of a stack, and those of a tensor, or of one matrix.
_OF_MATRIX = {
    "sum_tensor": "sum",
    "mean_tensor": "mean",
    "max_tensor": "max_matrix",
    "min_tensor": "min_matrix",
}
_OF_STACK = {one: all_of_them for all_of_them, one in _OF_MATRIX.items()}


def in_kind(program: Program, kinds: Sequence[str], section: int) -> Program:
    """A rule as it is for one of some kinds, as a program of its own with its equations' names.

    Args:
        program: a rule with sections of these kinds, or one without sections, which is the same
            rule for all of them.
        kinds: the kinds.
        section: the number of the kind; without kinds, the program stays as it is.
    """
    if not kinds:
        return program
    return as_kind(program, kinds[section], section if program.sections else None)


def as_kind(program: Program, kind: str, section: int | None) -> Program:
    """A rule as it is for tensors of a kind, as a program of its own with its equations' names.

    Args:
        program: the rule.
        kind: what the tensors are read as.
        section: the number of the rule's section that holds for them; None for a rule without
            sections. The kind may be another one than the section's if that does not read its
            tensors as matrices, or if the tensors have two dimensions only.
    """
    if section is None:
        found = replace(program, kind=kind)
        return _whole(found) if is_stacked(kind) else found
    own = program.sections[section]
    prefix = f"{own}."

    def rename(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        name = str(operation.attribute)
        if operation.opcode != "define" or not name.startswith(prefix):
            return None
        return builder.copy(replace(operation, attribute=name.removeprefix(prefix)), x)

    found = rewrite(specialize(program, section), rename)
    if is_stacked(kind) and not of_matrices(own):
        found = _whole(found)
    return replace(found, kind=kind)


def of_one_matrix(program: Program) -> Program:
    """A rule of a kind whose tensors are one matrix each: sums of the tensor are of the matrix."""
    if not of_matrices(program.kind) or is_stacked(program.kind):
        return program

    def rule(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode in _OF_MATRIX:
            return builder.emit(_OF_MATRIX[operation.opcode], *x)
        return None

    return rewrite(program, rule)


def _whole(program: Program) -> Program:
    """A rule of tensors as one that reads them as stacks of matrices: its sums are of the stack."""

    def rule(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode in _OF_STACK:
            return builder.emit(_OF_STACK[operation.opcode], *x)
        if operation.opcode == "size":
            ones = builder.emit("spread", builder.constant(1.0), builder.emit("parameter"))
            return builder.emit("sum_tensor", ones)
        return None

    return rewrite(program, rule)


def specialize(program: Program, section: int) -> Program:
    """The program of a section, by its number; a program without sections stays as it is."""
    if not program.sections:
        return program
    kept = tuple(
        replace(s, sections=()) for s in program.states if not s.sections or section in s.sections
    )
    number, matrices = float(section), of_matrices(program.sections[section])

    def choose(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode == "section":
            return builder.constant(number)
        row = TABLE[operation.opcode]
        whole = operation.opcode in {"sum", "max_matrix"} or row.stage is Stage.TOTAL
        if whole and builder[x[0]].type.extent <= Extent.SHARED:
            # A total over the tensors of other sections, to which this one adds nothing.
            largest = operation.opcode == "max_matrix" or row.combined == "max"
            return builder.constant(NEUTRAL["max" if largest else "add"])
        if operation.opcode in _OF_MATRIX and not matrices:
            # Where a tensor is no stack of matrices.
            return builder.emit(_OF_MATRIX[operation.opcode], *x)
        if operation.opcode != "where":
            return None
        condition = builder[x[0]]
        apply = COMPARE.get(condition.opcode)
        sides = [builder[a] for a in condition.arguments]
        if apply is None or any(side.opcode != "constant" for side in sides):
            return None
        return x[1] if apply(*(side.attribute for side in sides)) else x[2]

    alone = replace(program, states=kept, sections=(), kind=program.sections[section])
    return eliminate_dead(rewrite(alone, choose))
