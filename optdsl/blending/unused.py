"""Warnings about declarations of a specification that have no effect on the parameter."""

from __future__ import annotations

from collections.abc import Iterator

from optdsl.algebra.fix import live_states
from optdsl.blending.world import World
from optdsl.diagnostics import Span
from optdsl.ir.program import Program
from optdsl.lower.resolve import walk
from optdsl.lower.scope import Scope
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.syntax import ast

_NOTHING = "theta' does not depend on it"
_REMOVE = "use it in an equation, or take it out"


def report_unused(scope: Scope, program: Program, world: World | None) -> None:
    """Warn about hyperparameters, states, equations and functions that have no effect.

    Args:
        scope: the file, whose report receives the warnings.
        program: the program of the file.
        world: for a blend, the hyperparameters of its members.
    """
    declaration = scope.declaration
    used = eliminate_dead(live_states(program))
    hypers = _attributes(used, "hyper") | {name for name, _ in program.structure}
    states = {s.name for s in used.states}
    named = _attributes(used, "define")
    # An equation that only some sections have, or each with another type, has their kind's name.
    named |= {name.rpartition(".")[2] for name in named} if program.sections else set()
    read = _read(declaration)

    def warn(message: str, span: Span, label: str = _NOTHING, hint: str = _REMOVE) -> None:
        scope.report.remark("warning", "unused", message, span, label=label, hint=hint)

    for statement in declaration.statements:
        match statement:
            case ast.Hyper(name=name) if name.text not in hypers:
                warn(f"the hyperparameter `{name.text}` has no effect", name.span)
            case ast.Weights(name=name, labels=labels):
                flat = (scope.components[f"{name.text}.{x.text}"] for x in labels)
                if hypers.isdisjoint(flat):
                    warn(f"the weights `{name.text}` have no effect", name.span)
            case ast.Share(names=names):
                # A declared hyperparameter has its warning at the declaration.
                for name in names:
                    if name.text not in hypers and name.text not in scope.hypers:
                        warn(
                            f"the shared hyperparameter `{name.text}` has no effect",
                            name.span,
                            hint="give it to the members as a number, as in `MEMBER.hyper = 0`",
                        )
            case ast.State(name=name) if name.text not in states:
                warn(f"nothing reads the state `{name.text}`", name.span)
            case ast.Equation(name=name, spelled=spelled):
                # An unused state has a warning of its own.
                dead = name.text in scope.states and name.text not in states
                if spelled not in named and spelled not in read and not dead:
                    warn(f"nothing uses the equation `{spelled}`", name.span)
            case ast.Function(name=name) if name.text not in read:
                warn(f"nothing calls `{name.text}`", name.span, label="")
            case ast.Use(members=members) if world is not None:
                for member in members:
                    prefix = f"{member.name.text}."
                    own = {n: flat for n, flat in world.names.items() if n.startswith(prefix)}
                    lost = [n for n, flat in own.items() if hypers.isdisjoint(flat)]
                    if lost:
                        listed = ", ".join(f"`{n}`" for n in lost)
                        verb = "has" if len(lost) == 1 else "have"
                        warn(
                            f"{listed} {verb} no effect in this blend",
                            member.name.span,
                            label="the blend would have hyperparameters that do nothing",
                            hint=f"share what other members have, too, or write `{lost[0]} = ...`",
                        )


def _attributes(program: Program, opcode: str) -> set[str]:
    return {str(o.attribute) for o in program.operations if o.opcode == opcode}


def _read(declaration: ast.Declaration) -> set[str]:
    """The names (with their primes) and the functions that expressions of the file use."""
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
        case ast.Claim(options=options) | ast.Section(options=options):
            for option in options:
                yield from walk(option.value)
