"""Lowering: syntax tree to program, with names, types and bounds checked."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet

from optdsl.diagnostics import Report, nearest
from optdsl.ir.builder import Builder
from optdsl.ir.program import Program, State, Value, upstream
from optdsl.ir.types import BY_NAME, Extent, Type
from optdsl.ir.verify import verify
from optdsl.lower.declarations import declared
from optdsl.lower.expressions import Lowering, named_type, state_type
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.order import order
from optdsl.lower.resolve import resolve, spelled_name, walk
from optdsl.lower.scope import Scope, check_states, collect
from optdsl.syntax import ast

__all__ = ["Rules", "lower"]


def lower(
    declaration: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    rules: Rules,
    report: Report,
    broken: AbstractSet[str] = frozenset(),
) -> Program:
    """The program of a specification.

    Args:
        declaration: the syntax tree.
        prelude: the functions that every specification may use, by name.
        rules: the rules for ``learn ... by RULE``.
        report: has the mistakes that parsing found; those of lowering are added.
        broken: the words of statements with syntax errors, which are not reported as unknown names.

    Raises:
        SpecError: with every mistake in `report`.
    """
    scope, undefined = collect(declaration, prelude, report, broken)
    broken = broken | undefined
    _blend_only(declaration, report)
    check_states(declaration, scope, report, broken)
    resolve(scope, broken, report)
    hypers = declared(scope, report)
    learned = learning(declaration, hypers.learnable, hypers.hypers, scope, rules, report)
    check_types(scope, report)
    lowering = Lowering(scope, Builder(), report)
    environment: dict[str, Value | None] = {}
    for name, primed in order(scope, report):
        equation = scope.equations[name, primed]
        spelled = name + ("'" if primed else "")
        value = lowering.expression(equation.value, environment)
        if value is not None:
            value = _fit(lowering, equation, value, scope, report)
        environment[spelled] = value
    states = [_state(lowering, state, environment, report) for state in scope.states.values()]
    report.check()
    parameter = environment["theta'"]
    assert parameter is not None
    program = Program(
        declaration.name.text,
        declaration.documentation,
        tuple(hypers.hypers.values()),
        learned,
        lowering.builder.operations,
        tuple(s for s in states if s is not None),
        parameter,
        simplexes=hypers.simplexes,
    )
    return verify(program)


_ELSEWHERE = {
    ast.Use: "use",
    ast.Share: "share",
    ast.Binding: "bind",
}


def _blend_only(declaration: ast.Declaration, report: Report) -> None:
    """Report statements that are allowed in blends only."""
    for statement in declaration.statements:
        word = _ELSEWHERE.get(type(statement))
        if word:
            report.error(
                "statement",
                f"an optimizer has no members to {word}",
                statement.span,
                label="this belongs to a blend",
                hint=f"begin the file with `blend {declaration.name.text}`",
            )


def check_types(scope: Scope, report: Report) -> None:
    """Report unknown types, and states that are declared uniform."""
    for function in scope.functions.values():
        for parameter in function.parameters:
            _type(parameter.type, report)
    for state in scope.states.values():
        kind = _type(state.type, report)
        if kind is not None and kind.extent is Extent.UNIFORM and state.type is not None:
            report.error(
                "type",
                "a state is a tensor or a scalar",
                state.type.span,
                label="a uniform value is the same for all tensors, and is not stored",
                hint=f"`state {state.name.text} : scalar = ...` is one number per tensor; a value "
                f"that is the same for all of them is an equation of `t` and hyperparameters",
            )


def _type(name: ast.Identifier | None, report: Report) -> Type | None:
    if name is not None and name.text not in BY_NAME:
        report.error(
            "unknown-type",
            f"unknown type `{name.text}`",
            name.span,
            hint=nearest(name.text, BY_NAME) or f"the types are {', '.join(BY_NAME)}",
        )
    return named_type(name)


def _fit(
    lowering: Lowering, equation: ast.Equation, value: Value, scope: Scope, report: Report
) -> Value | None:
    """The value of an equation under its name; None, and a diagnostic, if its type is wrong."""
    name, kind = equation.name.text, lowering.builder[value].type
    if equation.primed:
        state = scope.states.get(name)
        if state is not None and not _assignable(state, kind, equation.value, report):
            return None
        if state is None and kind.condition:
            report.error("type", "the parameter is a number", equation.value.span, label=kind.noun)
            return None
    spelled = name + ("'" if equation.primed else "")
    return lowering.builder.emit(
        "define", value, attribute=spelled, hint=spelled, span=equation.span
    )


def _assignable(state: ast.State, kind: Type, node: ast.Expression, report: Report) -> bool:
    declared = state_type(state)
    if kind.condition:
        message, hint = "a state is a number", "write `where(condition, 1, 0)`"
    elif kind.extent > declared.extent:
        message = f"`{state.name.text}` is {declared.noun}"
        hint = "reduce the tensor with `sum`, `mean`, `norm`, `rms` or `dot`"
    else:
        return True
    report.error(
        "type", message, node.span, label=f"{kind.noun}, where {declared.noun} is needed", hint=hint
    )
    return False


def _state(
    lowering: Lowering,
    node: ast.State,
    environment: Mapping[str, Value | None],
    report: Report,
) -> State | None:
    name = node.name.text
    initial = lowering.expression(node.initial, {})
    if initial is None or not _assignable(
        node, lowering.builder[initial].type, node.initial, report
    ):
        return None
    operations = lowering.builder.operations
    written = any(spelled_name(part) == "t" for part in walk(node.initial))
    if not written and any(operations[v].opcode == "step" for v in upstream(operations, [initial])):
        report.error(
            "initial-value",
            f"the initial value of `{name}` depends on `t`",
            node.initial.span,
            label="a function that is called here uses `t`, which has no value yet",
            hint="write the value before the first step without that function",
        )
        return None
    after = environment.get(f"{name}'")
    return None if after is None else State(name, state_type(node), initial, after)
