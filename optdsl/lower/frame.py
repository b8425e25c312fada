"""Where an expression stands while it is lowered, and how far functions are expanded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from optdsl.diagnostics import Note, Report, Span
from optdsl.ir.builder import MAX_OPERATIONS
from optdsl.ir.program import Value
from optdsl.lower.resolve import walk
from optdsl.syntax import ast

# The values of names; None after a mistake that is already reported.
Environment = Mapping[str, Value | None]


# Limits on the expansion of functions: expressions lowered, and their depth.
MAX_VISITS = 200_000
MAX_DEPTH = 150
# How often a function may call itself in the place of its result.
MAX_CALLS = 100


@dataclass(frozen=True)
class Frame:
    """Where an expression stands.

    Attributes:
        names: the values of the names that it may use.
        function: the function whose body it is a part of; None for an equation.
        site: the outermost call of that function, where mistakes are reported.
        expanded: the names of all functions that are being expanded.
        axis: the axis that the function was called with, after `over`.
        decided: whether it stands in a branch of a `where` that is decided here.
    """

    names: Environment
    function: ast.Function | None = None
    site: Span | None = None
    expanded: frozenset[str] = frozenset()
    axis: str | None = None
    decided: bool = False


def calls_itself(node: ast.Expression, function: ast.Function) -> bool:
    """Whether an expression is a call of a function, which may be the one that it stands in."""
    return isinstance(node, ast.Call) and node.function.text == function.name.text


def recursive(function: ast.Function) -> bool:
    """Whether a function calls itself in its own body."""
    return any(calls_itself(node, function) for node in walk(function.body))


def uses(function: ast.Function, name: str) -> int:
    """How often a name stands in the body of a function."""
    found = (node for node in walk(function.body) if isinstance(node, ast.Name))
    return sum(node.spelled == name for node in found)


def report_endless(span: Span, function: ast.Function, report: Report) -> None:
    """Report a function that calls itself too often."""
    report.error(
        "recursion",
        f"`{function.name.text}` calls itself more than {MAX_CALLS} times",
        span,
        label="the limit is reached here",
        notes=[Note("declared here", function.name.span)],
        hint="check that the condition of its `where` changes at some call",
    )


def report_too_large(span: Span, report: Report) -> None:
    """Report a rule that grows beyond what one optimizer may have."""
    report.error(
        "too-large",
        f"the rule needs more than {MAX_OPERATIONS:,} operations, or functions nested more "
        f"than {MAX_DEPTH} deep",
        span,
        label="the limit is reached here",
        hint="functions that call functions grow fast; name results in equations",
    )
