"""The laws of an operation: what the compiler may rely on, apart from its typing.

Every row of the table of operations states all laws. Passes ask for laws and not for the names of
operations, so that a new operation cannot be mistaken for one of another kind.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

# By argument, whether something is true of it.
Flags = tuple[bool, ...]


class Stage(enum.Enum):
    """Where in a step an operation is done."""

    LITERAL = "a number in the program"
    HOST = "a number that the host gives to a step"
    BUFFER = "a tensor in memory, read at the start of a step"
    LENGTH = "a number that follows from the shape of a tensor"
    ELEMENTWISE = "computed for each element, or once where no argument is a tensor"
    DRAW = "drawn at random, from a counter and from which element of which tensor it is"
    REDUCTION = "computed from all elements of a tensor"
    TOTAL = "computed from all tensors of the optimizer"
    INPUT = "whether an input is given to a step"
    SHAPE = "a number or a matrix that follows from the shape of a matrix"
    ALONG = "computed from the elements along one axis of a matrix"
    PRODUCT = "computed from whole matrices, by products and transpositions"
    FACTORIZATION = "computed from a whole matrix, by a factorization"

    @property
    def given(self) -> bool:
        """Whether nothing has to be computed."""
        return self in {
            Stage.LITERAL, Stage.HOST, Stage.BUFFER, Stage.LENGTH, Stage.SHAPE, Stage.INPUT
        }  # fmt: skip

    @property
    def mixes(self) -> bool:
        """Whether one number of the result depends on several elements of an argument."""
        return not self.given and self not in {Stage.ELEMENTWISE, Stage.DRAW}

    @property
    def of_matrices(self) -> bool:
        """Whether it knows rows and columns, which only backends that take matrices run."""
        return self in {Stage.SHAPE, Stage.ALONG, Stage.PRODUCT, Stage.FACTORIZATION}


@dataclass(frozen=True, kw_only=True)
class Laws:
    """What holds for an operation.

    Attributes:
        stage: where in a step it is done.
        alias: whether it is its argument, to the bit, under a name or behind a barrier.
        smooth: whether reverse accumulation may multiply its derivative by an adjoint of zero. It
            may not if the operation picks one argument, since the derivative of the other one may
            be NaN, or if it mixes elements.
        initial: whether it is known before the first step.
        replayable: whether computing it again, from one element alone, gives the same result.
        commutative: whether the order of its arguments does not matter, to the bit.
        rational: whether it is one of the four operations of arithmetic.
        additive: whether it is a sum of multiples of its arguments.
        affine: whether it is affine in its arguments, given which of them vary.
        shows: the arguments for which an infinity or a NaN makes the result an infinity or a NaN,
            given the arguments that are literals, with None for the others.
        selects: whether the result is an argument or its negation, so that nothing is rounded.
        integral: whether the result is always a whole number if the arguments are.
        compares: whether the result depends on which of the two arguments is larger.
        jumps: whether a small change of an argument may change the result by one or more, so that
            rounding can decide it.
        bounded: whether finite arguments give a finite result, given which arguments are uniform; a
            sum that overflows would overflow if its terms were added in another order, too.
        price: what computing it for one element takes in compiled kernels, in additions; of an
            operation with any number of pairs of arguments, what one argument takes. 0 for what
            is given, and for what is the argument itself.
    """

    stage: Stage
    alias: bool
    smooth: bool
    initial: bool
    replayable: bool
    commutative: bool
    rational: bool
    additive: bool
    affine: Callable[[Flags], bool]
    shows: Callable[[tuple[float | None, ...]], tuple[int, ...]]
    selects: bool
    integral: bool
    compares: bool
    jumps: bool
    bounded: Callable[[Flags], bool]
    price: int


def always(flags: Flags) -> bool:
    """True."""
    return True


def never(flags: Flags) -> bool:
    """False."""
    return False


def every(x: tuple[float | None, ...]) -> tuple[int, ...]:
    """All arguments."""
    return tuple(range(len(x)))


def first(x: tuple[float | None, ...]) -> tuple[int, ...]:
    """The first argument."""
    return (0,)


def none(x: tuple[float | None, ...]) -> tuple[int, ...]:
    """No argument."""
    return ()


def base(x: tuple[float | None, ...]) -> tuple[int, ...]:
    """The base of a power whose exponent is a positive literal; x^0 is 1 for a NaN, too."""
    return (0,) if x[1] is not None and x[1] > 0 else ()
