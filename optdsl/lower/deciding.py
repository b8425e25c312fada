"""Values that are decided while a program is made, or when the shape of a tensor is known."""

from __future__ import annotations

from collections.abc import Mapping

from optdsl.ir.builder import Builder
from optdsl.ir.ops import APPLY
from optdsl.ir.program import Value, upstream
from optdsl.lower.scope import Scope
from optdsl.syntax import ast


def decided(
    builder: Builder, value: Value, choices: Mapping[str, float], structure: dict[str, float]
) -> float | None:
    """A value that is made of literals and choices, at which the program is made; None for others.

    Args:
        builder: has its operations.
        value: the value.
        choices: the values of hyperparameters that may decide.
        structure: receives those that do.
    """
    operation = builder[value]
    if isinstance(operation.attribute, float):
        return operation.attribute
    if operation.opcode == "hyper" and str(operation.attribute) in choices:
        name = str(operation.attribute)
        structure[name] = choices[name]
        return choices[name]
    apply = APPLY.get(operation.opcode)
    numbers = [decided(builder, a, choices, structure) for a in operation.arguments]
    if apply is None or not numbers or any(n is None for n in numbers):
        return None
    return apply(*numbers)


def checked_length(
    value: Value | None, node: ast.Axis, builder: Builder, scope: Scope
) -> Value | None:
    """The length of a declared axis; None, and a diagnostic, if no shape decides it."""
    if value is None:
        return None
    for part in upstream(builder.operations, (value,)):
        operation = builder[part]
        hyper = scope.hypers.get(str(operation.attribute))
        known = operation.opcode in {"constant", "length", "size"} or (
            operation.opcode == "hyper" and hyper and isinstance(hyper.domain, ast.Choice)
        )
        if not (known or (operation.arguments and operation.opcode in APPLY)):
            name = node.name.text
            scope.report.error(
                "axis",
                f"the length of `{name}` is not known from the shape of a matrix",
                node.length.span,
                label=f"`{operation.hint or operation.opcode}` is no literal, choice or length",
                hint=f"declare a choice, as in `hyper rank = 4 in {{1, ..., inf}}`, and write "
                f"`axis {name} = min(rank, rows)`",
            )
            return None
    return value
