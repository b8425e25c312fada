"""Hyperparameters of a rule with modifiers: those of its parts, options, and declarations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.blending.structure import Again, Undecided, choices, made
from optdsl.ir.builder import Builder
from optdsl.ir.program import Hyper, Operation, Program, Value
from optdsl.lower.declarations import declared
from optdsl.lower.options import Bound, options
from optdsl.lower.scope import Scope
from optdsl.modifying.modifier import Modifier
from optdsl.passes.rewrite import rewrite
from optdsl.syntax import ast


@dataclass(frozen=True, eq=False)
class Settled:
    """A rule and its modifiers with what their options bind.

    Attributes:
        base: the rule, whose hyperparameters are those of the combination.
        applied: the modifiers.
        hypers: the hyperparameters of the combination.
        choices: the values of those of them that are known when a program is made.
    """

    base: Program
    applied: tuple[Modifier, ...]
    hypers: tuple[Hyper, ...]
    choices: Mapping[str, float]


def settled(
    base: Program,
    node: ast.Combination,
    applied: Sequence[Modifier],
    scope: Scope,
    given: Mapping[str, float],
    again: Again,
) -> Settled:
    """What the hyperparameters of a rule and of its modifiers are; mistakes are reported.

    Options are expressions of the combination's hyperparameters: of those that no option binds, and
    of those that its file declares. A declaration of a name that there is gives another default.

    Args:
        base: the rule, with its named equations.
        node: the rule with its modifiers.
        applied: the modifiers, whose options are not resolved.
        scope: the file.
        given: values of hyperparameters that decide what the operations are, where they are not
            the defaults.
        again: makes the rule for other values of what decides what its operations are.
    """
    parts = {h for s in base.simplexes for h in s.hypers}
    named = {option.name.text for option in node.options}
    open_ones = [h for h in base.hypers if h.name not in named or h.name in parts]
    known = {h.name: h for h in (*open_ones, *(h for one in applied for h in one.hypers))}
    own = declared(scope, {n: h for n, h in known.items() if n not in parts}).hypers
    states = {s.name for s in base.states}.union(*(one.state_names.values() for one in applied))
    for name in own.keys() & (parts | states):
        scope.report.error(
            "duplicate",
            f"the rule has `{name}` already",
            scope.hypers[name].name.span,
            label="a state" if name in states else "a part of a weight vector",
            hint="rename it",
        )
    every = known | {n: h for n, h in own.items() if n not in parts}
    names = {n: h for n, h in every.items() if n not in parts}
    domains = {h.name: h.domain for h in base.hypers}
    bound = options(node.base, node.options, domains, parts, names, scope)
    found = tuple(
        replace(
            one,
            hypers=tuple(every[h.name] for h in one.hypers),
            values=options(
                one.application.modifier,
                one.application.options,
                {h.name: h.domain for h in one.declared.values()},
                set(),
                names,
                scope,
            ),
        )
        for one in applied
    )
    fixed = choices(every, given)
    scope.report.check()
    rule = _made(base, node, bound, fixed, scope, again)
    modifying = {h.name for one in found for h in one.hypers}
    rule = replace(
        rule,
        hypers=tuple(h for h in every.values() if h.name not in modifying),
        learned=tuple(x for x in base.learned if x.hyper not in bound),
    )
    return Settled(rule, found, tuple(every.values()), fixed)


def _made(
    base: Program,
    node: ast.Combination,
    bound: Mapping[str, Bound],
    known: Mapping[str, float],
    scope: Scope,
    again: Again,
) -> Program:
    """The rule with its options in the place of hyperparameters, made for what they are."""
    builder = Builder()

    def value(hyper: str) -> Value:
        if hyper in bound:
            return bound[hyper].into(builder)
        return builder.emit("hyper", attribute=hyper, hint=hyper)

    def substitute(
        builder: Builder, operation: Operation, arguments: tuple[Value, ...]
    ) -> Value | None:
        here = operation.opcode == "hyper" and operation.attribute in bound
        return bound[str(operation.attribute)].into(builder) if here else None

    try:
        remade = made(base, value, builder, known, lambda wanted: again(node.base.text, wanted))
    except Undecided as error:
        scope.report.error(
            "structure",
            f"`{error.hyper}` of `{node.base.text}` decides what the operations are",
            bound[error.hyper].node.span,
            label="not known when the optimizer is made",
            hint="bind it to numbers, and to hyperparameters with a domain such as {0, ..., 9}",
        )
        scope.report.check()
        raise
    program = rewrite(remade.program, substitute) if bound else remade.program
    return replace(program, structure=tuple(remade.structure.items()))
