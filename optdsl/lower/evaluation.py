"""The equation `eval`: the point at which the model is evaluated, between two steps."""

from __future__ import annotations

from optdsl.diagnostics import Report, Span
from optdsl.ir.builder import Builder
from optdsl.ir.ops import DRAWS
from optdsl.ir.program import Operation, Value, upstream

EVALUATION = "eval"


def check_evaluation(builder: Builder, value: Value, span: Span, report: Report) -> None:
    """Report a point that is not known between two steps, or that is no number.

    Args:
        builder: has the operations of the rule.
        value: the point.
        span: where mistakes are reported.
        report: receives them.
    """
    if builder[value].type.condition:
        hint = "write `where(condition, x, y)`"
        report.error("type", "`eval` is a number", span, label="a condition", hint=hint)
    used = _used(builder, value)
    drawn = [str(o.hint) for v in upstream(builder.operations, (value,)) if _draws(o := builder[v])]
    if drawn and used is None:
        report.error(
            "evaluation",
            f"`eval` depends on `{drawn[0]}`",
            span,
            label="it is computed between two steps, where nothing is drawn",
            hint="use `theta`, states, hyperparameters and `t`, the last step",
        )
    if used is not None:
        after = f"write `{used.removesuffix(chr(39))}`, which is the value after the last step then"
        report.error(
            "evaluation",
            f"`eval` depends on `{used}`",
            span,
            label="it is computed between two steps, where there is no gradient",
            hint="use `theta`, states, hyperparameters and `t`, the last step"
            if used == "g"
            else after,
        )


def _draws(operation: Operation) -> bool:
    return operation.opcode in DRAWS


def _used(builder: Builder, value: Value) -> str | None:
    """What a point depends on that exists within a step only: a primed equation, or `g`."""
    behind = [builder[v] for v in upstream(builder.operations, (value,))]
    primed = [str(o.attribute) for o in behind if o.opcode == "define"]
    found = [name for name in primed if name.endswith("'")]
    found = found or ["g" for o in behind if o.opcode == "gradient"]
    return found[-1] if found else None
