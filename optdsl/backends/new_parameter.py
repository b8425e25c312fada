"""The new parameter of a matrix, computed where the caller wants it: ``k * theta + x`` at once.

So that a step neither makes a matrix for ``k * theta`` nor copies the result into the parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from optdsl.backends.lifetimes import Lifetimes
from optdsl.ir.program import Program, Value

# The argument of an emitted function in whose memory the new parameter is computed.
OUT = "out"


@dataclass(frozen=True)
class Sum:
    """``sign * x + scale * y``, or a difference, as one call of torch computes it.

    Attributes:
        first: the summand that has no factor.
        negated: whether it is subtracted from the other one.
        second: the other summand.
        factor: a number of the host that it is multiplied with; None for 1.
        minus: whether it is subtracted.
    """

    first: Value
    negated: bool
    second: Value
    factor: Value | None
    minus: bool


def new_parameter(
    program: Program, value: Value, host: Collection[Value], bound: Mapping[Value, str]
) -> Sum | None:
    """The new parameter as a sum of the old one and something else; None for other expressions.

    Args:
        program: the program.
        value: the new parameter.
        host: the values that are numbers of the host.
        bound: the values that have variables.
    """
    operation = program.operations[value]
    if operation.opcode not in {"add", "sub"}:
        return None
    minus = operation.opcode == "sub"
    for place in (0, 1):
        old, other = operation.arguments[place], operation.arguments[1 - place]
        scale, theta = _scaled(program, old, host, bound)
        if program.operations[theta].opcode != "parameter" or other in host:
            continue
        if scale is not None:
            return Sum(other, minus and place == 0, theta, scale, minus and place == 1)
        if place == 0:
            factor, matrix = _scaled(program, other, host, bound)
            return Sum(theta, False, matrix, factor, minus)
    return None


def _scaled(
    program: Program, value: Value, host: Collection[Value], bound: Mapping[Value, str]
) -> tuple[Value | None, Value]:
    """A value as a number of the host, if there is one, times something else."""
    operation = program.operations[value]
    if operation.opcode == "mul" and value not in bound:
        for number, other in (operation.arguments, operation.arguments[::-1]):
            if number in host and other not in host:
                return number, other
    return None, value


def overwritable(program: Program, lifetimes: Lifetimes, value: Value) -> bool:
    """Whether nothing reads the old parameter after the statement of the new one."""
    leaves = (Value(n) for n, o in enumerate(program.operations) if o.opcode == "parameter")
    return all(lifetimes.last_reader(leaf, value) for leaf in leaves)


def inverted(program: Program, uses: Mapping[Value, int], host: Collection[Value]) -> set[Value]:
    """The square roots of matrices that something is divided by, and that nothing else reads.

    A product with the reciprocal of a root takes half the time of a root and a quotient, is the
    same for zeros, infinities and NaN, and is as precise up to two roundings.
    """
    found = set()
    for value in uses:
        operation = program.operations[value]
        if operation.opcode != "div" or operation.arguments[0] in host:
            continue
        root = program.operations[operation.arguments[1]]
        alone = uses[operation.arguments[1]] == 1 and root.hint is None
        if root.opcode == "sqrt" and alone and len(root.type.spans) == 2:
            found.add(operation.arguments[1])
    return found


Text = Callable[[Value], str]


def spelled(found: Sum, text: Text, negative: Text) -> str:
    """The call that computes a sum in the memory of `OUT`.

    Args:
        found: the sum.
        text: the expression of a value.
        negative: the expression of the negative of a value.
    """
    first = negative(found.first) if found.negated else text(found.first)
    name = "sub" if found.minus else "add"
    alpha = "" if found.factor is None else f", alpha={text(found.factor)}"
    return f"torch.{name}({first}, {text(found.second)}{alpha}, out={OUT})"
