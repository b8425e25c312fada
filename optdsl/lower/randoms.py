"""`random` statements: numbers that are drawn at random, as functions of a counter."""

from __future__ import annotations

from collections.abc import Callable, Container

from optdsl.diagnostics import nearest
from optdsl.ir.builder import Builder
from optdsl.ir.draws import DISTRIBUTIONS
from optdsl.ir.program import Value
from optdsl.ir.types import TENSOR, UNIFORM, Extent, Type
from optdsl.lower.scope import Scope
from optdsl.lower.types import TYPES, named_type
from optdsl.syntax import ast


def check_randoms(scope: Scope) -> None:
    """Report unknown distributions, and types of which nothing can be drawn."""
    for node in scope.randoms.values():
        drawn = node.distribution
        if drawn.text not in DISTRIBUTIONS:
            scope.report.error(
                "random",
                f"`{drawn.text}` is no distribution",
                drawn.span,
                label=f"there are {', '.join(DISTRIBUTIONS)}",
                hint=nearest(drawn.text, DISTRIBUTIONS)
                or f"scale one of them: `random {node.name.text} = normal` has variance 1",
            )
        if node.type is None:
            continue
        kind = named_type(node.type, scope.axes)
        if kind is None:
            scope.report.error(
                "unknown-type",
                f"unknown type `{node.type.text}`",
                node.type.span,
                hint=nearest(node.type.text, TYPES)
                or "the types are scalar, tensor, rows, cols, and products of the last two",
            )
        elif kind.extent <= Extent.SHARED:
            scope.report.error(
                "type",
                f"`{node.name.text}` is drawn for each tensor",
                node.type.span,
                label=f"{kind.noun} is the same for all of them",
                hint=f"write `random {node.name.text} : scalar = {drawn.text}`",
            )
        elif kind.extent is Extent.AXES and not scope.matrices:
            scope.report.error(
                "type",
                "a tensor need not be a matrix here",
                node.type.span,
                label="only matrices have rows and columns",
                hint="write this in a section, after `for matrices`",
            )


def random_type(node: ast.Random, own: Container[str] = ()) -> Type:
    """The type of what is drawn, tensor where none is declared; `own` are the file's axes."""
    return named_type(node.type, own) or TENSOR


def draw(
    node: ast.Random,
    counter: Callable[[ast.Expression], Value | None],
    scope: Scope,
    builder: Builder,
    owner: str = "",
) -> Value | None:
    """The operation that draws; None, and a diagnostic, where the counter is no uniform number.

    The name of a draw is that of its rule or modifier and its own. A rule keeps its name in a blend
    and under modifiers, and so draws the same numbers there.

    Args:
        node: the statement.
        counter: lowers the counter, if there is another one than `t`.
        scope: its report receives the mistake.
        builder: receives the operation.
        owner: the name of the modifier that it stands in, where it is applied; else the file's.
    """
    at = node.counter
    value = builder.emit("step", hint="t") if at is None else counter(at)
    if value is None:
        return None
    if builder[value].type != UNIFORM:
        # Most often a name in it is reported already.
        if scope.report.empty:
            scope.report.error(
                "random",
                f"the counter of `{node.name.text}` is {builder[value].type.noun}",
                (node.counter or node).span,
                label="a counter is a uniform number",
                hint="count by `t` and hyperparameters, as in `at floor((t - 1) / gap)`",
            )
        return None
    attribute = f"{node.distribution.text} {owner or scope.declaration.name.text}.{node.name.text}"
    kind = random_type(node, scope.axes)
    return builder.emit("draw", value, attribute=attribute, type=kind, hint=node.name.text)
