"""Constant expressions, as in defaults and bounds."""

from __future__ import annotations

import math

from optdsl.ir.domain import EVERYTHING, Choice, Domain, Interval, labelled
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


def in_domain(node: ast.Expression, what: str, domain: Domain, scope: Scope) -> float | None:
    """The value of a constant expression, or of a label of the domain; see `number`."""
    labels = domain.labels if isinstance(domain, Choice) else ()
    if isinstance(node, ast.Name) and node.spelled in labels:
        return float(labels.index(node.spelled))
    return number(node, what, scope)


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
    if isinstance(node, ast.Choice) and node.between:
        return _whole(node, scope)
    if isinstance(node, ast.Choice) and all(map(is_label, node.values)):
        return _labelled(node, scope)
    if isinstance(node, ast.Choice):
        values = [number(v, "a choice", scope) for v in node.values]
        found = tuple(v for v in values if v is not None)
        return Choice(found) if len(found) == len(values) else None
    lower = number(node.lower, "a bound", scope)
    upper = number(node.upper, "a bound", scope)
    if lower is None or upper is None:
        return None
    interval = Interval(lower, upper, node.lower_open, node.upper_open)
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


def is_label(node: ast.Expression) -> bool:
    """Whether an expression in a domain is a label and no number."""
    return isinstance(node, ast.Name) and not node.primed and not node.owner and node.name != "inf"


def labels_of(node: ast.Hyper | None) -> tuple[str, ...]:
    """The labels among which a hyperparameter chooses, if it does."""
    domain = None if node is None else node.domain
    values = domain.values if isinstance(domain, ast.Choice) and not domain.between else ()
    return tuple(v.name for v in values if isinstance(v, ast.Name) and is_label(v))


def compared_label(node: ast.Binary, scope: Scope) -> tuple[ast.Name, float] | None:
    """A hyperparameter that is compared with one of its labels, and the label's number."""
    if OPERATORS[node.operator] not in {"eq", "ne"}:
        return None
    for one, other in ((node.left, node.right), (node.right, node.left)):
        if isinstance(one, ast.Name) and isinstance(other, ast.Name):
            labels = labels_of(scope.hypers.get(one.spelled))
            if other.spelled in labels:
                return one, float(labels.index(other.spelled))
    return None


def _labelled(node: ast.Choice, scope: Scope) -> Choice | None:
    """The choice of ``{a, b}`` for labels; None after a mistake."""
    names = tuple(v.name for v in node.values if isinstance(v, ast.Name))
    for place, value in enumerate(node.values):
        if names[place] in names[:place]:
            message = f"`{names[place]}` is a label twice"
            scope.report.error("duplicate", message, value.span)
            return None
    return labelled(names)


def _whole(node: ast.Choice, scope: Scope) -> Interval | None:
    """The whole numbers of ``{a, ..., b}``; None after a mistake."""
    ends = [x for v in node.values if (x := number(v, "a bound", scope)) is not None]
    if len(ends) < len(node.values):
        return None
    if len(ends) == 2:
        lower, upper = ends
        if lower <= upper and lower == int(lower) and (math.isinf(upper) or upper == int(upper)):
            return Interval(lower, upper, whole=True)
    scope.report.error(
        "empty-interval",
        f"{node.span.text} is no range of whole numbers",
        node.span,
        label="a whole number, dots, and a larger whole number or `inf`",
        hint="write a range such as `{1, ..., 10}`, or all numbers with commas between them",
    )
    return None
