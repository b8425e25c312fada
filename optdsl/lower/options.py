"""Options of a rule or a modifier: what its hyperparameters are bound to where it is named."""

from __future__ import annotations

from collections.abc import Mapping, Set as AbstractSet
from dataclasses import dataclass

from optdsl.diagnostics import nearest
from optdsl.ir.builder import Builder
from optdsl.ir.domain import EVERYTHING, Domain, closed, hull, labels_of, relabelled
from optdsl.ir.evaluate import number as evaluated
from optdsl.ir.program import Hyper, Operation, Program, Value, upstream
from optdsl.ir.ranges import ranges
from optdsl.ir.types import UNIFORM
from optdsl.lower.expressions import Lowering
from optdsl.lower.numbers import in_domain
from optdsl.lower.resolve import resolve_expression, walk
from optdsl.lower.scope import NUMBERS, Scope
from optdsl.syntax import ast


@dataclass(frozen=True, eq=False)
class Bound:
    """What an option binds a hyperparameter to: a number, or an expression of hyperparameters.

    Attributes:
        operations: the operations of the expression.
        value: its value among them.
        node: what is written.
    """

    operations: tuple[Operation, ...]
    value: Value
    node: ast.Expression

    def into(self, builder: Builder) -> Value:
        """The value in another list of operations."""
        expression = Program(operations=self.operations)
        return builder.copied(expression, (self.value,), {})[self.value]


def options(
    owner: ast.Identifier,
    given: tuple[ast.Option, ...],
    domains: Mapping[str, Domain],
    parts: AbstractSet[str],
    names: Mapping[str, Hyper],
    scope: Scope,
) -> dict[str, Bound]:
    """What options bind hyperparameters to; mistakes are reported.

    Args:
        owner: the rule or modifier, as it is called here.
        given: the options.
        domains: where its hyperparameters may lie.
        parts: those of them that are parts of weight vectors, which no option sets.
        names: the hyperparameters of which values may be made, by what they are called.
        scope: the file; its report receives unknown names, and values out of bounds.
    """
    report, found = scope.report, dict[str, Bound]()
    for option in given:
        name = option.name.text
        if name in parts:
            report.error(
                "unknown-option",
                f"`{name}` of `{owner.text}` is a part of a weight vector",
                option.name.span,
                label="no option sets a weight",
            )
        elif name not in domains:
            listed = ", ".join(n for n in domains if n not in parts)
            report.error(
                "unknown-option",
                f"`{owner.text}` has no hyperparameter `{name}`",
                option.name.span,
                hint=nearest(name, domains) or (f"it has {listed}" if listed else "it has none"),
            )
        elif name in found:
            report.error("duplicate", f"`{name}` is given twice", option.name.span)
        else:
            value = _value(owner, option, domains[name], names, scope)
            if value is not None:
                found[name] = value
    return found


def _value(
    owner: ast.Identifier,
    option: ast.Option,
    domain: Domain,
    names: Mapping[str, Hyper],
    scope: Scope,
) -> Bound | None:
    """What an option binds a hyperparameter to; None after a mistake."""
    node, report, before = option.value, scope.report, scope.report.count
    what, builder = f"`{option.name.text}` of `{owner.text}`", Builder()
    labels = labels_of(domain)
    value: Value | None
    if _literal(node) or (isinstance(node, ast.Name) and node.spelled in labels):
        fixed = in_domain(node, f"`{option.name.text}`", domain, scope)
        value = None if fixed is None else builder.constant(fixed)
    elif labels and isinstance(node, ast.Name) and node.spelled not in names:
        label, hint = f"must be one of {', '.join(labels)}", nearest(node.spelled, labels)
        report.error(
            "out-of-bounds", f"{what} has no such label", node.span, label=label, hint=hint
        )
        return None
    elif isinstance(node, ast.Name) and relabelled(given := _domain_of(node, names), domain):
        report.error(
            "out-of-bounds",
            f"{what} has other labels, or in another order",
            node.span,
            label=f"`{node.spelled}` is one of {', '.join(labels_of(given))}",
            hint=f"write `hyper {node.spelled} = ... in {domain}`",
        )
        return None
    else:
        resolve_expression(node, scope, names.keys())
        if report.count > before:
            return None
        environment = {
            spelled: builder.emit("hyper", attribute=hyper.name, hint=hyper.name)
            for spelled, hyper in names.items()
        }
        value = Lowering(scope, builder).expression(node, environment)
    if value is None:
        return None
    if builder[value].type != UNIFORM or any(
        builder[v].opcode == "step" for v in upstream(builder.operations, (value,))
    ):
        report.error(
            "not-constant",
            f"{what} is made of numbers and hyperparameters",
            node.span,
            label="a condition"
            if builder[value].type.condition
            else "this changes from step to step",
            hint="write a modifier of the hyperparameter for what depends on `t`",
        )
        return None
    found = Bound(builder.operations, value, node)
    if not _possible(found, domain, names):
        label = f"must lie in {domain}"
        report.error("out-of-bounds", f"{what} is out of bounds", node.span, label=label)
        return None
    return found


def _domain_of(node: ast.Name, names: Mapping[str, Hyper]) -> Domain:
    """Where a hyperparameter lies; a name that is not known may be any number."""
    return names[node.spelled].domain if node.spelled in names else EVERYTHING


def _literal(node: ast.Expression) -> bool:
    """Whether an expression has neither names nor calls, so that it is a number."""
    return all(
        isinstance(part, ast.Number | ast.Negate | ast.Binary)
        or (isinstance(part, ast.Name) and part.spelled in NUMBERS)
        for part in walk(node)
    )


def _possible(bound: Bound, domain: Domain, names: Mapping[str, Hyper]) -> bool:
    """Whether all values of an expression are in a domain, whose open ends count as closed.

    Of a domain of single numbers, its value at the defaults must be one of them.
    """
    program = Program(operations=bound.operations, hypers=tuple(names.values()))
    behind = [program.operations[v] for v in program.needed((bound.value,))]
    if not any(o.opcode == "hyper" for o in behind):
        return evaluated(program, bound.value, {}) in domain
    defaults = {hyper.name: hyper.default for hyper in names.values()}
    if domain.discrete and evaluated(program, bound.value, defaults) not in domain:
        return False
    # Of a range of whole numbers, the ends count here.
    return closed(hull(domain)).includes(closed(ranges(program)[bound.value]))
