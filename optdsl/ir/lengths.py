"""Numbers that the shape of a tensor and its hyperparameters decide, such as lengths of axes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optdsl.ir.ops import APPLY, COMPARE, TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.sections import of_matrices, read_as, taps
from optdsl.ir.types import TAPS, Type

# The operations on numbers, choices between two of them and names included.
COMPUTED: dict[str, Callable[..., Any]] = {
    **APPLY,
    **COMPARE,
    **{n: apply for n in ("where", "define") if (apply := TABLE[n].apply) is not None},
}


def numbers(
    program: Program, values: Sequence[Value], shape: Sequence[int], group: Mapping[str, Any]
) -> list[Any]:
    """Values that are made of literals, hyperparameters and lengths.

    Args:
        program: of one section.
        values: some of its values.
        shape: of the tensor.
        group: the values of the hyperparameters.
    """
    rows, cols = read_as(program.kind, shape)[-2:]
    lengths = {"rows": float(rows), "cols": float(cols), TAPS: float(taps(shape))}
    found: dict[Value, Any] = {}
    for value in program.needed(tuple(values)):
        operation = program.operations[value]
        match operation.opcode:
            case "constant":
                found[value] = operation.attribute
            case "length":
                found[value] = lengths[str(operation.attribute)]
            case "size":
                found[value] = float(rows * cols)
            case "hyper":
                found[value] = float(group[str(operation.attribute)])
            case opcode:
                found[value] = COMPUTED[opcode](*(found[a] for a in operation.arguments))
    return [found[v] for v in values]


def own_lengths(program: Program, shape: Sequence[int], group: Mapping[str, Any]) -> dict[str, int]:
    """The lengths of the axes that a rule declares, for a tensor, and `taps` where it reads that.

    Args:
        program: of one section.
        shape: of the tensor.
        group: the values of the hyperparameters.

    Raises:
        ValueError: where a length is no whole number, or less than 1 for a tensor with elements,
            or more singular vectors are asked for than a matrix has.
    """
    if not of_matrices(program.kind):
        return {}
    known = {TAPS: taps(shape)} if reads_taps(program) else {}
    if not program.axes:
        return known
    lengths = numbers(program, [v for _, v in program.axes], shape, group)
    where = f"{program.name}: for a parameter of shape {tuple(shape)} the axis"
    found: dict[str, int] = {}
    empty = 0 in shape
    for (name, _), length in zip(program.axes, lengths, strict=True):
        if not float(length).is_integer() or (length < 1 and not empty):
            raise ValueError(
                f"{where} {name} would be {length:g} long, and a length is a whole number from 1 "
                f"on; change a hyperparameter, or round it with floor(...) in the rule"
            )
        found[name] = int(length)
    _check_vectors(program, shape, found, where)
    return found | known


def reads_taps(program: Program) -> bool:
    """Whether a rule depends on the number of positions of a kernel."""
    return any(o.opcode == "length" and o.attribute == TAPS for o in program.operations)


def _check_vectors(
    program: Program, shape: Sequence[int], own: Mapping[str, int], where: str
) -> None:
    """Refuse to compute more singular vectors than a matrix has rows."""
    rows, cols = read_as(program.kind, shape)[-2:]
    lengths = {"rows": rows, "cols": cols, **own}
    for operation in program.operations:
        if operation.opcode != "singular_vectors":
            continue
        side, wanted = operation.type.spans
        if lengths[wanted] > lengths[side]:
            raise ValueError(
                f"{where} {wanted} is {lengths[wanted]} long, and the matrix has "
                f"{lengths[side]} left singular vectors; limit it, as in min({wanted}, {side})"
            )


def renamed_axes(program: Program, names: Mapping[str, str]) -> Program:
    """A rule with other names for axes that it declares.

    Args:
        program: the rule.
        names: the new name of each axis that gets one.
    """
    if not names:
        return program

    def new(kind: Type) -> Type:
        return replace(kind, axes=tuple(names.get(a, a) for a in kind.axes))

    return replace(
        program,
        operations=tuple(replace(o, type=new(o.type)) for o in program.operations),
        states=tuple(replace(s, type=new(s.type)) for s in program.states),
        axes=tuple((names.get(name, name), length) for name, length in program.axes),
    )
