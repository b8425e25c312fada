"""Lowering: syntax tree to program, with names, types and bounds checked."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from optdsl.diagnostics import nearest
from optdsl.ir.builder import Builder
from optdsl.ir.ops import TABLE, TOTALS
from optdsl.ir.program import Learned, Program, State, Value, upstream
from optdsl.ir.sections import AS_MATRICES, KINDS, OTHERWISE
from optdsl.ir.types import SHARED, TENSOR, Extent, Type
from optdsl.ir.verify import verify
from optdsl.lower.axes import OF_STACKS
from optdsl.lower.declarations import Declared, declared
from optdsl.lower.evaluation import EVALUATION, check_evaluation
from optdsl.lower.expressions import Lowering
from optdsl.lower.learn_request import Rules
from optdsl.lower.learning import learning
from optdsl.lower.order import order
from optdsl.lower.randoms import check_randoms
from optdsl.lower.resolve import resolve, spelled_name, walk
from optdsl.lower.rest import completed
from optdsl.lower.sampling import sampled
from optdsl.lower.scope import Scope, check_states
from optdsl.lower.sections import check_sections, joined
from optdsl.lower.shared import check_counts
from optdsl.lower.stores import stored
from optdsl.lower.types import TYPES, named_type, state_type
from optdsl.syntax import ast

__all__ = ["Rules", "lower"]


def lower(
    scope: Scope,
    rules: Rules,
    members: Mapping[str, Program] = MappingProxyType({}),
    choices: Mapping[str, float] = MappingProxyType({}),
) -> Program:
    """The program of a specification, from its definitions.

    Args:
        scope: the file; its report has the mistakes that parsing found, and receives others.
        rules: the rules for ``learn ... by RULE``.
        members: the rules that stand after ``otherwise``, by name.
        choices: values of hyperparameters that decide what the operations are, where they are
            not the defaults.

    Raises:
        SpecError: with every mistake in the report.
    """
    _blend_only(scope)
    statements = scope.declaration.statements
    if not scope.sections:
        program = stored(_lowered(scope, rules, choices), statements, scope.report)
        scope.report.check()
        return verify(program)
    check_sections(scope)
    hypers = declared(scope)
    parts: list[Program | None] = []
    for view in scope.sections:
        if view.section is None or view.section.rule is None:
            lowered = _lowered(view, rules, choices, scope.equations)
            parts.append(_read_as_needed(lowered))
        else:
            parts.append(completed(view, view.section, hypers, members))
    scope.report.check()
    kinds = [part.kind for part in parts if part is not None]
    nodes = [view.section for view in scope.sections if view.section is not None]
    labels = [node.kind if node.rule is None else node.name.text for node in nodes]
    whole = joined(kinds, labels, [verify(p) for p in parts if p is not None])
    program = stored(whole, statements, scope.report)
    scope.report.check()
    return verify(program)


def _read_as_needed(program: Program) -> Program:
    """A section of a kind of one's own: its tensors are matrices where its equations need that."""
    if program.kind in {*KINDS, OTHERWISE}:
        return program
    rows = any(
        TABLE[o.opcode].stage.of_matrices and o.opcode not in OF_STACKS for o in program.operations
    ) or any(s.type.axes for s in program.states)
    return replace(program, kind=program.kind + AS_MATRICES) if rows else program


def _lowered(
    scope: Scope,
    rules: Rules,
    choices: Mapping[str, float],
    common: Container[str] = frozenset(),
) -> Program:
    """The program of a file without sections, or of one section.

    `common` has the names of the equations that sections have in common.
    """
    check_states(scope)
    check_randoms(scope)
    resolve(scope)
    hypers = declared(scope)
    named = learning(scope, hypers.learnable, hypers.hypers, rules)
    learned = sampled(named, scope.declaration.statements, 1, scope.report)
    check_types(scope)
    decided = {n: choices.get(n, h.default) for n, h in hypers.hypers.items() if h.domain.discrete}
    lowering = Lowering(scope, Builder(), decided)
    environment: dict[str, Value | None] = {}
    for equation in order(scope):
        own = scope.kind and equation.spelled not in common
        owner = f"{scope.kind}.{equation.spelled}" if own else equation.spelled
        value = lowering.expression(equation.value, environment, owner)
        if value is not None:
            value = _named(lowering, equation, value, scope)
        environment[equation.spelled] = value
    point = environment.get(EVALUATION)
    if point is not None:
        span = scope.equations[EVALUATION].value.span
        check_evaluation(lowering.builder, point, span, scope.report)
    # Where nothing uses them, too, so that mistakes in them are reported.
    lengths = {n: lowering.length(n) for n in scope.axes} if scope.matrices else {}
    states = [_state(lowering, state, environment, scope) for state in scope.states.values()]
    scope.report.check()
    updated = [state for state in states if state is not None]
    for name, given in scope.inputs.items():
        kind = named_type(given.type) or TENSOR
        kept = lowering.builder.emit("state", attribute=name, type=kind, hint=name)
        start = lowering.builder.constant(0.0)
        updated.append(State(name, kind, start, kept, input=True))
    parameter = environment["theta'"]
    points = [v for v in (parameter, point) if v is not None]
    check_counts(scope, lowering.builder, updated, points)
    scope.report.check()
    found = assembled(scope, hypers, learned, lowering, updated, parameter, point)
    return replace(found, axes=tuple((n, v) for n, v in lengths.items() if v is not None))


def assembled(
    scope: Scope,
    hypers: Declared,
    learned: tuple[Learned, ...],
    lowering: Lowering,
    states: Iterable[State],
    parameter: Value | None,
    evaluation: Value | None = None,
) -> Program:
    """The program of a file without mistakes, from its parts."""
    assert parameter is not None
    return Program(
        scope.declaration.name.text,
        scope.declaration.documentation,
        tuple(hypers.hypers.values()),
        learned,
        lowering.builder.operations,
        tuple(states),
        parameter,
        simplexes=hypers.simplexes,
        kind=scope.kind,
        structure=tuple(lowering.structure.items()),
        evaluation=evaluation,
    )


_ELSEWHERE = {ast.Use: "use", ast.Share: "share", ast.Binding: "bind"}


def _blend_only(scope: Scope) -> None:
    """Report statements that are allowed in blends only."""
    for statement in scope.declaration.statements:
        word = _ELSEWHERE.get(type(statement))
        if word:
            scope.report.error(
                "statement",
                f"an optimizer has no members to {word}",
                statement.span,
                label="this belongs to a blend",
                hint=f"begin the file with `blend {scope.declaration.name.text}`",
            )


def check_types(scope: Scope) -> None:
    """Report unknown types, and states that are declared uniform."""
    for function in scope.functions.values():
        for parameter in function.parameters:
            _type(parameter.type, scope)
    for given in scope.inputs.values():
        kind = _type(given.type, scope)
        if given.type is not None and kind not in {TENSOR, SHARED, None}:
            scope.report.error(
                "type",
                "an input is a tensor like the parameter, or one number for all of them",
                given.type.span,
                label="no other inputs are there yet",
                hint=f"write `input {given.name.text}`, or `input {given.name.text} : shared`",
            )
    for state in scope.states.values():
        kind = _type(state.type, scope)
        if kind is not None and kind.axes and not scope.matrices and state.type is not None:
            scope.report.error(
                "type",
                "a tensor need not be a matrix here",
                state.type.span,
                label="only matrices have such axes",
                hint="declare it in a section, after `for matrices`",
            )
        if kind is not None and kind.extent is Extent.UNIFORM and state.type is not None:
            scope.report.error(
                "type",
                "a state is a tensor, a scalar or shared",
                state.type.span,
                label="a uniform value is the same for all tensors, and is not stored",
                hint=f"`state {state.name.text} : scalar = ...` is one number per tensor; a value "
                f"that is the same for all of them is an equation of `t` and hyperparameters",
            )


def _type(name: ast.Identifier | None, scope: Scope) -> Type | None:
    found = named_type(name, scope.axes)
    if name is not None and found is None:
        own = scope.axes
        listed = "products of the last two"
        if own:
            listed = f"{', '.join(own)}, and products of two axes"
        # One side of a product is an axis, and the other one is not declared.
        sides = name.text.split(" * ")
        new = [side for side in sides if side not in {*TYPES, *own}]
        hint = nearest(name.text, (*TYPES, *own))
        if len(sides) == 2 and len(new) == 1:
            hint = nearest(new[0], ("rows", "cols", *own))
            hint = hint or f"`{new[0]}` is no axis; declare one, as in `axis k = min(8, rows)`"
        scope.report.error(
            "unknown-type",
            f"unknown type `{name.text}`",
            name.span,
            hint=hint or f"the types are uniform, scalar, tensor, rows, cols, and {listed}",
        )
    return found


def _named(lowering: Lowering, equation: ast.Equation, value: Value, scope: Scope) -> Value | None:
    """The value of an equation under its name; None, and a diagnostic, if its type is wrong."""
    kind, node = lowering.builder[value].type, equation.value
    if equation.primed:
        state = scope.states.get(equation.name.text)
        if state is not None and not _assignable(state, kind, node, scope):
            return None
        if state is None and kind.condition:
            scope.report.error("type", "the parameter is a number", node.span, label=kind.noun)
            return None
    name = equation.spelled
    return lowering.builder.emit("define", value, attribute=name, hint=name, span=equation.span)


def _assignable(state: ast.State, kind: Type, node: ast.Expression, scope: Scope) -> bool:
    declared = state_type(state, scope.axes)
    if kind.condition:
        message, hint = "a state is a number", "write `where(condition, 1, 0)`"
    elif not kind.fits(declared):
        message = f"`{state.name.text}` is {declared.noun}"
        hint = "reduce the tensor with `sum`, `mean`, `norm`, `rms` or `dot`"
    else:
        return True
    label = f"{kind.noun}, where {declared.noun} is needed"
    scope.report.error("type", message, node.span, label=label, hint=hint)
    return False


def _state(
    lowering: Lowering, node: ast.State, environment: Mapping[str, Value | None], scope: Scope
) -> State | None:
    name, builder = node.name.text, lowering.builder
    initial = lowering.expression(node.initial, {})
    if initial is None or not _assignable(node, builder[initial].type, node.initial, scope):
        return None
    written = any(spelled_name(part) == "t" for part in walk(node.initial))
    behind = upstream(builder.operations, [initial])
    if any(builder[v].opcode in TOTALS for v in behind):
        scope.report.error(
            "initial-value",
            f"the initial value of `{name}` is taken over all tensors",
            node.initial.span,
            label="tensors get their states one by one, at their first gradients",
            hint="start from a number, and write this in the equation",
        )
        return None
    if not written and any(builder[v].opcode == "step" for v in behind):
        scope.report.error(
            "initial-value",
            f"the initial value of `{name}` depends on `t`",
            node.initial.span,
            label="a function that is called here uses `t`, which has no value yet",
            hint="write the value before the first step without that function",
        )
        return None
    after = environment.get(f"{name}'")
    return None if after is None else State(name, state_type(node, scope.axes), initial, after)
