"""What can be wrong with the equations of modifiers, once they are those of a rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from optdsl.diagnostics import Report
from optdsl.ir.program import Program
from optdsl.ir.types import Extent, Type
from optdsl.modifying.modifier import BASE, Modifier
from optdsl.modifying.slots import EVERYWHERE, UPDATE


class Node(NamedTuple):
    """What has a value: a level of a slot, or an equation of a modifier (its place, its name)."""

    name: str
    level: int = -1
    place: int = -1


def misfit(kind: Type, name: str, base: Program, equations: Mapping[str, int]) -> str:
    """Why a slot cannot have values of a type; empty if it can.

    Args:
        kind: the type.
        name: the slot.
        base: the rule.
        equations: its equations.
    """
    if name not in equations and any(h.name == name for h in base.hypers):
        unfit = kind.extent > Extent.UNIFORM or kind.condition
        return f"`{name}` is a uniform number" if unfit else ""
    if name in EVERYWHERE and kind.condition:
        return f"`{name}` is a number"
    if name in equations and kind.condition != base.operations[equations[name]].type.condition:
        return f"`{name}` is {'a number' if kind.condition else 'a condition'}"
    if name.endswith("'") and name != UPDATE:
        state = next(s for s in base.states if s.name == name.removesuffix("'"))
        if not kind.fits(state.type) or kind.condition:
            return f"`{state.name}` is {state.type.noun}"
    return ""


def report_cycle(
    cycle: Sequence[Node],
    definers: Mapping[str, Sequence[int]],
    applied: Sequence[Modifier],
    report: Report,
) -> None:
    """Report values that depend on one another once modifiers are applied.

    Args:
        cycle: the values, each of which depends on the next one.
        definers: the modifiers of each slot, by their places.
        applied: the modifiers.
        report: receives the mistake.
    """

    def spelled(node: Node) -> str:
        if node.place >= 0:
            return f"{applied[node.place].name}.{node.name}"
        below = node.level < len(definers.get(node.name, ()))
        return f"{BASE}.{node.name}" if below else node.name

    names = [spelled(node) for node in cycle]
    place = next((n.place for n in cycle if n.place >= 0), None)
    if place is None:
        slot = next(n for n in cycle if n.level > 0 and n.name in definers)
        place = definers[slot.name][slot.level - 1]
    modifier = applied[place].application.modifier
    report.error(
        "cycle",
        f"`{names[0]}` depends on itself once `{modifier.text}` is applied",
        modifier.span,
        label=" -> ".join([*names, names[0]]),
        hint="`base.x` is `x` without this modifier; use what the rule computes before it",
    )
