"""The names that a specification defines, and mistakes in defining them."""

from __future__ import annotations

import functools
import keyword
from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.ops import FUNCTIONS
from optdsl.syntax import ast

BUILTINS = {"g": "gradient", "theta": "parameter", "t": "step"}
# `inf` is a number; `params` is the first argument of every torch optimizer.
_RESERVED = {**dict.fromkeys(BUILTINS, "built in"), "inf": "infinity"}
_RESERVED_HYPERS = {
    **dict.fromkeys(
        ("params", "param_names", "initial_lr"), "torch uses this name in parameter groups"
    ),
    **dict.fromkeys(
        ("capturable", "differentiable", "foreach", "fused"),
        "torch's optimizers choose among implementations by this name",
    ),
    "betas": "optimizers take beta1, beta2 and so on under this name",
    **dict.fromkeys(("maximize", "process_group"), "every optimizer has an argument of this name"),
}
_RESERVED_STATES = {"step": "checkpoints keep the step `t` under this name"}


Definition = ast.Hyper | ast.Weights | ast.State | ast.Function | ast.Equation


def reserved_hyper(name: str) -> str | None:
    """The reason why a name cannot be a hyperparameter's; None if it can."""
    if keyword.iskeyword(name) or name == "__debug__":
        return "a keyword of Python, where hyperparameters are arguments"
    return _RESERVED_HYPERS.get(name)


def component(weights: str, label: str) -> str:
    """The hyperparameter behind a component: ``w.Adam`` is ``w_adam``."""
    return f"{weights}_{label.lower()}"


@dataclass(frozen=True, eq=False)
class Scope:
    """The definitions of a file by name, the prelude's functions among them."""

    hypers: Mapping[str, ast.Hyper]
    weights: Mapping[str, ast.Weights]
    states: Mapping[str, ast.State]
    functions: Mapping[str, ast.Function]
    equations: Mapping[tuple[str, bool], ast.Equation]

    @functools.cached_property
    def components(self) -> dict[str, str]:
        """The hyperparameter behind each component of a weight vector, by its spelling."""
        return {
            f"{name}.{label.text}": component(name, label.text)
            for name, node in self.weights.items()
            for label in node.labels
        }

    def values(self) -> set[str]:
        """The names of all values, as written, with owners and primes."""
        after = {f"{name}'" for name in (*self.states, "theta")}
        equations = {name + ("'" if primed else "") for name, primed in self.equations}
        return {*BUILTINS, *self.hypers, *self.components, *self.states, *after, *equations}

    def callables(self) -> set[str]:
        """Every name that can be called."""
        return {*self.functions, *FUNCTIONS}


def collect(
    declaration: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    report: Report,
    broken: AbstractSet[str],
    redefined: AbstractSet[str] = frozenset(),
) -> tuple[Scope, AbstractSet[str]]:
    """Collect the definitions; duplicate and reserved names are reported.

    Args:
        declaration: the syntax tree.
        prelude: the functions that every specification may use, by name.
        report: for the mistakes.
        broken: names that stand in statements with a syntax error.
        redefined: the slots of a modifier, whose names are not its own.

    Returns:
        The scope, and the reserved names that it leaves out. Their uses need not be reported.
    """
    hypers: dict[str, ast.Hyper] = {}
    weights: dict[str, ast.Weights] = {}
    states: dict[str, ast.State] = {}
    functions: dict[str, ast.Function] = dict(prelude)
    equations: dict[tuple[str, bool], ast.Equation] = {}
    first: dict[str, Span] = {}
    undefined: set[str] = set()

    for statement in declaration.statements:
        if not isinstance(statement, Definition):
            continue
        name = statement.name.text
        primed = isinstance(statement, ast.Equation) and statement.primed
        spelled = f"{name}'" if primed else name
        if not primed and spelled not in redefined and _reserved(statement, report):
            undefined.add(name)
            continue
        if spelled in first:
            report.error(
                "duplicate",
                f"`{spelled}` is defined twice",
                statement.name.span,
                label="defined again here",
                notes=[Note("first defined here", first[spelled])],
                hint=_duplicate_hint(statement, states),
            )
            continue
        first[spelled] = statement.name.span
        match statement:
            case ast.Hyper():
                hypers[name] = statement
            case ast.Weights():
                weights[name] = statement
            case ast.State():
                states[name] = statement
            case ast.Function():
                functions[name] = statement
            case ast.Equation():
                equations[name, primed] = statement
    scope = Scope(hypers, weights, states, functions, equations)
    _check_components(scope, first, report)
    return scope, undefined


def _check_components(scope: Scope, first: Mapping[str, Span], report: Report) -> None:
    """Report labels that are reserved, and components with a name that is used already."""
    taken = dict(first)
    for name, node in scope.weights.items():
        for label in node.labels:
            flat = component(name, label.text)
            reason = reserved_hyper(flat)
            if label.text in {"inf", "uniform"}:
                reason = "it means something else where a weight is named"
            if reason is not None:
                report.error(
                    "reserved",
                    f"`{label.text}` cannot be a label of `{name}`",
                    label.span,
                    label=reason,
                    hint="rename it",
                )
            if flat in taken:
                report.error(
                    "duplicate",
                    f"`{name}.{label.text}` is defined twice",
                    label.span,
                    label=f"as a hyperparameter it is called {flat}",
                    notes=[Note("first defined here", taken[flat])],
                    hint="rename one of the two",
                )
            taken[flat] = label.span


def _reserved(statement: Definition, report: Report) -> bool:
    name = statement.name.text
    reason = _RESERVED.get(name)
    hint = ""
    if isinstance(statement, ast.Function) and name in FUNCTIONS:
        reason = "a built-in function"
    if isinstance(statement, ast.Hyper | ast.Weights):
        reason = reserved_hyper(name) or reason
    if isinstance(statement, ast.State):
        reason = reason or _RESERVED_STATES.get(name)
    if isinstance(statement, ast.Equation) and name == "theta":
        hint = "write `theta' = ...` for the parameter after the step"
    if reason is None:
        return False
    span = statement.name.span
    report.error(
        "reserved", f"`{name}` cannot be defined", span, label=reason, hint=hint or "rename it"
    )
    return True


def _duplicate_hint(statement: ast.Statement, states: Mapping[str, ast.State]) -> str:
    if isinstance(statement, ast.Equation) and statement.name.text in states:
        name = statement.name.text
        return f"write `{name}' = ...` for the value of the state after the step"
    return "each name is defined once; rename one of the two"


def _unchanged_hint(state: ast.State) -> str:
    name = state.name.text
    constant = isinstance(state.initial, ast.Number)
    if constant:
        return f"write `{name}' = ...`, or make it a `hyper` if it never changes"
    return f"write `{name}' = {name}` if it keeps its first value"


def check_states(
    declaration: ast.Declaration, scope: Scope, report: Report, broken: AbstractSet[str]
) -> None:
    """Report primes that belong to no state, states that never change, and a missing update."""
    for (name, primed), equation in scope.equations.items():
        if primed and name not in {"theta", *scope.states, *broken}:
            report.error(
                "prime",
                f"`{name}'` is primed, but `{name}` is not a state",
                equation.name.span,
                label="only states and theta have a value after the step",
                hint=nearest(name, scope.states)
                or f"declare `state {name} = 0`, or leave out the prime",
            )
    for name, state in scope.states.items():
        if (name, True) not in scope.equations and name not in broken:
            report.error(
                "state-not-updated",
                f"the state `{name}` is never updated",
                state.name.span,
                label=f"there is no equation for `{name}'`",
                hint=_unchanged_hint(state),
            )
    if ("theta", True) not in scope.equations and "theta" not in broken:
        report.error(
            "no-update",
            "there is no equation for `theta'`",
            declaration.name.span,
            label="this rule never changes the parameter",
            hint="write `theta' = theta - lr * ...`",
        )
