"""Slots that every rule has, and slots that a rule lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Sequence

from optdsl.diagnostics import Note, Report
from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value, upstream
from optdsl.lower.evaluation import EVALUATION
from optdsl.lower.resolve import walk
from optdsl.modifying.axes import check_axes
from optdsl.modifying.modifier import BASE, Modifier
from optdsl.syntax import ast

GRADIENT = "g"
UPDATE = "theta'"
EVERYWHERE = frozenset({GRADIENT, UPDATE, EVALUATION})
# The point at which the model is evaluated after the step.
AFTER = f"{EVALUATION}'"


def check_slots(
    node: ast.Combination,
    base: Program,
    equations: Collection[str],
    applied: Sequence[Modifier],
    report: Report,
) -> None:
    """Report what modifiers redefine and the rule does not have, or nothing may change.

    Args:
        node: the rule with its modifiers.
        base: the rule, for one kind of tensors where it has sections.
        equations: the names of its equations.
        applied: the modifiers.
        report: receives the mistakes.
    """
    check_axes(base, applied, report)
    parts = {h for s in base.simplexes for h in s.hypers}
    known = {*EVERYWHERE, *equations, *({h.name for h in base.hypers} - parts)}
    here = f", for tensors of the kind `{base.kind}`" if base.kind else ""
    for one in applied:
        for slot in one.slots:
            if slot not in known:
                modifier = one.application.modifier
                hint = f"its equations are {', '.join(sorted({UPDATE, *equations}))}"
                if base.kind and one.scope.section is None:
                    hint += f"; `{modifier.text}` has no sections, so that it acts on all tensors"
                if slot in {o.name.text for o in node.options}:
                    hint = f"it is given here; leave out `{slot} = ...`"
                report.error(
                    "unknown-slot",
                    f"`{node.base.text}` has no `{slot}` for `{modifier.text}` to redefine{here}",
                    modifier.span,
                    label="a modifier redefines equations and hyperparameters of the rule",
                    hint=hint,
                )


def check_base(
    node: ast.Expression,
    names: Container[str],
    base: Program,
    equations: Collection[str],
    modifier: ast.Identifier,
    report: Report,
) -> None:
    """Report what an expression of a modifier uses of a rule that some kind of tensors lacks.

    Args:
        node: the expression.
        names: the names that it may use.
        base: the rule, for one kind of tensors where it has sections.
        equations: the names of its equations.
        modifier: the modifier, where it is applied.
        report: receives the mistakes.
    """
    for part in walk(node) if base.kind else ():
        if isinstance(part, ast.Name) and part.owner == BASE and part.spelled not in names:
            report.error(
                "unknown-slot",
                f"the rule has no `{part.unowned}` for `{modifier.text}` to use, for tensors of "
                f"the kind `{base.kind}`",
                modifier.span,
                label="the modifier acts on these, too",
                notes=[Note("used here", part.span)],
                hint=f"its equations are {', '.join(sorted({UPDATE, *equations}))}; a modifier "
                f"with sections leaves the kinds as they are that it does not name",
            )


def after_step(
    builder: Builder,
    root: Value,
    leaf: Callable[[Operation], Value | None],
    copy: Callable[[Operation, Sequence[Value | None]], Value | None],
) -> Value | None:
    """A value of the parameter and of states, as it is after the step; None after a mistake.

    Args:
        builder: has the value, and receives the new one.
        root: the value.
        leaf: gives what the parameter, or a state, is after the step.
        copy: copies another operation.
    """
    operations, new = builder.operations, dict[Value, Value | None]()
    for value in upstream(operations, (root,)):
        operation = operations[value]
        arguments = [new[a] for a in operation.arguments]
        if operation.opcode in {"parameter", "state"}:
            new[value] = leaf(operation)
        elif operation.opcode == "define":
            (new[value],) = arguments
        else:
            new[value] = copy(operation, arguments)
    return new[root]
