"""What a claim sets, and what it gives the hyperparameters of its rule."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass

from optdsl.blending.world import World
from optdsl.diagnostics import Report, nearest
from optdsl.ir.builder import Builder
from optdsl.ir.domain import Domain, labels_of, spell
from optdsl.ir.program import Program, Value, upstream
from optdsl.lower.declarations import corner_weights
from optdsl.lower.numbers import in_domain
from optdsl.lower.resolve import resolve_expression
from optdsl.lower.scope import NUMBERS, Scope
from optdsl.syntax import ast


@dataclass(frozen=True, eq=False)
class Names:
    """The names that the claims of a file may use.

    Attributes:
        scope: the definitions of the file.
        program: the program that they define.
        learnable: the hyperparameters behind each name that a claim can set.
        spellings: the hyperparameter behind each name that the value of an option may use.
        world: for a blend, the hyperparameters of its members.
    """

    scope: Scope
    program: Program
    learnable: Mapping[str, tuple[str, ...]]
    spellings: Mapping[str, str]
    world: World | None = None


def settings_of(node: ast.Claim, names: Names) -> dict[str, float]:
    """The values that a claim sets; mistakes are reported."""
    found: dict[str, float] = {}
    report = names.scope.report
    for setting in node.settings:
        name = setting.name.text
        hypers = names.learnable.get(name)
        if hypers is None:
            if name in names.scope.broken:
                continue
            report.error(
                "unknown-name",
                f"`{name}` is not a hyperparameter",
                setting.name.span,
                hint=_whole(name, names) or nearest(name, names.learnable),
            )
        elif len(hypers) > 1:
            found |= _vector(setting, hypers, names)
        else:
            domain = names.program.hyper(hypers[0]).domain
            if not_a_label(setting.value, domain):
                report_label(setting.value, f"`{name}`", domain, report)
                continue
            value = in_domain(setting.value, f"`{name}`", domain, names.scope)
            if value is not None and value not in domain:
                report.error(
                    "out-of-bounds",
                    f"`{name}` = {spell(value)} is out of bounds",
                    setting.value.span,
                    label=f"must lie in {domain}",
                )
            elif value is not None:
                found[hypers[0]] = value
    return found


def _whole(name: str, names: Names) -> str:
    """What to write in place of a component of a weight vector."""
    vector, _, label = name.partition(".")
    return f"write `{vector} = {label}`" if name in names.scope.components else ""


def _vector(setting: ast.Option, hypers: tuple[str, ...], names: Names) -> dict[str, float]:
    simplex = next(s for s in names.program.simplexes if s.hypers == hypers)
    weights = corner_weights(setting.value, list(simplex.labels))
    if weights is None:
        names.scope.report.error(
            "weights",
            f"`{setting.name.text}` has no such weights",
            setting.value.span,
            hint=f"write `uniform`, or one of {', '.join(simplex.labels)}",
        )
        return {}
    return dict(zip(hypers, weights, strict=True))


def check_options(node: ast.Claim, rule: Program, names: Names) -> None:
    """The options of a claim must be hyperparameters of the rule, given what the file has."""
    known, report = [h.name for h in rule.hypers], names.scope.report
    allowed = {*names.spellings, *names.scope.components}
    for option in node.options:
        if option.name.text not in known:
            report.error(
                "unknown-option",
                f"`{node.rule.text}` has no hyperparameter `{option.name.text}`",
                option.name.span,
                hint=nearest(option.name.text, known) or f"it has {', '.join(known)}",
            )
        elif rule.simplex_of(option.name.text) is not None:
            report.error(
                "unknown-option",
                f"`{option.name.text}` of `{node.rule.text}` is a part of a weight vector",
                option.name.span,
                label="a rule's weights are as by default, or a member's in a blend",
            )
        elif label_in(option.value, rule.hyper(option.name.text).domain) is not None:
            continue
        elif not_a_label(option.value, domain := rule.hyper(option.name.text).domain, allowed):
            what = f"`{option.name.text}` of `{node.rule.text}`"
            report_label(option.value, what, domain, report)
            continue
        resolve_expression(option.value, names.scope, allowed)


def label_in(node: ast.Expression, domain: Domain) -> float | None:
    """The number of a label of a domain; None for another expression."""
    labels = labels_of(domain)
    if isinstance(node, ast.Name) and node.spelled in labels:
        return float(labels.index(node.spelled))
    return None


def not_a_label(node: ast.Expression, domain: Domain, names: Container[str] = ()) -> bool:
    """Whether a name stands for a label of a domain, and is none, nor one of some other names."""
    if not isinstance(node, ast.Name) or node.spelled in NUMBERS or node.spelled in names:
        return False
    return bool(labels_of(domain)) and label_in(node, domain) is None


def report_label(node: ast.Expression, what: str, domain: Domain, report: Report) -> None:
    """Report a name that is no label."""
    assert isinstance(node, ast.Name)
    labels = labels_of(domain)
    report.error(
        "out-of-bounds",
        f"{what} has no such label",
        node.span,
        label=f"must be one of {', '.join(labels)}",
        hint=nearest(node.spelled, labels),
    )


def option_of(
    value: Value | None, hyper: str, node: ast.Expression, builder: Builder, report: Report
) -> Value | None:
    """The value that a claim's option gives, if it is a number that does not change with `t`."""
    if value is None:
        return None
    if builder[value].type.condition:
        label, hint = "a condition", "write `where(condition, 1, 0)`"
        report.error("type", f"`{hyper}` is a number", node.span, label=label, hint=hint)
        return None
    if any(builder[v].opcode == "step" for v in upstream(builder.operations, (value,))):
        report.error(
            "not-constant",
            f"`{hyper}` changes with `t`",
            node.span,
            label="a function that is called here uses `t`",
            hint="the options of a claim are made of numbers and hyperparameters",
        )
        return None
    return value
