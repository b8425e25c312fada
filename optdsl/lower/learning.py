"""`learn` statements: which hyperparameters are learned, by what rule, within what bounds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Protocol

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.domain import Choice, Domain, Interval, spell
from optdsl.ir.program import Hyper, Learned
from optdsl.lower.numbers import domain, number
from optdsl.lower.scope import Scope
from optdsl.syntax import ast
from optdsl.words import SCOPES, SIGNALS


class Rules(Protocol):
    """The rules that a specification may refer to by name."""

    def names(self) -> Iterable[str]:
        """The names of all rules."""

    def hypers(self, name: str) -> tuple[str, tuple[Hyper, ...]] | None:
        """A rule's canonical name and its hyperparameters; None for an unknown name."""


def learning(
    declaration: ast.Declaration,
    learnable: Mapping[str, tuple[str, ...]],
    hypers: Mapping[str, Hyper],
    scope: Scope,
    rules: Rules,
    report: Report,
) -> tuple[Learned, ...]:
    """The learned hyperparameters, in the order of the file.

    `learnable` says which of the `hypers` each name stands for: a weight vector for several.
    """
    default_after = _default_after(declaration, report)
    found: dict[str, tuple[tuple[Learned, ...], Span]] = {}
    for statement in declaration.statements:
        if not isinstance(statement, ast.Learn):
            continue
        rule = _rule(statement, scope, rules, report)
        after = default_after if statement.after is None else _steps(statement.after, report)
        bounds = domain(statement.bounds, scope, report) if statement.bounds else None
        unit = _word(statement.scope, SCOPES[0], SCOPES[1:], "scope of learning", report)
        signal = _word(statement.signal, SIGNALS[0], SIGNALS, "signal", report)
        for name in statement.names:
            if name.text in found:
                first = Note("first learned here", found[name.text][1])
                report.error(
                    "duplicate", f"`{name.text}` is learned twice", name.span, notes=[first]
                )
            elif name.text in learnable:
                parts = learnable[name.text]
                if not _way(name, statement, len(parts) > 1, report):
                    continue
                within = [_bounds(name, statement, bounds, hypers[h], report) for h in parts]
                if rule and all(within):
                    learned = tuple(
                        Learned(h, *rule, interval, after, statement.exponentiated, unit, signal)
                        for h, interval in zip(parts, within, strict=True)
                        if interval is not None
                    )
                    found[name.text] = learned, name.span
            elif name.text not in scope.hypers and name.text not in scope.weights:
                _unknown(name, learnable, scope, report)
    return tuple(x for learned, _ in found.values() for x in learned)


def _unknown(name: ast.Identifier, learnable: Iterable[str], scope: Scope, report: Report) -> None:
    known = [*learnable, *scope.hypers]
    owner, _, label = name.text.partition(".")
    hint = nearest(name.text, known) or f"declare `hyper {name.text} = ...`"
    flat = {flat: spelled.partition(".")[0] for spelled, flat in scope.components.items()}
    owner = flat.get(name.text, owner if label else "")
    if owner in scope.weights:
        hint = f"a weight vector is learned as a whole: `learn {owner} by ...`"
    report.error(
        "unknown-name",
        f"`{name.text}` is not a hyperparameter",
        name.span,
        label="only hyperparameters are learned",
        hint=hint,
    )


def _way(name: ast.Identifier, node: ast.Learn, vector: bool, report: Report) -> bool:
    """Whether a name can be learned in the way that the statement says."""
    if node.exponentiated and not vector:
        report.error(
            "learn-bounds",
            f"`{name.text}` is no weight vector",
            name.span,
            label="only weights on a simplex are learned by their logarithms",
            hint="leave out `exponentiated`",
        )
        return False
    if vector and node.bounds is not None:
        report.error(
            "learn-bounds",
            f"`{name.text}` has its bounds already",
            node.bounds.span,
            label="weights lie in [0, 1] and sum to one",
            hint="leave out the bounds",
        )
        return False
    return True


def _word(
    node: ast.Identifier | None, default: str, known: tuple[str, ...], kind: str, report: Report
) -> str:
    """One of some words, or the default where none is given."""
    if node is None:
        return default
    if node.text not in known:
        report.error(
            "unknown-name",
            f"`{node.text}` is no {kind}",
            node.span,
            hint=nearest(node.text, known) or f"there are {', '.join(known)}",
        )
    return node.text


def _default_after(declaration: ast.Declaration, report: Report) -> int:
    statements = [s for s in declaration.statements if isinstance(s, ast.LearnAfter)]
    for again in statements[1:]:
        first = Note("first given here", statements[0].span)
        report.error("duplicate", "`learn after` is given twice", again.span, notes=[first])
    return _steps(statements[0].after, report) if statements else 0


def _steps(node: ast.Number, report: Report) -> int:
    if math.isinf(node.value) or node.value != math.floor(node.value):
        report.error("number", "steps are whole", node.span, label="not a whole number")
        return 0
    return int(node.value)


def _rule(
    node: ast.Learn, scope: Scope, rules: Rules, report: Report
) -> tuple[str, tuple[tuple[str, float], ...], float | None] | None:
    """The rule's name, its options, and the clip."""
    known = rules.hypers(node.rule.text)
    if known is None:
        report.error(
            "unknown-rule",
            f"unknown rule `{node.rule.text}`",
            node.rule.span,
            label="neither in the library nor a file of this name beside this one",
            hint=nearest(node.rule.text, rules.names())
            or f"the rules are {', '.join(rules.names())}",
        )
        return None
    name, hypers = known
    domains: dict[str, Domain] = {h.name: h.domain for h in hypers}
    domains["clip"] = Interval(0.0, math.inf, True, True)
    options: dict[str, float] = {}
    for option in node.options:
        value = number(option.value, f"`{option.name.text}`", scope, report)
        if option.name.text not in domains:
            report.error(
                "unknown-option",
                f"`{name}` has no hyperparameter `{option.name.text}`",
                option.name.span,
                hint=nearest(option.name.text, domains) or f"it has {', '.join(domains)}",
            )
        elif value is not None and value not in domains[option.name.text]:
            report.error(
                "out-of-bounds",
                f"`{option.name.text}` = {option.value.span.text} is out of bounds",
                option.value.span,
                label=f"must lie in {domains[option.name.text]}",
            )
        elif value is not None:
            options[option.name.text] = value
    clip = options.pop("clip", None)
    return name, tuple(options.items()), clip


def _bounds(
    name: ast.Identifier,
    node: ast.Learn,
    bounds: Domain | None,
    hyper: Hyper,
    report: Report,
) -> Interval | None:
    """The closed interval to which the hyperparameter is projected."""
    if node.bounds is not None and bounds is None:
        return None  # already reported
    span = node.bounds.span if node.bounds else name.span
    reason = learning_bounds_problem(name.text, bounds, hyper.domain)
    if reason:
        report.error("learn-bounds", reason[0], span, label=reason[1], hint=reason[2])
        return None
    chosen = hyper.domain if bounds is None else bounds
    assert isinstance(chosen, Interval)
    if hyper.default not in chosen:
        report.error(
            "learn-bounds",
            f"`{name.text}` starts at {spell(hyper.default)}, outside {chosen}",
            span,
            label="the first update would jump to the bounds",
            hint="change the default or the bounds",
        )
        return None
    return chosen


def learning_bounds_problem(
    name: str, bounds: Domain | None, allowed: Domain
) -> tuple[str, str, str] | None:
    """Why a hyperparameter cannot be learned within `bounds`: message, label, hint."""
    if isinstance(allowed, Choice):
        return f"`{name}` is one of {allowed}", "cannot be learned by gradient descent", ""
    chosen = allowed if bounds is None else bounds
    assert isinstance(chosen, Interval)
    lower_open = chosen.lower_open and not math.isinf(chosen.lower)
    upper_open = chosen.upper_open and not math.isinf(chosen.upper)
    if lower_open or upper_open:
        return (
            f"`{name}` is learned in {chosen}, which has an open end",
            "every update is projected to the bounds, so they must be closed",
            f"write for instance `learn {name} in [0.5, 0.99] by ...`"
            if bounds is None
            else "use square brackets",
        )
    if not allowed.includes(chosen):
        return (
            f"`{name}` would be learned outside its bounds",
            f"must lie within {allowed}",
            "",
        )
    return None
