"""A rule of the library after ``otherwise``: its program for the tensors that no section takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from optdsl.diagnostics import nearest
from optdsl.ir.builder import Builder
from optdsl.ir.evaluate import number
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.sections import OTHERWISE
from optdsl.ir.types import UNIFORM
from optdsl.lower.declarations import Declared
from optdsl.lower.expressions import Lowering
from optdsl.lower.resolve import resolve_expression
from optdsl.lower.scope import Scope
from optdsl.passes.rewrite import rewrite
from optdsl.syntax import ast


def completed(
    scope: Scope, node: ast.Section, declared: Declared, members: Mapping[str, Program]
) -> Program | None:
    """The program of the rule, with what its options bind; None after a mistake.

    What is not bound stays a hyperparameter, named after the rule as a blend's member would be.

    Args:
        scope: the section; it has no equations but those before the first section.
        node: the statement.
        declared: the file's hyperparameters, which options may use.
        members: the programs of rules by their names in the file.
    """
    assert node.rule is not None
    rule = members.get(node.rule.text)
    if rule is None:
        return None
    if rule.sections:
        scope.report.error(
            "section",
            f"`{node.rule.text}` has sections of its own",
            node.rule.span,
            label="after `otherwise` stands a rule that takes every tensor",
        )
        return None
    whole = [*scope.states, *(name for name, e in scope.equations.items() if e.primed)]
    if whole:
        scope.report.error(
            "section",
            f"`{node.rule.text}` is a whole rule",
            node.span,
            label="there are equations for these tensors already",
            hint=f"move `{whole[0]}` into another section",
        )
        return None
    bound = _options(scope, node, declared, rule)
    prefix = node.rule.text.lower()
    names = {h.name: f"{prefix}_{h.name}" for h in rule.hypers if h.name not in bound}
    wanted = {name: value for name, (_, value) in bound.items()}
    sources = {name: lowering for name, (lowering, _) in bound.items()}

    def rebind(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if operation.opcode != "hyper":
            return None
        name = str(operation.attribute)
        if name in names:
            return builder.emit("hyper", attribute=names[name], hint=names[name])
        expression = Program(operations=sources[name].builder.operations)
        return builder.copied(expression, (wanted[name],), {})[wanted[name]]

    own = tuple(replace(h, name=names[h.name]) for h in rule.hypers if h.name in names)
    found = replace(
        rewrite(rule, rebind),
        name=scope.declaration.name.text,
        documentation=scope.declaration.documentation,
        hypers=(*declared.hypers.values(), *own),
        simplexes=declared.simplexes,
        learned=(),
        kind=OTHERWISE,
    )
    taken = declared.hypers.keys() & set(names.values())
    if taken:
        scope.report.error(
            "duplicate",
            f"`{node.rule.text}` would call a hyperparameter `{min(taken)}`, as this file does",
            node.rule.span,
            hint="rename the file's, or bind the rule's",
        )
        return None
    return found


def _options(
    scope: Scope, node: ast.Section, declared: Declared, rule: Program
) -> dict[str, tuple[Lowering, Value]]:
    """The values to which options bind hyperparameters of the rule, each with its operations."""
    assert node.rule is not None
    owner, report = node.rule.text, scope.report
    domains = {h.name: h.domain for h in rule.hypers if rule.simplex_of(h.name) is None}
    found: dict[str, tuple[Lowering, Value]] = {}
    for option in node.options:
        name, before = option.name.text, report.count
        if name not in domains:
            listed = ", ".join(domains) or "none"
            report.error(
                "unknown-option",
                f"`{owner}` has no hyperparameter `{name}`",
                option.name.span,
                hint=nearest(name, domains) or f"it has {listed}",
            )
            continue
        resolve_expression(option.value, scope, {*scope.hypers, *scope.components})
        if report.count > before:
            continue
        lowering = Lowering(scope, Builder())
        value = lowering.expression(option.value, {})
        if value is None:
            continue
        if lowering.builder[value].type != UNIFORM:
            report.error("type", f"`{name}` of `{owner}` is a uniform number", option.value.span)
            continue
        program = Program(operations=lowering.builder.operations)
        defaults = {h.name: h.default for h in declared.hypers.values()}
        at_defaults = number(program, value, defaults)
        if at_defaults not in domains[name]:
            report.error(
                "out-of-bounds",
                f"`{name}` of `{owner}` is out of bounds",
                option.value.span,
                label=f"must lie in {domains[name]}",
            )
            continue
        found[name] = lowering, value
    return found
