"""Slots that every rule has, and slots that a rule lacks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from optdsl.diagnostics import Report
from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value, upstream
from optdsl.lower.evaluation import EVALUATION
from optdsl.modifying.modifier import Modifier
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
    """Report what modifiers redefine and the rule does not have.

    Args:
        node: the rule with its modifiers.
        base: the rule.
        equations: the names of its equations.
        applied: the modifiers.
        report: receives the mistakes.
    """
    parts = {h for s in base.simplexes for h in s.hypers}
    known = {*EVERYWHERE, *equations, *({h.name for h in base.hypers} - parts)}
    for one in applied:
        for slot in one.slots:
            if slot not in known:
                modifier = one.application.modifier
                hint = f"its equations are {', '.join(sorted({UPDATE, *equations}))}"
                if slot in {o.name.text for o in node.options}:
                    hint = f"it is a number here; leave out `{slot} = ...`"
                report.error(
                    "unknown-slot",
                    f"`{node.base.text}` has no `{slot}` for `{modifier.text}` to redefine",
                    modifier.span,
                    label="a modifier redefines equations and hyperparameters of the rule",
                    hint=hint,
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
