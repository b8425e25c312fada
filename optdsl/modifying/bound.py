"""Options of the rule that is modified: hyperparameters that get a number once and for all."""

from __future__ import annotations

from dataclasses import replace

from optdsl.diagnostics import nearest
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Domain
from optdsl.ir.program import Operation, Program, Value
from optdsl.lower.numbers import number
from optdsl.lower.scope import Scope
from optdsl.passes.rewrite import rewrite
from optdsl.syntax import ast


def bound(base: Program, node: ast.Combination, scope: Scope) -> Program:
    """The rule with its options in the place of hyperparameters; mistakes are reported."""
    domains = {h.name: h.domain for h in base.hypers}
    parts = {h for s in base.simplexes for h in s.hypers}
    values = numbers(node.base, node.options, domains, parts, scope)
    if not values:
        return base

    def substitute(
        builder: Builder, operation: Operation, arguments: tuple[Value, ...]
    ) -> Value | None:
        known = operation.opcode == "hyper" and operation.attribute in values
        return builder.constant(values[str(operation.attribute)]) if known else None

    found = rewrite(base, substitute)
    return replace(
        found,
        hypers=tuple(h for h in base.hypers if h.name not in values),
        learned=tuple(x for x in base.learned if x.hyper not in values),
    )


def numbers(
    owner: ast.Identifier,
    options: tuple[ast.Option, ...],
    domains: dict[str, Domain],
    parts: set[str],
    scope: Scope,
) -> dict[str, float]:
    """The numbers that options give to hyperparameters.

    Args:
        owner: the rule or modifier, as it is called here.
        options: the options.
        domains: where its hyperparameters may lie.
        parts: those of them that are parts of weight vectors, which no option sets.
        scope: the file; its report receives unknown names, and numbers out of bounds.
    """
    report = scope.report
    found: dict[str, float] = {}
    for option in options:
        name = option.name.text
        if name in parts:
            report.error(
                "unknown-option",
                f"`{name}` of `{owner.text}` is a part of a weight vector",
                option.name.span,
                label="no option sets a weight",
            )
        elif name not in domains:
            report.error(
                "unknown-option",
                f"`{owner.text}` has no hyperparameter `{name}`",
                option.name.span,
                hint=nearest(name, domains) or _those(domains),
            )
        elif name in found:
            report.error("duplicate", f"`{name}` is given twice", option.name.span)
        else:
            value = number(option.value, f"`{name}`", scope)
            if value is not None and value not in domains[name]:
                report.error(
                    "out-of-bounds",
                    f"`{name}` of `{owner.text}` is out of bounds",
                    option.value.span,
                    label=f"must lie in {domains[name]}",
                )
            elif value is not None:
                found[name] = value
    return found


def _those(domains: dict[str, Domain]) -> str:
    return f"it has {', '.join(domains)}" if domains else "it has none"
