"""The axes that a rule declares, in the rule with its modifiers."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.diagnostics import Report
from optdsl.ir.builder import Builder
from optdsl.ir.program import Program, Value
from optdsl.modifying.modifier import Modifier


def copied_axes(base: Program, builder: Builder) -> tuple[tuple[str, Value], ...]:
    """The axes of a rule; what their lengths are made of is copied."""
    copied = builder.copied(base, [length for _, length in base.axes], {})
    return tuple((name, copied[length]) for name, length in base.axes)


def check_axes(base: Program, applied: Sequence[Modifier], report: Report) -> None:
    """Report modifiers of a hyperparameter that decides how long an axis of the rule is."""
    for name, length in base.axes:
        made_of = (base.operations[v] for v in base.needed((length,)))
        hypers = {str(o.attribute) for o in made_of if o.opcode == "hyper"}
        for one in applied:
            for slot in one.slots:
                if slot in hypers:
                    report.error(
                        "axis",
                        f"`{slot}` decides how long the axis `{name}` is",
                        one.application.modifier.span,
                        label="a modifier cannot change it",
                        hint="set the number where the optimizer is made",
                    )
