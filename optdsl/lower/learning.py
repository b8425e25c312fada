"""Lowering of `learn` statements."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.domain import Domain, Interval
from optdsl.ir.program import Hyper, Learned
from optdsl.lower.learn_request import Problem, Request, Rules, is_steps, learned, problems
from optdsl.lower.numbers import domain, number
from optdsl.lower.scope import Scope
from optdsl.syntax import ast
from optdsl.words import SCOPES, SIGNALS


def learning(
    scope: Scope,
    learnable: Mapping[str, tuple[str, ...]],
    hypers: Mapping[str, Hyper],
    rules: Rules,
) -> tuple[Learned, ...]:
    """The learned hyperparameters, in the order of the file.

    `learnable` has the names of the `hypers` behind each name: several for a weight vector.
    """
    default_after = _default_after(scope)
    found: dict[str, tuple[tuple[Learned, ...], Span]] = {}
    for node in scope.declaration.statements:
        if not isinstance(node, ast.Learn):
            continue
        bounds = _open_at_infinity(domain(node.bounds, scope)) if node.bounds else None
        options = {}
        for option in node.options:
            value = number(option.value, f"`{option.name.text}`", scope)
            if value is not None:
                options[option.name.text] = value, option.value.span.text
        for name in node.names:
            if name.text in found:
                first = Note("first learned here", found[name.text][1])
                message = f"`{name.text}` is learned twice"
                scope.report.error("duplicate", message, name.span, notes=[first])
                continue
            if name.text not in {*learnable, *scope.hypers, *scope.weights}:
                _unknown(name, learnable, scope)
            request = Request(
                name.text,
                node.rule.text,
                options,
                bounds,
                node.after.value if node.after else default_after,
                node.exponentiated,
                node.scope.text if node.scope else SCOPES[0],
                node.signal.text if node.signal else SIGNALS[0],
                node.horizon.value if node.horizon else 0.0,
                ("clip",),
                f"`learn {name.text} in [0.5, 0.99] by ...`",
            )
            # With bounds that are mistaken themselves there is nothing to compare.
            known = bounds is not None or node.bounds is None
            parts = [hypers[part] for part in learnable.get(name.text, ()) if known]
            wrong = list(problems(request, parts, len(parts) > 1, rules))
            _report(wrong, node, name, scope.report)
            if parts and not wrong:
                found[name.text] = learned(request, parts, rules), name.span
    return tuple(x for entries, _ in found.values() for x in entries)


def _report(
    wrong: Iterable[Problem], node: ast.Learn, name: ast.Identifier, report: Report
) -> None:
    """Report the mistakes in a statement that concern one of its names."""
    parts = {
        "rule": node.rule,
        "name": name,
        "bounds": node.bounds or name,
        "scope": node.scope,
        "signal": node.signal,
        "after": node.after,
        "horizon": node.horizon,
        **{f"option {option.name.text}": option.name for option in node.options},
        **{f"value {option.name.text}": option.value for option in node.options},
    }
    for problem in wrong:
        part = parts.get(problem.place)
        if part is not None:  # a wrong number in `learn after` is reported there
            label, hint = problem.label, problem.hint
            report.error(problem.code, problem.message, part.span, label=label, hint=hint)


def _unknown(name: ast.Identifier, learnable: Iterable[str], scope: Scope) -> None:
    hint = nearest(name.text, [*learnable, *scope.hypers])
    owner, _, label = name.text.partition(".")
    flat = {flat: spelled.partition(".")[0] for spelled, flat in scope.components.items()}
    owner = flat.get(name.text, owner if label else "")
    if owner in scope.weights:
        hint = f"a weight vector is learned as a whole: `learn {owner} by ...`"
    scope.report.error(
        "unknown-name",
        f"`{name.text}` is not a hyperparameter",
        name.span,
        label="only hyperparameters are learned",
        hint=hint or f"declare `hyper {name.text} = ...`",
    )


def _open_at_infinity(bounds: Domain | None) -> Domain | None:
    """Bounds of learning; what is learned stays finite."""
    if not isinstance(bounds, Interval):
        return bounds
    return replace(
        bounds,
        lower_open=bounds.lower_open or math.isinf(bounds.lower),
        upper_open=bounds.upper_open or math.isinf(bounds.upper),
    )


def _default_after(scope: Scope) -> float:
    statements = [s for s in scope.declaration.statements if isinstance(s, ast.LearnAfter)]
    for again in statements[1:]:
        first = Note("first given here", statements[0].span)
        scope.report.error("duplicate", "`learn after` is given twice", again.span, notes=[first])
    if not statements:
        return 0.0
    node = statements[0].after
    if not is_steps(node.value):
        scope.report.error("number", "steps are whole", node.span, label="not a whole number")
    return node.value
