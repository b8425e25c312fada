"""Sections: which equations of a rule hold for a tensor, and how the tensor is read.

A rule with sections is one program. Where its sections differ, it chooses by the leaf ``section``,
the number of the section that holds for a tensor; `optdsl.passes.specialize` makes the program of
one section.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from optdsl.ir.program import Program
from optdsl.ir.types import Extent, Type, side

OTHERWISE = "otherwise"
MATRICES, FLATTENED, STACKED = "matrices", "flattened matrices", "stacked matrices"
VECTORS = "vectors"
FLAT_CONVOLUTIONS, STACKED_CONVOLUTIONS = "flattened convolutions", "stacked convolutions"
WIDE, FLAT, STACK = "wide", "flattened", "stacked"
_OF_MATRICES = (MATRICES, FLATTENED, STACKED, FLAT_CONVOLUTIONS, STACKED_CONVOLUTIONS)
# The kinds that a shape alone can be of; a tensor comes to one of another name by its group.
KINDS = (*_OF_MATRICES, *(f"{WIDE} {kind}" for kind in _OF_MATRICES), VECTORS)
# Of a kind to which tensors come by their groups, where its equations have rows and columns.
AS_MATRICES = " as matrices"


def name_of(kind: str) -> str:
    """What a group calls a kind."""
    return kind.removesuffix(AS_MATRICES)


def is_stacked(kind: str) -> bool:
    """Whether tensors of three or more dimensions are read as stacks of matrices."""
    return STACK in kind.split() and of_matrices(kind)


def takes(kind: str, shape: Sequence[int]) -> bool:
    """Whether a section takes tensors of a shape, if no earlier one does."""
    if kind not in KINDS:
        return kind == OTHERWISE
    match kind.removeprefix(f"{WIDE} "):
        case "matrices":
            return len(shape) == 2
        case "vectors":
            return len(shape) <= 1
        case own:
            return len(shape) >= (3 if own.endswith("convolutions") else 2)


def section_of(kinds: Sequence[str], shape: Sequence[int], kind: str | None = None) -> int | None:
    """The number of the section that holds for a tensor; None if there is none.

    Args:
        kinds: the kinds of the sections, in the order of the file.
        shape: of the tensor.
        kind: the kind that its parameter group chose, if it did.
    """
    if kind is None:
        return next((n for n, own in enumerate(kinds) if takes(own, shape)), None)
    names = [name_of(own) for own in kinds]
    if kind not in names:
        return None
    number = names.index(kind)
    read = kinds[number] != kind
    fits = len(shape) == 2 if read else takes(kind, shape) or kind not in KINDS
    return number if fits else None


def read_as(kind: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape as which a section of a kind reads a tensor: the last two are rows and columns."""
    flat = flattened(kind, shape)
    return (*flat[:-2], flat[-1], flat[-2]) if is_turned(kind, shape) else flat


def taps(shape: Sequence[int]) -> int:
    """The number of positions of the kernel of a convolution; 1 for a matrix.

    Args:
        shape: of the weight: channels out, channels in, and the lengths of the kernel.
    """
    return math.prod(shape[2:])


def unread(kind: str, matrix: Sequence[int]) -> tuple[int, ...]:
    """A shape of a tensor that a kind reads as some matrices; its kernel has positions if it can.

    Args:
        kind: the kind.
        matrix: how many matrices there are, of how many rows and columns; one, if the kind does not
            read tensors as stacks.
    """
    stack, rows, cols = matrix
    if is_stacked(kind):
        return stack, rows, cols
    if FLAT not in kind.split():
        return rows, cols
    positions = next((n for n in range(2, cols + 1) if cols % n == 0), 1)
    return rows, cols // positions, positions


def flattened(kind: str, shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of the matrices of a tensor, which a kind may read transposed."""
    if FLAT in kind.split() and len(shape) > 2:
        return shape[0], math.prod(shape[1:])
    return tuple(shape)


def is_turned(kind: str, shape: Sequence[int]) -> bool:
    """Whether a kind reads a tensor transposed, as those with more rows than columns."""
    if WIDE not in kind.split() or not of_matrices(kind):
        return False
    rows, cols = flattened(kind, shape)[-2:]
    return rows > cols


def example(kinds: Sequence[str], number: int) -> tuple[int, ...] | None:
    """Some shape of which the section of that number takes tensors; None if no shape says so."""
    shapes = [(2, 3, 2), (3, 4), (7,), (2, 2, 1, 2)]
    if kinds[number] in {MATRICES, f"{WIDE} {MATRICES}"}:
        shapes = [(3, 4)]
    elif not of_matrices(kinds[number]):
        shapes = [(7,), *shapes]
    return next((s for s in shapes if section_of(kinds, s) == number), None)


def of_matrices(kind: str) -> bool:
    """Whether the tensors of a section are read as matrices, or as stacks of matrices."""
    return kind in KINDS[:-1] or kind.endswith(AS_MATRICES)


def value_shape(
    kind: Type, shape: Sequence[int], own: Mapping[str, int] = MappingProxyType({})
) -> tuple[int, ...]:
    """The shape of a value of a tensor that is read as a matrix, or as a stack of matrices.

    A stack comes first. A value of one axis has length 1 along the other one, and one number for a
    matrix is 1 by 1, so that all values broadcast.

    Args:
        kind: its type, other than uniform.
        shape: as which the tensor is read.
        own: the lengths of axes that the rule declares.
    """
    *stack, rows, cols = shape
    if kind.extent is Extent.TENSOR:
        return tuple(shape)
    lengths = {"rows": rows, "cols": cols, **own}
    match kind.axes:
        case (axis,):
            return (*stack, 1, lengths[axis]) if side(axis) else (*stack, lengths[axis], 1)
        case _:
            square = [lengths[a] for a in kind.axes] or [1, 1]
            return (*stack, *square)


def state_shapes(
    program: Program, shape: Sequence[int], own: Mapping[str, int] = MappingProxyType({})
) -> dict[str, tuple[int, ...]]:
    """The shapes of the states of a tensor, by their names, in a program that is of one section.

    Args:
        program: without sections, or specialized for one.
        shape: of the tensor.
        own: the lengths of axes that the rule declares; see `optdsl.ir.lengths.own_lengths`.
    """
    if of_matrices(program.kind):
        whole = read_as(program.kind, shape)
        return {
            s.name: tuple(shape)
            if s.type.extent is Extent.TENSOR
            else value_shape(s.type, whole, own)
            for s in program.states
        }
    return {s.name: tuple(shape) if s.type.extent is Extent.TENSOR else () for s in program.states}
