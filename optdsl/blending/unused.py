"""Warnings for what a specification declares and its parameter never depends on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from optdsl.algebra.fix import live_states
from optdsl.blending.world import World
from optdsl.diagnostics import Report, Span
from optdsl.ir.program import Program
from optdsl.lower.resolve import walk
from optdsl.lower.scope import Scope
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.syntax import ast

_NOTHING = "theta' does not depend on it"
_REMOVE = "use it in an equation, or take it out"


def report_unused(
    declaration: ast.Declaration,
    program: Program,
    scope: Scope,
    world: World | None,
    report: Report,
) -> None:
    """Warn of hyperparameters, states, equations and functions without an effect.

    Args:
        declaration: the file.
        program: what it computes.
        scope: the names of the file.
        world: of a blend, what its members' hyperparameters are.
        report: for the warnings.
    """
    used = eliminate_dead(live_states(program))
    hypers = _attributes(used, "hyper")
    states = {s.name for s in used.states}
    named = _attributes(used, "define")
    read = _read(declaration)

    def warn(message: str, span: Span, label: str = _NOTHING, hint: str = _REMOVE) -> None:
        report.remark("warning", "unused", message, span, label=label, hint=hint)

    for statement in declaration.statements:
        match statement:
            case ast.Hyper(name=name) if name.text not in hypers:
                warn(f"the hyperparameter `{name.text}` has no effect", name.span)
            case ast.Weights(name=name, labels=labels):
                flat = (scope.components[f"{name.text}.{x.text}"] for x in labels)
                if hypers.isdisjoint(flat):
                    warn(f"the weights `{name.text}` have no effect", name.span)
            case ast.Share(names=names):
                # One that is declared has its warning there.
                for name in names:
                    if name.text not in hypers and name.text not in scope.hypers:
                        warn(
                            f"the shared hyperparameter `{name.text}` has no effect",
                            name.span,
                            hint="give it to the members as a number, as in `MEMBER.hyper = 0`",
                        )
            case ast.State(name=name) if name.text not in states:
                warn(f"nothing reads the state `{name.text}`", name.span)
            case ast.Equation(name=name, primed=primed):
                spelled = name.text + ("'" if primed else "")
                # What is wrong with a state's equation is told of the state.
                dead = name.text in scope.states and name.text not in states
                if spelled not in named and spelled not in read and not dead:
                    warn(f"nothing uses the equation `{spelled}`", name.span)
            case ast.Function(name=name) if name.text not in read:
                warn(f"nothing calls `{name.text}`", name.span, label="")
    if world is not None:
        _warn_of_members(declaration, world, hypers, report)


def _warn_of_members(
    declaration: ast.Declaration, world: World, hypers: set[str], report: Report
) -> None:
    """Warn of hyperparameters that a blend has for a member and does not use."""
    lost: Mapping[str, list[str]] = defaultdict(list)
    for spelled, flat in world.names.items():
        if hypers.isdisjoint(flat):
            lost[spelled.partition(".")[0]].append(spelled)
    uses = (s for s in declaration.statements if isinstance(s, ast.Use))
    for member in (m for use in uses for m in use.members):
        names = lost[member.name.text]
        if names:
            listed = ", ".join(f"`{name}`" for name in names)
            report.remark(
                "warning",
                "unused",
                f"{listed} {'has' if len(names) == 1 else 'have'} no effect in this blend",
                member.name.span,
                label="the blend would have hyperparameters that do nothing",
                hint=f"share what other members have, too, or write `{names[0]} = ...`",
            )


def _attributes(program: Program, opcode: str) -> set[str]:
    return {str(o.attribute) for o in program.operations if o.opcode == opcode}


def _read(declaration: ast.Declaration) -> set[str]:
    """The names, primes included, and functions that stand in expressions."""
    return {
        part.function.text if isinstance(part, ast.Call) else part.spelled
        for statement in declaration.statements
        for part in _parts(statement)
        if isinstance(part, ast.Call | ast.Name)
    }


def _parts(statement: ast.Statement) -> Iterator[ast.Expression]:
    match statement:
        case ast.Equation(value=value) | ast.Binding(value=value) | ast.State(initial=value):
            yield from walk(value)
        case ast.Function(body=value):
            yield from walk(value)
        case ast.Claim(options=options):
            for option in options:
                yield from walk(option.value)
