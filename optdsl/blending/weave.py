"""Late binding: the members' equations copied into one program, each using the blend's slots."""

from __future__ import annotations

import graphlib
import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from optdsl.blending.convexity import Combination, combination
from optdsl.blending.members import Member
from optdsl.blending.mixture import mixture
from optdsl.blending.world import World
from optdsl.diagnostics import Note, Report
from optdsl.ir.domain import SUM_TOLERANCE, hull
from optdsl.ir.evaluate import number
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, State, Value, upstream
from optdsl.ir.types import TypeMismatch
from optdsl.lower.expressions import Lowering
from optdsl.lower.resolve import walk
from optdsl.syntax import ast

UPDATE = "theta'"

# An equation: of a member, or of the blend itself, whose name is empty.
Node = tuple[str, str]


def qualified(member: str, name: str) -> str:
    """The name that a blend has for a value of a member."""
    return f"{member}.{name}" if member else name


class Weaver:
    """Copies members into the program that `lowering` builds.

    A slot is an equation that the blend redefines; `slots` has the new definitions by name. The
    members use them wherever they used their own equations of these names.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        slots: Mapping[str, ast.Equation],
        world: World,
        lowering: Lowering,
        report: Report,
    ) -> None:
        self._members = members
        self._slots = slots
        self._world = world
        self._lowering = lowering
        self._builder = lowering.builder
        self._report = report
        self._copies: dict[str, dict[Value, Value]] = {name: {} for name in members}
        self._values: dict[Node, Value | None] = {}
        self._environment = world.environment(self._builder)
        # The slots that were shown to be convex combinations.
        self.combinations: list[Combination] = []

    def weave(self) -> None:
        """Make every equation; cycles, which only the blend can create, are reported."""
        uses = {("", slot): self._slot_uses(slot) for slot in self._slots}
        for member in self._members.values():
            uses |= _member_uses(member, self._slots)
        try:
            order = list(graphlib.TopologicalSorter(uses).static_order())
        except graphlib.CycleError as error:
            self._report_cycle(list(reversed(error.args[1]))[:-1])
            return
        for node in order:
            self._values[node] = self._make(*node)

    def value(self, member: str, name: str) -> Value | None:
        """An equation of a member in the blend, which is a slot if the blend redefines it."""
        return self._values.get(("", name) if name in self._slots else (member, name))

    def states(self) -> list[State]:
        """The members' states under their qualified names, and inputs under their own."""
        found, inputs = list[State](), dict[str, State]()
        for member in self._members.values():
            for state in member.program.states:
                if state.input:
                    inputs[state.name] = self._input(state)
                    continue
                after = self._copied(member, state.next)
                initial = self._copied(member, state.initial)
                if after is not None and initial is not None:
                    self._check_type(member, state, after)
                    name = qualified(member.name, state.name)
                    own = state.origins or (state.name,)
                    origins = tuple(qualified(member.name, o) for o in own)
                    kept = State(name, state.type, initial, after, origins, codec=state.codec)
                    found.append(kept)
        return [*found, *inputs.values()]

    def axes(self) -> tuple[tuple[str, Value], ...]:
        """The axes that members declare; those of one name are equal."""
        found: dict[str, Value] = {}
        for member in self._members.values():
            for axis, length in member.program.axes:
                value = self._copied(member, length)
                if value is not None:
                    found[axis] = value
        return tuple(found.items())

    def _input(self, state: State) -> State:
        """An input, which members that call theirs by the same name have in common."""
        kept = self._builder.emit("state", attribute=state.name, type=state.type, hint=state.name)
        return replace(state, initial=self._builder.constant(0.0), next=kept)

    def _check_type(self, member: Member, state: State, after: Value) -> None:
        """Report a slot of larger extent than the state that it updates."""
        found = self._builder[after].type
        if not found.fits(state.type):
            slot = self._slots.get(f"{state.name}'")
            self._report.error(
                "type",
                f"`{qualified(member.name, state.name)}` is {state.type.noun}",
                slot.span if slot else member.span,
                label=f"it would become {found.noun}",
                hint="leave this slot to the members",
            )

    def _slot_uses(self, slot: str) -> list[Node]:
        names = (n for n in walk(self._slots[slot].value) if isinstance(n, ast.Name) and n.owner)
        taken = dict.fromkeys((n.owner, n.unowned) for n in names)
        known = {m: member.equations for m, member in self._members.items()}
        return [(m, n) for m, n in taken if n in known.get(m, ())]

    def _make(self, member: str, name: str) -> Value | None:
        if not member:
            return self._slot(name)
        owner = self._members[member]
        definition = owner.program.operations[owner.equations[name]]
        value = self._copied(owner, definition.arguments[0])
        if value is None:
            return None
        return self._builder.emit(
            "define",
            value,
            attribute=qualified(member, name),
            hint=f"{name}_{member.lower()}" if name in self._slots else name,
            span=definition.span,
        )

    def _slot(self, name: str) -> Value | None:
        """The blend's own definition, once it is shown to be a convex combination."""
        equation = self._slots[name]
        taken = {qualified(*node): self._values[node] for node in self._slot_uses(name)}
        value = self._lowering.expression(equation.value, {**self._environment, **taken})
        value = self._world.known(self._builder, value)
        originals = {spelled: v for spelled, v in taken.items() if v is not None}
        if value is None or len(originals) < len(taken):
            return None
        own = self._world.declared
        program = Program(
            hypers=tuple(own.hypers.values()),
            operations=self._builder.operations,
            simplexes=own.simplexes,
        )
        found = combination(name, equation, program, value, originals, self._report)
        if found is not None:
            self.combinations.append(found)
            mean = mixture(self._builder, own.simplexes, value, set(originals.values()))
            if mean is None:
                self._report.error(
                    "convex",
                    f"`{name}` is not written as a sum of parts with weights",
                    equation.value.span,
                    label="it cannot be taken apart",
                    hint="write for instance `w * A.x + (1 - w) * B.x`",
                )
                return None
            self._check_rounding(name, equation, mean, set(originals.values()))
            value = mean
        return self._builder.emit("define", value, attribute=name, hint=name, span=equation.span)

    def _check_rounding(
        self, slot: str, equation: ast.Equation, mean: Value, parts: set[Value]
    ) -> None:
        """Report weights that sum to one over the reals, but not in double precision."""
        operations = self._builder.operations
        program = Program(operations=operations)
        own = self._world.declared
        defaults = {name: h.default for name, h in own.hypers.items()}
        inside = {h for s in own.simplexes for h in s.hypers}
        bounds = {n: hull(h.domain) for n, h in own.hypers.items() if n not in inside}
        finite = {n: b for n, b in bounds.items() if b.upper - b.lower < math.inf}
        ends = [{n: b.upper for n, b in finite.items()}, {n: b.lower for n, b in finite.items()}]
        points = [defaults, *(defaults | end for end in ends)]
        mixes = upstream(operations, (mean,), stop=parts)
        for mix in (operations[v] for v in mixes if operations[v].opcode == "mix"):
            for at in points:
                rounded = [number(program, w, at) for w in mix.arguments[0::2]]
                if not abs(sum(rounded) - 1) <= SUM_TOLERANCE:
                    self._report.error(
                        "convex",
                        f"the weights of `{slot}` do not sum to one once they are rounded",
                        equation.value.span,
                        label=f"rounded they are {', '.join(f'{x:g}' for x in rounded)}",
                        hint="write the weights with smaller factors",
                    )
                    return

    def _copied(self, member: Member, root: Value) -> Value | None:
        """A value of a member's program in the blend's; None after a mistake."""
        copies = self._copies[member.name]
        equations = member.equations
        for index in upstream(member.program.operations, (root,), stop=set(equations.values())):
            operation = member.program.operations[index]
            arguments = [copies.get(a) for a in operation.arguments]
            if index in equations.values():
                value = self.value(member.name, str(operation.attribute))
            elif operation.opcode == "hyper":
                value = self._world.value(self._lowering, member.name, str(operation.attribute))
            else:
                value = self._copy(member, operation, arguments)
            if value is not None:
                copies[index] = value
        return copies.get(root)

    def _copy(
        self, member: Member, operation: Operation, arguments: list[Value | None]
    ) -> Value | None:
        """An operation of a member that is not one of its equations."""
        found = tuple(a for a in arguments if a is not None)
        if len(found) < len(arguments):
            return None
        inputs = {s.name for s in member.program.states if s.input}
        named = operation.opcode in {"state", "define"} and operation.attribute not in inputs
        if named or TABLE[operation.opcode].stage is Stage.TOTAL:
            name = qualified(member.name, str(operation.attribute))
            operation = replace(operation, attribute=name)
        try:
            return self._builder.copy(operation, found)
        except TypeMismatch as error:
            span = operation.span or member.span
            self._report.error(
                "type",
                f"{error.message}, once `{member.name}` uses the slots of the blend",
                span,
                label="a slot has another type than the equation it replaces",
                hint="leave this slot to the members",
            )
            return None

    def _report_cycle(self, cycle: list[Node]) -> None:
        start = next(i for i, (member, _) in enumerate(cycle) if not member)
        cycle = cycle[start:] + cycle[:start]
        spelled = [f"`{qualified(*node)}`" for node in cycle]
        notes = [
            Note(
                f"through {text}",
                self._members[member].span_of(name) if member else self._slots[name].span,
            )
            for (member, name), text in zip(cycle[1:], spelled[1:], strict=True)
        ]
        self._report.error(
            "blend-cycle",
            f"{spelled[0]} depends on itself once the members are blended",
            self._slots[cycle[0][1]].span,
            label=" -> ".join([*spelled, spelled[0]]),
            notes=notes,
            hint="leave one of these slots to the members",
        )


def _member_uses(member: Member, slots: Collection[str]) -> dict[Node, list[Node]]:
    """The equations that each equation of a member uses, slots in the place of its own."""
    equations = member.equations
    names = {value: name for name, value in equations.items()}
    uses: dict[Node, list[Node]] = {}
    for name, value in equations.items():
        inner = member.program.operations[value].arguments[0]
        found = upstream(member.program.operations, (inner,), stop=names)
        used = [names[v] for v in found if v in names]
        uses[member.name, name] = [("" if n in slots else member.name, n) for n in used]
    return uses
