"""A rule of the library after ``otherwise``: its program for the tensors that no section takes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Hyper, Operation, Program, Value
from optdsl.ir.sections import OTHERWISE
from optdsl.lower.declarations import Declared
from optdsl.lower.options import options
from optdsl.lower.scope import Scope
from optdsl.passes.rewrite import rewrite
from optdsl.syntax import ast
from optdsl.syntax.format import reference


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
    rule = members.get(reference(node))
    if rule is None:
        return None
    if rule.sections:
        scope.report.error(
            "section",
            f"`{node.name.text}` has sections of its own",
            node.rule.span,
            label="after `otherwise` stands a rule that takes every tensor",
        )
        return None
    if rule.codec:
        scope.report.error(
            "store",
            f"`{node.name.text}` stores the parameter as {rule.codec}",
            node.rule.span,
            label="a file stores the parameters of all its sections alike",
            hint=f"take a rule without it, and write `store theta as {rule.codec}` here",
        )
        return None
    whole = [*scope.states, *(name for name, e in scope.equations.items() if e.primed)]
    if whole:
        scope.report.error(
            "section",
            f"`{node.name.text}` is a whole rule",
            node.span,
            label="there are equations for these tensors already",
            hint=f"move `{whole[0]}` into another section",
        )
        return None
    domains = {h.name: h.domain for h in rule.hypers}
    parts = {h for x in rule.simplexes for h in x.hypers}
    bound = options(node.rule, _given(node), domains, parts, _own(declared), scope)
    prefix = node.name.text.lower()
    names = {h.name: f"{prefix}_{h.name}" for h in rule.hypers if h.name not in bound}

    def rebind(builder: Builder, operation: Operation, x: tuple[Value, ...]) -> Value | None:
        if TABLE[operation.opcode].stage is Stage.TOTAL:
            label = f"{prefix}.{operation.attribute}"
            return builder.copy(replace(operation, attribute=label), x)
        if operation.opcode != "hyper":
            return None
        name = str(operation.attribute)
        if name in names:
            return builder.emit("hyper", attribute=names[name], hint=names[name])
        return bound[name].into(builder)

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
            f"`{node.name.text}` would call a hyperparameter `{min(taken)}`, as this file does",
            node.rule.span,
            hint="rename the file's, or bind the rule's",
        )
        return None
    return found


def _given(node: ast.Section) -> tuple[ast.Option, ...]:
    """The options of the rule, and those of its modifiers under the names of the two together."""
    if node.modified is None:
        return node.options
    found = list(node.modified.options)
    for applied in node.modified.applications:
        prefix = (applied.alias or applied.modifier).text
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", prefix).lower()
        for option in applied.options:
            name = replace(option.name, text=f"{words}_{option.name.text}")
            found.append(replace(option, name=name))
    return tuple(found)


def _own(declared: Declared) -> dict[str, Hyper]:
    """The file's hyperparameters by the names that expressions have for them."""
    spelled = {
        f"{x.name}.{label}": hyper
        for x in declared.simplexes
        for label, hyper in zip(x.labels, x.hypers, strict=True)
    }
    single = {n: h for n, h in declared.hypers.items() if n not in spelled.values()}
    return single | {n: declared.hypers[h] for n, h in spelled.items()}
