"""Identities that hold for every bit pattern, infinities and NaN included.

``x + 0`` is not among them: it turns -0 into 0.
"""

from __future__ import annotations

from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import UNIFORM
from optdsl.passes.rewrite import rewrite

# Zero with the positive sign; -0.0 is another literal.
_ZERO = Operation("constant", (), 0.0, UNIFORM)


def simplify(program: Program) -> Program:
    """The program with operations that change nothing left out, and negations moved outwards."""
    return rewrite(program, _simplify)


def _simplify(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
    result = _identity(builder, operation, x)
    # An operation may also broadcast; it is only left out when it does not.
    if result is not None and builder[result].type == operation.type:
        return result
    return _sign(builder, operation, x)


def _identity(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
    match operation.opcode:
        case "mul" if builder.is_constant(x[0], 1.0):
            return x[1]
        case "mul" | "div" | "pow" if builder.is_constant(x[1], 1.0):
            return x[0]
        case "sub" if builder[x[1]] == _ZERO:
            return x[0]
        case "neg" if _negated(builder, x[0]) is not None:
            return _negated(builder, x[0])
        case "where" if x[1] == x[2]:
            return x[1]
    return None


def _sign(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
    """A negation moves outwards: a product, quotient or sum of negated numbers rounds the same."""
    emit, negated = builder.emit, [_negated(builder, a) for a in x]
    match operation.opcode, negated:
        case "mul" | "div", [left, right] if left is not None or right is not None:
            signless = (a if n is None else n for a, n in zip(x, negated, strict=True))
            product = emit(operation.opcode, *signless)
            return emit("neg", product) if None in negated else product
        case "mul", _ if builder.is_constant(x[0], -1.0):
            return emit("neg", x[1])
        case "add", [_, int() as right]:
            return emit("sub", x[0], right)
        case "add", [int() as left, None]:
            return emit("sub", x[1], left)
        case "sub", [_, int() as right]:
            return emit("add", x[0], right)
    return None


def _negated(builder: Builder, value: Value) -> Value | None:
    """The value of which `value` is the negation, if it is one."""
    operation = builder[value]
    return operation.arguments[0] if operation.opcode == "neg" else None
