"""Checks that every name in an expression is known, before anything is lowered."""

from __future__ import annotations

from collections.abc import Iterator, Set as AbstractSet

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.ops import FUNCTIONS
from optdsl.ir.types import LENGTHS
from optdsl.lower import axes
from optdsl.lower.evaluation import EVALUATION
from optdsl.lower.foreign import function_hint, name_hint
from optdsl.lower.numbers import labels_of
from optdsl.lower.scope import BUILTINS, GIVEN, NUMBERS, RESERVED, Scope
from optdsl.syntax import ast


def walk(node: ast.Expression) -> Iterator[ast.Expression]:
    """The expression and every part of it."""
    yield node
    match node:
        case ast.Negate():
            yield from walk(node.operand)
        case ast.Binary():
            yield from walk(node.left)
            yield from walk(node.right)
        case ast.Chain():
            for operand in (node.left, node.middle, node.right):
                yield from walk(operand)
        case ast.Call():
            for argument in node.arguments:
                yield from walk(argument)
        case _:
            pass


def resolve(scope: Scope) -> None:
    """Report unknown names and functions, and wrong numbers of arguments."""
    names = scope.values() | {f"{name}'" for name in scope.broken}
    for own, equation in scope.equations.items():
        resolve_expression(equation.value, scope, names, own=own)
    if not scope.kind or scope.matrices:
        known = {*LENGTHS, *BUILTINS, *scope.hypers, *scope.states}
        for name, axis in scope.axes.items():
            resolve_expression(axis.length, scope, known, own=name)
            known.add(name)
    for state in scope.states.values():
        allowed = {"g", "theta", *LENGTHS, *scope.axes, *scope.hypers, *scope.components}
        resolve_initial(state, scope, allowed)
    for random in scope.randoms.values():
        if random.counter is not None:
            resolve_counter(random.counter, scope, {"t", *scope.hypers, *scope.components})
    resolve_functions(scope)


def resolve_functions(scope: Scope) -> None:
    """Report names in the bodies of functions that are not parameters."""
    for function in scope.functions.values():
        parameters = _parameters(function, scope.report)
        known = {*parameters, "t", *LENGTHS, *scope.axes}
        resolve_expression(function.body, scope, known, inside=function)


def _parameters(function: ast.Function, report: Report) -> set[str]:
    seen: dict[str, Span] = {}
    for parameter in function.parameters:
        name = parameter.name
        if name.text in NUMBERS:
            message, label = f"`{name.text}` cannot be defined", RESERVED[name.text]
            report.error("reserved", message, name.span, label=label)
        if name.text in seen:
            report.error(
                "duplicate",
                f"`{name.text}` is defined twice",
                name.span,
                label="two parameters of one name",
                notes=[Note("first defined here", seen[name.text])],
            )
        seen[name.text] = name.span
    return set(seen)


def resolve_initial(state: ast.State, scope: Scope, allowed: AbstractSet[str]) -> None:
    """Report names in an initial value that are not `allowed`, being known only later."""
    known = scope.values()
    for node in walk(state.initial):
        spelled = spelled_name(node)
        if spelled in known - allowed - scope.broken:
            scope.report.error(
                "initial-value",
                f"`{spelled}` has no value before the first step",
                node.span,
                label="not available to an initial value",
                hint="an initial value may use hyperparameters, `theta` and the first gradient `g`",
            )
            return
    resolve_expression(state.initial, scope, allowed)


def resolve_counter(root: ast.Expression, scope: Scope, allowed: AbstractSet[str]) -> None:
    """Report names in the counter of a draw that are not `allowed`, being no uniform numbers."""
    for node in walk(root):
        spelled = spelled_name(node)
        if spelled in scope.values() - allowed - scope.broken:
            scope.report.error(
                "random",
                f"a counter does not depend on `{spelled}`",
                node.span,
                label="the same for all elements: `t`, hyperparameters, and functions of them",
                hint="write the expression out, as in `at floor((t - 1) / gap)`",
            )
            return
    resolve_expression(root, scope, allowed)


def spelled_name(node: ast.Expression) -> str | None:
    """A name as it is written; None for other expressions."""
    return node.spelled if isinstance(node, ast.Name) else None


def resolve_expression(
    root: ast.Expression,
    scope: Scope,
    names: AbstractSet[str],
    inside: ast.Function | None = None,
    own: str = "",
) -> None:
    """Report names in an expression that are neither in `names` nor broken, and invalid calls.

    Args:
        root: the expression.
        scope: the file that it stands in.
        names: the names that it may use.
        inside: the function whose body it is, if it is one.
        own: the name that it defines, which hints do not propose.
    """
    names = names | scope.broken
    labels = compared_labels(root, scope)
    known = names | NUMBERS.keys()
    for node in walk(root):
        if scope.report.full:
            return
        if id(node) in labels:
            continue
        if isinstance(node, ast.Call):
            _call(node, scope, inside)
        elif isinstance(node, ast.Name) and node.spelled not in known:
            if node.primed and not node.owner and node.name in names:
                instead = f"write `{node.name}`"
                if node.name == EVALUATION:
                    instead = (
                        "write it out with `theta'` and primed states; in a modifier, `base.eval'`"
                    )
                scope.report.error(
                    "prime",
                    f"`{node.spelled}` is primed, but `{node.name}` is not a state",
                    node.span,
                    label="only states and theta have a value after the step",
                    hint=instead,
                )
            elif node.owner not in scope.broken:
                if node.owner:
                    label, hint = _unknown_member(node, scope, names)
                else:
                    label, hint = _unknown(node, scope, names - {own}, inside)
                message = f"unknown name `{node.spelled}`"
                scope.report.error("unknown-name", message, node.span, label=label, hint=hint)


def compared_labels(root: ast.Expression, scope: Scope) -> set[int]:
    """The names in an expression that are labels: those that are compared with a choice of them."""
    found = set()
    for node in walk(root):
        if isinstance(node, ast.Binary) and node.operator in {"==", "!="}:
            for one, other in ((node.left, node.right), (node.right, node.left)):
                if spelled_name(other) in labels_of(scope.hypers.get(spelled_name(one) or "")):
                    found.add(id(other))
    return found


def _unknown(
    node: ast.Name, scope: Scope, names: AbstractSet[str], inside: ast.Function | None
) -> tuple[str, str]:
    """A label and a hint for a name that is not defined."""
    spelled = node.spelled
    where = f"not a parameter of `{inside.name.text}`" if inside else "not defined in this file"
    if node.name in scope.callables():
        return where, f"`{node.name}` is a function: call it, as in `{node.name}(...)`"
    if inside is not None and node.name in scope.values():
        return where, f"a function sees its own parameters only: pass `{node.name}` to it"
    if node.name in BUILTINS and inside is None:
        hint = "an option is made of numbers and of hyperparameters"
        if scope.declaration.blend:
            hint = "a blend is made of its members' values and of hyperparameters"
        elif node.name == "t":
            hint += "; a modifier changes one from step to step, as in `lr = base.lr / t`"
        return "built in, and not to be used here", hint
    # In a blend, the name may be that of some member's equation.
    owned = sorted(n for n in names if n.partition(".")[2] == spelled)
    hint = f"did you mean `{owned[0]}`?" if owned else name_hint(spelled, names)
    return where, hint or f"define `{node.name} = ...`, or declare it as a `hyper`"


def _unknown_member(node: ast.Name, scope: Scope, names: AbstractSet[str]) -> tuple[str, str]:
    """A label and a hint for ``owner.name``, which is not defined."""
    prefix, dotted = f"{node.owner}.", {n for n in names if "." in n}
    weights = scope.weights.get(node.owner)
    if weights is not None:
        label = f"`{node.owner}` has no weight of this name"
        dotted = {n for n in dotted if n.startswith(prefix)}
        listed = ", ".join(x.text for x in weights.labels)
        hint = f"its weights are {listed}; add `{node.name}` to its simplex"
    elif any(name.startswith(prefix) for name in dotted):
        label = f"the member `{node.owner}` has no value of this name"
        hint = "`optdsl show` lists the equations of a rule"
    elif node.name.rstrip("'") in {"T", "mT"}:
        label = "a name has no dots; only a blend's members do"
        hint = f"write `transpose({node.owner})`"
    else:
        label = f"`{node.owner}` is neither a member nor a weight vector"
        hint = "list members in `use`, as in `use Adam, Lion`"
    return label, nearest(node.spelled, dotted) or hint


def _call(node: ast.Call, scope: Scope, inside: ast.Function | None) -> None:
    name = node.function.text
    function = scope.functions.get(name)
    row = FUNCTIONS.get(name)
    if name == GIVEN and function is None:
        _given(node, scope)
        return
    if function is None and row is None and name not in axes.FUNCTIONS:
        if name not in scope.broken:
            scope.report.error(
                "unknown-function",
                f"unknown function `{name}`",
                node.function.span,
                label="neither built in nor defined in this file",
                hint=function_hint(name, scope.callables(), scope.values()),
            )
        return
    if function is not None:
        arity = len(function.parameters)
        usage = ", ".join(p.name.text for p in function.parameters)
    elif row is None:
        arity, usage = 1, "axis" if name == axes.IDENTITY else "x"
    else:
        arity, usage = row.arity, ", ".join("xyz"[: row.arity])
        usage = {"where": "condition, x, y", axes.VECTORS: "x, axis"}.get(name, usage)
    extremum = function is None and name in axes.EXTREMA and len(node.arguments) == 1
    if len(node.arguments) != arity and not extremum:
        plural = "argument" if arity == 1 else "arguments"
        scope.report.error(
            "arity",
            f"`{name}` takes {arity} {plural}, not {len(node.arguments)}",
            node.span,
            hint=f"write `{name}({usage})`",
        )
    if node.over is not None:
        _over(node, node.over, function, inside, scope)


def _given(node: ast.Call, scope: Scope) -> None:
    """Report ``given(x)`` for what is no input."""
    asked = spelled_name(node.arguments[0]) if len(node.arguments) == 1 else None
    if asked not in scope.inputs and asked not in scope.broken:
        scope.report.error(
            "input",
            "`given` asks for an input by its name",
            node.span,
            hint=f"write `given({next(iter(scope.inputs))})`"
            if scope.inputs
            else "declare `input hessian`, for instance",
        )


def _over(
    node: ast.Call,
    axis: ast.Identifier,
    function: ast.Function | None,
    inside: ast.Function | None,
    scope: Scope,
) -> None:
    """Report an `over` that its function does not take, or after which no axis stands."""
    name = node.function.text
    takes = name in axes.REDUCTIONS if function is None else function.over is not None
    takes = takes or (function is None and name in axes.EXTREMA and len(node.arguments) == 1)
    if not takes:
        scope.report.error(
            "over",
            f"`{name}` takes no `over`",
            axis.span,
            label="only reductions do, and functions that are declared with it",
            hint=f"write `{name}(...)`, or declare `def {name}(... over a) = ...`",
        )
    own = {inside.over.text} if inside is not None and inside.over is not None else set()
    known = (*axes.OVER, *scope.axes)
    if axis.text not in {*known, *own}:
        scope.report.error(
            "over",
            f"`{axis.text}` is no axis",
            axis.span,
            label=f"after `over` stands one of {', '.join(known)}",
            hint=nearest(axis.text, known) or "",
        )
