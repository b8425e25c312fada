"""`store` statements: how states, and the parameter, lie in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.program import Program, State
from optdsl.ir.storage import CODECS, PARAMETER, STATES
from optdsl.ir.types import Extent
from optdsl.syntax import ast


@dataclass(frozen=True)
class Problem:
    """What is wrong with a wish to store something; `of_name` says whether it is the name."""

    message: str
    label: str
    hint: str
    of_name: bool = True


def problem(program: Program, name: str, codec: str) -> Problem | None:
    """What is wrong with storing a value of a program by a codec; None if nothing is.

    Args:
        program: the whole rule.
        name: the name of a state, ``states`` for all of them, or ``theta``.
        codec: the name of the codec.
    """
    parameter = name == PARAMETER
    fitting = [c.name for c in CODECS.values() if (c.of_parameters if parameter else c.of_states)]
    if codec not in fitting:
        known = codec in CODECS
        return Problem(
            f"`{codec}` is no way to store {'the parameter' if parameter else 'a state'}",
            f"there are {', '.join(fitting)}",
            "" if known else nearest(codec, fitting) or "",
            of_name=False,
        )
    states = {s.name: s for s in program.states}
    if parameter or name == STATES:
        return None
    if name not in states:
        listed = f"its states are {', '.join(states)}" if states else "it has none"
        return Problem(
            f"{program.name} has no state `{name}` to store",
            "states are stored, and `theta`",
            nearest(name, {*states, STATES, PARAMETER}) or listed,
        )
    if states[name].input or states[name].type.extent <= Extent.SHARED:
        what = "an input" if states[name].input else "a number that all tensors share"
        return Problem(
            f"`{name}` is {what}",
            "it is kept as it is",
            "store states that each tensor has of its own",
        )
    return None


def with_stores(program: Program, wishes: Mapping[str, str]) -> Program:
    """A rule with other storage.

    ``states`` stands for the states with one number for each element, row or column, apart from
    those that have a wish of their own.

    Args:
        program: the rule.
        wishes: codecs by the names of what they store; there is no `problem` with them.
    """
    states = tuple(_stored(s, wishes) for s in program.states)
    return replace(program, states=states, codec=wishes.get(PARAMETER, program.codec))


def _stored(state: State, wishes: Mapping[str, str]) -> State:
    many = state.type.extent >= Extent.AXES and not state.input
    found = wishes.get(state.name, wishes.get(STATES) if many else None)
    return state if found is None else replace(state, codec=found)


def stored(
    program: Program, nodes: Iterable[ast.Statement], report: Report, applied: Span | None = None
) -> Program:
    """A rule with what some statements say about storage; mistakes are reported.

    Args:
        program: the rule, of all sections.
        nodes: statements, of which those about storage count.
        report: receives the mistakes.
        applied: where the modifier is applied whose statements they are, if they are one's.
    """
    wishes: dict[str, str] = {}
    places: dict[str, Span] = {}
    for node in nodes:
        if not isinstance(node, ast.Store):
            continue
        for name in node.names:
            found = problem(program, name.text, node.codec.text)
            if found is not None:
                own = name.span if found.of_name else node.codec.span
                notes = [Note("written here", own)] if applied else []
                report.error(
                    "store",
                    found.message,
                    applied or own,
                    label=found.label,
                    notes=notes,
                    hint=found.hint,
                )
            elif name.text in wishes:
                report.error(
                    "duplicate",
                    f"`{name.text}` is stored twice",
                    applied or name.span,
                    label=f"as {node.codec.text} here",
                    notes=[Note(f"as {wishes[name.text]} here", places[name.text])],
                    hint="leave out one of the two",
                )
            else:
                wishes[name.text], places[name.text] = node.codec.text, name.span
    return with_stores(program, wishes)
