"""Constant expressions, as in defaults and bounds."""

from __future__ import annotations

import math

from optdsl.ir.domain import EVERYTHING, Choice, Domain, Interval
from optdsl.ir.ops import APPLY, OPERATORS
from optdsl.lower.scope import BUILTINS, NUMBERS, Scope
from optdsl.syntax import ast


def number(node: ast.Expression, what: str, scope: Scope) -> float | None:
    """The value of a constant expression; None, and a diagnostic, for another expression or NaN."""
    value = _evaluate(node, what, scope)
    if value is not None and math.isnan(value):
        scope.report.error("number", f"{what} is not a number", node.span, label="evaluates to NaN")
        return None
    return value


def _evaluate(node: ast.Expression, what: str, scope: Scope) -> float | None:
    match node:
        case ast.Number():
            # The parser has reported an infinite literal as too large.
            return None if math.isinf(node.value) else node.value
        case ast.Name() if node.spelled in NUMBERS:
            return NUMBERS[node.spelled]
        case ast.Negate():
            operand = _evaluate(node.operand, what, scope)
            return None if operand is None else -operand
        case ast.Binary(operator="+" | "-" | "*" | "/" | "^"):
            apply = APPLY[OPERATORS[node.operator]]
            left = _evaluate(node.left, what, scope)
            right = _evaluate(node.right, what, scope)
            return None if left is None or right is None else apply(left, right)
        case _:
            _not_constant(node, what, scope)
            return None


def _not_constant(node: ast.Expression, what: str, scope: Scope) -> None:
    tensors = {"g", "theta", *scope.states}
    if isinstance(node, ast.Name) and node.name in tensors:
        message = f"{what} must be a number, but `{node.name}` is a tensor"
        label = "a tensor, where one uniform number is needed"
    elif isinstance(node, ast.Name) and (node.name in BUILTINS or node.name in scope.hypers):
        message = f"{what} must be a number, but `{node.name}` can change"
        label = "not a constant"
    else:
        message, label = f"{what} must be a number", "not a constant"
    scope.report.error(
        "not-constant",
        message,
        node.span,
        label=label,
        hint="write a literal such as `0.9`, or an expression of literals",
    )


def domain(node: ast.Interval | ast.Choice | None, scope: Scope) -> Domain | None:
    """The numbers that a domain denotes: all, if there is no domain; None after a mistake."""
    if node is None:
        return EVERYTHING
    if isinstance(node, ast.Choice):
        values = [number(v, "a choice", scope) for v in node.values]
        found = tuple(v for v in values if v is not None)
        return Choice(found) if len(found) == len(values) else None
    lower = number(node.lower, "a bound", scope)
    upper = number(node.upper, "a bound", scope)
    if lower is None or upper is None:
        return None
    lower_open = node.lower_open or math.isinf(lower)
    upper_open = node.upper_open or math.isinf(upper)
    interval = Interval(lower, upper, lower_open, upper_open)
    if interval.empty:
        inverted = lower > upper
        scope.report.error(
            "empty-interval",
            f"the interval {node.span.text} is {'inverted' if inverted else 'empty'}",
            node.span,
            label="no number lies in it",
            hint=f"did you mean {Interval(upper, lower)}?"
            if inverted
            else "use square brackets for ends that are included",
        )
        return None
    return interval
