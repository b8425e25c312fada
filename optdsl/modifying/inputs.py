"""Inputs that modifiers declare: they keep their names, and those of one name are one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from optdsl.diagnostics import Note, Report
from optdsl.ir.builder import Builder
from optdsl.ir.program import Hyper, Program, State, Value
from optdsl.ir.types import TENSOR, Type
from optdsl.lower.types import named_type
from optdsl.modifying.modifier import Modifier
from optdsl.syntax import ast


def check_inputs(
    base: Program, applied: Sequence[Modifier], hypers: Mapping[str, Hyper], report: Report
) -> None:
    """Report inputs that are called as something else is, or as an input of another type.

    Args:
        base: the rule that is modified.
        applied: the modifiers.
        hypers: the hyperparameters of the combination, by their names.
        report: receives the mistakes.
    """
    inputs = {s.name: s.type for s in base.states if s.input}
    states = {s.name for s in base.states if not s.input}
    for one in applied:
        states |= set(one.state_names.values())
    for one in applied:
        for name, node in one.scope.inputs.items():
            kind = _type(node)
            first = inputs.setdefault(name, kind)
            other = ""
            if name in hypers:
                other = "a hyperparameter here"
            elif name in states:
                other = "a state here"
            elif first != kind:
                other = f"{first.noun} elsewhere"
            if other:
                report.error(
                    "duplicate",
                    f"`{name}` is an input of `{one.application.modifier.text}`, and {other}",
                    one.application.modifier.span,
                    label="an input keeps its name",
                    notes=[Note("the input", node.name.span)],
                    hint="rename one of the two",
                )


def leaf(node: ast.Input, builder: Builder) -> Value:
    """What is given to the step."""
    name = node.name.text
    return builder.emit("state", attribute=name, type=_type(node), hint=name)


def inputs(base: Program, applied: Sequence[Modifier], builder: Builder) -> list[State]:
    """The inputs of modifiers that the rule does not have itself."""
    known = {s.name for s in base.states}
    found: dict[str, State] = {}
    for one in applied:
        for name, node in one.scope.inputs.items():
            if name not in known:
                start = builder.constant(0.0)
                found[name] = State(name, _type(node), start, leaf(node, builder), input=True)
    return list(found.values())


def _type(node: ast.Input) -> Type:
    return named_type(node.type) or TENSOR
