"""Fixes hyperparameters of a program at given values, and simplifies it over the reals."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from optdsl.algebra.facts import UNKNOWN, Fact, decided, facts
from optdsl.algebra.normal_form import FOLDED
from optdsl.algebra.polynomial import decimal, square_root
from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import APPLY, COMPARE, TABLE, laws_of, unaliased
from optdsl.ir.program import Operation, Operations, Program, State, Value, upstream
from optdsl.ir.sections import of_matrices
from optdsl.ir.types import AXES, TENSOR, Extent, Type, along
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.rewrite import rewrite


def _power(x: Fraction, y: Fraction) -> Fraction | None:
    whole = y.denominator == 1 and 0 <= y <= _MAX_POWER
    return x ** int(y) if whole else None


def _quotient(x: Fraction, y: Fraction) -> Fraction | None:
    return x / y if y else None


_MAX_POWER = 64
_EXACTLY = Fact()
# The operations on rational numbers; the result is None where it is not rational.
_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "neg": operator.neg,
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": _quotient,
    "pow": _power,
    "sqrt": square_root,
    "abs": abs,
    "sign": lambda x: Fraction((x > 0) - (x < 0)),
    "max": max,
    "min": min,
    **{f: lambda x, f=f: FOLDED.get((f, x)) for f, _ in FOLDED},
}


def fix(program: Program, values: Mapping[str, float]) -> Program:
    """The program at given values of some hyperparameters, simplified.

    Sums with 0, products with 0 and 1, and conditions that are decided are replaced by their
    results, and operations and states that the parameter no longer depends on are left out. A value
    that may be infinite or NaN is kept, even if it is multiplied by 0.
    """
    # A rule is known by its steps, whatever the point at which a model is evaluated.
    return fixed_further(partly_fixed(replace(program, evaluation=None), values))


def with_points(left: Program, right: Program) -> tuple[Program, Program]:
    """Two programs, both with the point at which the model is evaluated if one of them has it."""
    if not (left.points or right.points):
        return left, right
    return _with_point(left), _with_point(right)


def _with_point(program: Program) -> Program:
    if program.points:
        return program
    operations = (*program.operations, Operation("parameter", (), None, TENSOR))
    return replace(program, operations=operations, evaluation=Value(len(operations) - 1))


def partly_fixed(program: Program, values: Mapping[str, float]) -> Program:
    """The program at given values, simplified as far as that needs no facts about its values."""
    return _simpler(program, values, (UNKNOWN,) * len(program.operations))


def fixed_further(program: Program) -> Program:
    """What `partly_fixed` made, simplified as far as facts about its values allow.

    Facts take long to find, and are asked for only where they could decide something.
    """
    if not any(_undecided(program, operation) for operation in program.operations):
        return program
    return _simpler(program, {}, facts(program))


def _undecided(program: Program, operation: Operation) -> bool:
    """Whether facts about its arguments may simplify an operation; see `_simplified`."""
    if operation.opcode not in {"mul", "div", "sign", *COMPARE}:
        return False
    numbers = [_number(program.operations, a) for a in operation.arguments]
    if operation.opcode == "mul":
        return 0 in numbers
    return numbers[0] == 0 if operation.opcode == "div" else None not in numbers


def _simpler(program: Program, values: Mapping[str, float], known: Sequence[Fact]) -> Program:
    """The program at some values, simplified as far as some facts about its values allow."""
    # In comparisons, rounding may matter: computed numbers must not be replaced by exact ones.
    deciding = (o for o in program.operations if laws_of(o).jumps)
    compared = set(upstream(program.operations, [a for o in deciding for a in o.arguments]))
    positions, matrices = itertools.count(), of_matrices(program.kind)

    def rule(builder: Builder, operation: Operation, arguments: tuple[Value, ...]) -> Value | None:
        position = next(positions)
        if operation.opcode == "hyper" and operation.attribute in values:
            return builder.constant(values[str(operation.attribute)])
        facts = [known[a] for a in operation.arguments]
        if operation.opcode == "where":
            condition = program.operations[unaliased(program.operations, operation.arguments[0])]
            return _chosen(builder, arguments, [known[a] for a in condition.arguments])
        wide = arguments
        if matrices or TABLE[operation.opcode].stage is Stage.TOTAL:
            wide = _widened(program, builder, operation, arguments)
        found = _simplified(builder, operation, wide, facts, position in compared)
        return builder.copy(operation, wide) if found is None and wide != arguments else found

    return eliminate_dead(live_states(rewrite(program, rule)))


def _widened(
    program: Program, builder: Builder, operation: Operation, x: tuple[Value, ...]
) -> tuple[Value, ...]:
    """Arguments that extend as far as before, where the result depends on how far they do.

    What is simplified may extend along fewer axes: ``r + 0 * g`` becomes ``r``, and the sum of all
    numbers of a matrix is not that of one number a row.
    """
    stage = TABLE[operation.opcode].stage
    if not stage.mixes:
        return x
    found = []
    for old, new in zip(operation.arguments, x, strict=True):
        kind, own = program.type(old), builder[new].type
        number = stage is Stage.REDUCTION and kind.extent is Extent.TENSOR and not own.spans
        fewer = kind.spans != own.spans or (stage is Stage.TOTAL and kind.extent != own.extent)
        if fewer and not number:
            new = builder.emit("spread", new, _example(builder, kind))
        found.append(new)
    return tuple(found)


def _example(builder: Builder, kind: Type) -> Value:
    """Some value of a type that is not the same for all tensors."""
    if kind.extent is Extent.SCALAR:
        return builder.emit("size")
    theta = builder.emit("parameter")
    match kind.spans:
        case ("rows", "cols"):
            return theta
        case ("cols", "rows"):
            return builder.emit("transpose", theta)
        case (axis,) if axis in kind.own_axes:
            return builder.emit("indices", type=kind)
        case (axis,):
            return builder.emit("sum_cols" if axis == "rows" else "sum_rows", theta)
        case (first, second) if first != second:
            left, right = (_by_columns(builder, axis) for axis in (first, second))
            return builder.emit("matmul", left, builder.emit("transpose", right))
        case _:
            return builder.emit("identity", type=kind)


def _by_columns(builder: Builder, axis: str) -> Value:
    """Some matrix of an axis and the columns."""
    theta = builder.emit("parameter")
    if axis in AXES:
        return theta if axis == "rows" else builder.emit("identity", type=along((axis, axis)))
    indices = builder.emit("indices", type=along((axis,)))
    return builder.emit("add", indices, builder.emit("sum_rows", theta))


def live_states(program: Program) -> Program:
    """The program without states on which neither parameter, evaluation nor tangents depend."""
    states = {s.name: s for s in program.states}
    live: set[str] = set()
    waiting = [program.parameter, *program.points, *(t.value for t in program.tangents)]
    while waiting:
        for value in program.needed((waiting.pop(),)):
            operation = program.operations[value]
            if operation.opcode == "state" and operation.attribute not in live:
                name = str(operation.attribute)
                live.add(name)
                waiting.append(states[name].next)
    kept: tuple[State, ...] = tuple(s for s in program.states if s.name in live)
    return replace(program, states=kept)


def _simplified(
    builder: Builder,
    operation: Operation,
    x: tuple[Value, ...],
    known: list[Fact],
    compared: bool,
) -> Value | None:
    row = TABLE[operation.opcode]
    if row.stage is Stage.REDUCTION and not builder[x[0]].type.spans:
        # The reduced tensor has become a single number.
        return builder.emit(row.of_equal, builder.emit("size"), x[0]) if row.of_equal else x[0]
    if operation.opcode == "mix":
        pairs = list(zip(x[0::2], x[1::2], strict=True))
        parts = [(w, y) for w, y in pairs if _number(builder, w) != 0]
        kept = tuple(v for part in parts or pairs[:1] for v in part)
        return parts[0][1] if len(parts) == 1 else builder.copy(operation, kept)
    numbers = [_number(builder, a) for a in x]
    if (
        operation.opcode == "sign"
        and numbers[0] is not None
        and not decided(numbers[0], known[0], _EXACTLY)
    ):
        return None
    if numbers and None not in numbers and operation.opcode in APPLY:
        return _folded(builder, operation.opcode, numbers, compared)
    match operation.opcode:
        case "mul" if 0 in numbers and all(f.defined for f in known):
            return builder.constant(0.0)
        case "mul" if numbers[0] == 1:
            return x[1]
        case "mul" | "div" if numbers[1] == 1:
            return x[0]
        case "div" if numbers[0] == 0 and known[1].nonzero:
            return builder.constant(0.0)
        case "pow" if numbers[1] == 1:
            return x[0]
        case "add" if numbers[0] == 0:
            return x[1]
        case "add" | "sub" if numbers[1] == 0:
            return x[0]
        case "sub" if numbers[0] == 0:
            return builder.emit("neg", x[1])
    return None


def _number(builder: Operations, value: Value) -> float | None:
    operation = builder[unaliased(builder, value)]
    number = operation.attribute
    return number if operation.opcode == "constant" and isinstance(number, float) else None


def _folded(
    builder: Builder, opcode: str, numbers: list[float | None], compared: bool
) -> Value | None:
    """The result of an operation on literals, if it is a decimal that double precision can write.

    A result that is compared must also be the one that double precision computes.
    """
    result = APPLY[opcode](*numbers)
    if not all(map(math.isfinite, (result, *(x for x in numbers if x is not None)))):
        return None
    exact = _EXACT.get(opcode)
    if exact is None:
        return None
    wanted = exact(*(decimal(x) for x in numbers if x is not None))
    if wanted is None:
        return None
    # 1 - 0.98 is 0.02 here, although double precision rounds it to another number.
    near = float(wanted)
    usable = decimal(near) == wanted and (near == result or not compared)
    return builder.constant(near) if usable else None


def _chosen(builder: Builder, x: tuple[Value, ...], compared: list[Fact]) -> Value | None:
    condition = builder[unaliased(builder, x[0])]
    if condition.opcode in COMPARE:
        left, right = (_number(builder, a) for a in condition.arguments)
        if left is not None and right is not None and decided(left - right, *compared):
            return x[1] if COMPARE[condition.opcode](left, right) else x[2]
    return x[1] if x[1] == x[2] else None
