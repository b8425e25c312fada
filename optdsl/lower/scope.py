"""The names that a specification defines, and mistakes in defining them."""

from __future__ import annotations

import functools
import keyword
import math
from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass, replace
from typing import TypeVar

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.ops import FUNCTIONS
from optdsl.ir.sections import KINDS, OTHERWISE, of_matrices
from optdsl.ir.types import BY_NAME as TYPES, LENGTHS
from optdsl.lower import axes
from optdsl.lower.evaluation import EVALUATION
from optdsl.syntax import ast

BUILTINS = {"g": "gradient", "theta": "parameter", "t": "step"}
# Asks whether an input is given to the step.
GIVEN = "given"
# The numbers that have names.
NUMBERS = {"inf": math.inf, "pi": math.pi}
# What each reserved name is; `params` is the first argument of every torch optimizer.
RESERVED = {
    **dict.fromkeys((*BUILTINS, *LENGTHS), "built in"),
    "inf": "infinity",
    "pi": "the number pi",
}
_RESERVED_HYPERS = {
    **dict.fromkeys(
        ("params", "param_names", "initial_lr"), "torch uses this name in parameter groups"
    ),
    **dict.fromkeys(
        ("capturable", "differentiable", "foreach", "fused"),
        "torch's optimizers choose among implementations by this name",
    ),
    "betas": "optimizers take beta1, beta2 and so on under this name",
    "seed": "rules that draw random numbers have an argument of this name",
    **dict.fromkeys(("maximize", "process_group"), "every optimizer has an argument of this name"),
}
_RESERVED_STATES = {"step": "checkpoints keep the step `t` under this name"}

Definition = (
    ast.Hyper
    | ast.Weights
    | ast.State
    | ast.Function
    | ast.Equation
    | ast.Input
    | ast.Random
    | ast.Axis
)
D = TypeVar("D", bound=Definition)


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
    """A file with its definitions by name, and where mistakes in it are reported.

    Attributes:
        declaration: the syntax tree of the file.
        report: collects the mistakes.
        broken: names that are not reported as unknown: the words of statements with syntax errors,
            and names whose own definitions have mistakes.
        hypers: the hyperparameters, without components of weight vectors.
        weights: the weight vectors.
        states: the states.
        functions: the functions of the prelude and of the file.
        equations: the equations; the names have the prime, if there is one. Of a file with
            sections, these and the states are those before the first one.
        inputs: the inputs.
        randoms: what is drawn at random; of a file with sections, as the states.
        axes: the axes that the file declares, in its order.
        sections: the sections, each as a scope with what holds in it.
        section: of a section, the statement that begins it.
    """

    declaration: ast.Declaration
    report: Report
    broken: AbstractSet[str]
    hypers: Mapping[str, ast.Hyper]
    weights: Mapping[str, ast.Weights]
    states: dict[str, ast.State]
    functions: Mapping[str, ast.Function]
    equations: dict[str, ast.Equation]
    inputs: Mapping[str, ast.Input]
    randoms: Mapping[str, ast.Random]
    axes: Mapping[str, ast.Axis]
    sections: tuple[Scope, ...] = ()
    section: ast.Section | None = None

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
        own = {*self.hypers, *self.components, *self.states, *self.equations, *self.inputs}
        own |= self.axes.keys()
        return {*BUILTINS, *LENGTHS, *own, *self.randoms, *after}

    @property
    def kind(self) -> str:
        """Of a section, the kind of its tensors; empty for a file."""
        return "" if self.section is None else self.section.kind

    @property
    def matrices(self) -> bool:
        """Whether this is a section whose tensors have rows and columns."""
        own = self.section is not None and self.kind not in {*KINDS, OTHERWISE}
        # A group may send what it likes to a kind of one's own; those of modifiers follow the rule.
        return of_matrices(self.kind) or (own and not self.declaration.slots)

    def callables(self) -> set[str]:
        """Every name that can be called."""
        return {*self.functions, *FUNCTIONS, *axes.FUNCTIONS, GIVEN}


def collect(
    declaration: ast.Declaration,
    prelude: Mapping[str, ast.Function],
    report: Report,
    broken: AbstractSet[str],
    redefined: AbstractSet[str] = frozenset(),
) -> Scope:
    """Collect the definitions of a file; duplicate and reserved names are reported.

    A definition under a reserved name is left out, and the name becomes one of `Scope.broken`.
    The names in `redefined`, the slots of a modifier, are not the file's own.
    """
    # By names, what is defined before the first section, and in each section.
    parts: list[dict[str, Definition]] = [{}]
    kinds: list[ast.Section] = []
    unknown = set(broken)
    for statement in declaration.statements:
        if isinstance(statement, ast.Section):
            kinds.append(statement)
            parts.append({})
        if not isinstance(statement, Definition):
            continue
        name = statement.name.text
        spelled = statement.spelled if isinstance(statement, ast.Equation) else name
        if spelled == name and spelled not in redefined and _reserved(statement, report):
            unknown.add(name)
            continue
        # A hyperparameter, an axis or a function is the file's, wherever it stands.
        sectional = isinstance(statement, ast.State | ast.Equation | ast.Random)
        known = [parts[0], parts[-1]] if sectional else parts
        first = next((p[spelled] for p in known if spelled in p), None)
        if first is None:
            parts[-1 if sectional else 0][spelled] = statement
            continue
        hint = "each name is defined once; rename one of the two"
        if isinstance(statement, ast.Equation) and isinstance(parts[-1].get(name), ast.State):
            hint = f"write `{name}' = ...` for the value of the state after the step"
        report.error(
            "duplicate",
            f"`{spelled}` is defined twice",
            statement.name.span,
            label="defined again here",
            notes=[Note("first defined here", first.name.span)],
            hint=hint,
        )

    def all_of(kind: type[D], defined: Mapping[str, Definition]) -> dict[str, D]:
        return {name: node for name, node in defined.items() if isinstance(node, kind)}

    scope = Scope(
        declaration,
        report,
        unknown,
        hypers=all_of(ast.Hyper, parts[0]),
        weights=all_of(ast.Weights, parts[0]),
        states=all_of(ast.State, parts[0]),
        functions={**prelude, **all_of(ast.Function, parts[0])},
        equations=all_of(ast.Equation, parts[0]),
        inputs=all_of(ast.Input, parts[0]),
        randoms=all_of(ast.Random, parts[0]),
        axes=all_of(ast.Axis, parts[0]),
    )
    _check_components(scope, {n: node.name.span for part in parts for n, node in part.items()})
    views = (
        replace(
            scope,
            states=scope.states | all_of(ast.State, part),
            equations=scope.equations | all_of(ast.Equation, part),
            randoms={**scope.randoms, **all_of(ast.Random, part)},
            section=node,
        )
        for node, part in zip(kinds, parts[1:], strict=True)
    )
    return replace(scope, sections=tuple(views))


def _check_components(scope: Scope, taken: dict[str, Span]) -> None:
    """Report labels that are reserved, and components with a name that is `taken` already."""
    for name, node in scope.weights.items():
        for label in node.labels:
            flat = component(name, label.text)
            reason = reserved_hyper(flat)
            if label.text in {*NUMBERS, "uniform"}:
                reason = "it means something else where a weight is named"
            if reason is not None:
                scope.report.error(
                    "reserved",
                    f"`{label.text}` cannot be a label of `{name}`",
                    label.span,
                    label=reason,
                    hint="rename it",
                )
            if flat in taken:
                scope.report.error(
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
    reason = RESERVED.get(name)
    if name == EVALUATION and not isinstance(statement, ast.Equation):
        reason = "the equation of this name is the point at which the model is evaluated"
    hint = ""
    if isinstance(statement, ast.Function) and name in {*FUNCTIONS, *axes.FUNCTIONS, GIVEN}:
        reason = "a built-in function"
    if isinstance(statement, ast.Hyper | ast.Weights):
        reason = reserved_hyper(name) or reason
    if isinstance(statement, ast.Axis) and name in {*TYPES, *axes.OVER, "condition"}:
        reason = "types and reductions use this name"
    if isinstance(statement, ast.State | ast.Input):
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


def check_states(scope: Scope) -> None:
    """Report primes that belong to no state, states that never change, and a missing update."""
    for spelled, equation in scope.equations.items():
        name = equation.name.text
        if equation.primed and name not in {"theta", *scope.states, *scope.broken}:
            scope.report.error(
                "prime",
                f"`{spelled}` is primed, but `{name}` is not a state",
                equation.name.span,
                label="only states and theta have a value after the step",
                hint=nearest(name, scope.states)
                or f"declare `state {name} = 0`, or leave out the prime",
            )
    for name, state in scope.states.items():
        if f"{name}'" not in scope.equations and name not in scope.broken:
            constant = isinstance(state.initial, ast.Number)
            scope.report.error(
                "state-not-updated",
                f"the state `{name}` is never updated",
                state.name.span,
                label=f"there is no equation for `{name}'`",
                hint=f"write `{name}' = ...`, or make it a `hyper` if it never changes"
                if constant
                else f"write `{name}' = {name}` if it keeps its first value",
            )
    if "theta'" not in scope.equations and "theta" not in scope.broken:
        node = scope.section
        scope.report.error(
            "no-update",
            "there is no equation for `theta'`" + ("" if node is None else " in this section"),
            scope.declaration.name.span if node is None else node.span,
            label="this rule never changes the parameter"
            if node is None
            else "this section never changes its tensors",
            hint="write `theta' = theta - lr * ...`",
        )
