"""Late binding: a rule's program copied, with the slots that modifiers redefine in their places.

A slot has levels: level 0 is the rule's own definition, and each modifier that redefines the slot
adds one, in the order in which modifiers are written. ``base.x`` is the level below the modifier's
own where it redefines ``x``, and else the highest level, which is also what every use in the rule
sees.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from optdsl.diagnostics import Note, Report, Span
from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, State, Value, upstream
from optdsl.ir.types import LENGTHS, TypeMismatch
from optdsl.lower.evaluation import EVALUATION, check_evaluation
from optdsl.lower.expressions import Lowering
from optdsl.lower.randoms import draw
from optdsl.lower.resolve import compared_labels, resolve_expression, resolve_initial, walk
from optdsl.lower.scope import BUILTINS, NUMBERS, Scope
from optdsl.lower.types import state_type
from optdsl.modifying.axes import copied_axes
from optdsl.modifying.initial import started
from optdsl.modifying.inputs import inputs, leaf
from optdsl.modifying.mistakes import Node, misfit, report_cycle
from optdsl.modifying.modifier import BASE, Modifier
from optdsl.modifying.slots import (
    AFTER,
    EVERYWHERE,
    GRADIENT,
    UPDATE,
    after_step,
    check_base,
    check_slots,
)
from optdsl.syntax import ast

# What stands in a modifier without an owner is the finished rule's.
_FINISHED = frozenset({GRADIENT, UPDATE})


class Weaver:
    """Makes the program of a rule with its modifiers, for one kind of tensors."""

    def __init__(
        self,
        declaration: ast.Declaration,
        base: Program,
        applied: Sequence[Modifier],
        report: Report,
        choices: Mapping[str, float] = MappingProxyType({}),
        whole: bool = False,
    ) -> None:
        """Make a weaver.

        Args:
            declaration: the file.
            base: the rule, for one kind of tensors.
            applied: the modifiers that there are for this kind, each with the section that holds.
            report: receives the mistakes.
            choices: the values of hyperparameters at which recursion may be decided.
            whole: whether reductions of modifiers are over all matrices of a stack; those in
                sections for matrices are over one matrix.
        """
        self._declaration, self._base = declaration, base
        self._applied, self._report = applied, report
        self._equations = {n: v for n, v in base.equations.items() if "." not in n}
        self._states = {s.name: s for s in base.states}
        self._builder, self._hypers = Builder(), {h.name for h in base.hypers}
        # The modifiers that redefine each slot, by their places.
        self._definers: dict[str, list[int]] = {}
        for place, one in enumerate(applied):
            for slot in one.slots:
                self._definers.setdefault(slot, []).append(place)
        self._values: dict[Node, Value | None] = {}
        self._making: list[Node] = []
        self._copies: dict[Value, Value | None] = {}
        # The names of equations that are taken; a slot keeps its own for its highest level.
        self._labels = set(base.equations)
        # A matrix of a stack is not a tensor, whose norm, say, a modifier means.
        self._lowerings = [
            Lowering(self._scope(m), self._builder, choices, whole and not m.scope.matrices)
            for m in applied
        ]

    def program(self) -> Program:
        """The program.

        Raises:
            SpecError: with every mistake in the report.
            TooManyOperations: it is too large.
        """
        check_slots(self._combination, self._base, self._equations, self._applied, self._report)
        self._report.check()
        parameter = self._slot(UPDATE)
        point = self._point()
        declared = self._declared()
        for place, one in enumerate(self._applied):
            for spelled in one.scope.equations:
                if spelled not in one.slots:
                    self._value(Node(spelled, place=place))
        for slot in self._definers:
            self._slot(slot)
        self._report.check()
        states = started(declared, self._builder, self._refuse_start)
        self._report.check()
        assert parameter is not None
        base, axes = self._base, copied_axes(self._base, self._builder)
        return Program(
            self._declaration.name.text,
            self._declaration.documentation or base.documentation,
            (*base.hypers, *(h for one in self._applied for h in one.hypers)),
            base.learned,
            self._builder.operations,
            tuple(states),
            parameter,
            simplexes=base.simplexes,
            kind=base.kind,
            structure=tuple(self._structure().items()),
            evaluation=point,
            codec=base.codec,
            axes=axes,
        )

    def _structure(self) -> dict[str, float]:
        """The choices that decided what the operations are."""
        found = dict(self._base.structure)
        for lowering in self._lowerings:
            found |= lowering.structure
        return found

    def _point(self) -> Value | None:
        """The point at which the model is evaluated; None where it is the parameter."""
        definers = self._definers.get(EVALUATION, [])
        if self._base.evaluation is None and not definers:
            return None
        point = self._slot(EVALUATION)
        if point is not None:
            place = self._applied[definers[-1]].application.modifier if definers else None
            span = (place or self._combination.base).span
            check_evaluation(self._builder, point, span, self._report)
        return point

    @property
    def _combination(self) -> ast.Combination:
        node = self._declaration.combination
        assert node is not None
        return node

    # --- values -----------------------------------------------------------------------------------

    def _slot(self, name: str) -> Value | None:
        """What every use of a slot sees: its highest level."""
        return self._value(Node(name, level=len(self._definers.get(name, ()))))

    def _value(self, node: Node) -> Value | None:
        if node in self._values:
            return self._values[node]
        if node in self._making:
            cycle = self._making[self._making.index(node) :]
            report_cycle(cycle, self._definers, self._applied, self._report)
            return None
        self._making.append(node)
        found = self._own(node) if node.level < 0 else self._level(node.name, node.level)
        self._making.pop()
        self._values[node] = found
        return found

    def _level(self, name: str, level: int) -> Value | None:
        if name == AFTER:
            point = self._value(Node(EVALUATION, level))
            if point is None:
                return None
            return after_step(self._builder, point, self._after_step, self._copy)
        definers = self._definers.get(name, [])
        if level == 0:
            found = self._original(name)
        else:
            place = definers[level - 1]
            found = self._expression(place, self._applied[place].equation(name).value, name)
            found = self._fitting(place, name, found)
        given = name == GRADIENT or (name == EVALUATION and self._base.evaluation is None)
        if found is None or (given and not definers):
            return found
        if name in self._hypers and name not in self._equations and level == 0:
            return found
        highest = level == len(definers)
        label = name if highest else f"{BASE}.{name}" if level == 0 else f"{name}.{level}"
        return self._named(found, label, name)

    def _named(self, value: Value, label: str, name: str) -> Value:
        """A value under the name of an equation, which must be the only one of that name."""
        while label != name and label in self._labels:
            label = f"{BASE}.{label}"
        self._labels.add(label)
        return self._builder.emit("define", value, attribute=label, hint=name)

    def _original(self, name: str) -> Value | None:
        """The rule's own definition of a slot."""
        base = self._base
        if name in self._equations:
            return self._copied(base.operations[self._equations[name]].arguments[0])
        if name == GRADIENT:
            return self._builder.emit("gradient", hint=GRADIENT)
        if name == UPDATE:
            return self._copied(base.parameter)
        if name == EVALUATION and base.evaluation is None:
            return self._builder.emit("parameter")
        if name == EVALUATION and base.evaluation is not None:
            return self._copied(base.evaluation)
        return self._builder.emit("hyper", attribute=name, hint=name)

    def _own(self, node: Node) -> Value | None:
        """An equation of a modifier that is not a slot."""
        one = self._applied[node.place]
        found = self._expression(node.place, one.equation(node.name).value, node.name)
        return None if found is None else self._named(found, f"{one.name}.{node.name}", node.name)

    def _expression(self, place: int, node: ast.Expression, own: str) -> Value | None:
        """An expression of a modifier; None after a mistake."""
        one, before = self._applied[place], self._report.count
        names, modifier = self._names(one), one.application.modifier
        check_base(node, names, self._base, self._equations, modifier, self._report)
        if self._report.count > before:
            return None
        resolve_expression(node, self._scope(one), names, own=own)
        if self._report.count > before:
            return None
        environment: dict[str, Value | None] = {}
        labels = compared_labels(node, one.scope)
        for name in walk(node):
            if not isinstance(name, ast.Name) or id(name) in labels:
                continue
            if name.spelled not in {*NUMBERS, *LENGTHS}:
                environment[name.spelled] = self._named_value(place, name)
        if None in environment.values():
            return None
        owner = f"{one.name}.{one.scope.kind}.{own}"
        return self._lowerings[place].expression(node, environment, owner)

    def _names(self, one: Modifier) -> set[str]:
        """The names that the equations of a modifier may use."""
        of_base = {*EVERYWHERE, AFTER, *self._equations, *self._states, *self._hypers}
        return one.scope.values() | {f"{BASE}.{name}" for name in of_base}

    def _named_value(self, place: int, name: ast.Name) -> Value | None:
        """What a name stands for in the equations of a modifier."""
        one, builder = self._applied[place], self._builder
        spelled = name.name + ("'" if name.primed else "")
        if name.owner == BASE:
            definers = self._definers.get(EVALUATION if spelled == AFTER else spelled, [])
            if place in definers:
                return self._value(Node(spelled, level=definers.index(place)))
            if spelled in self._states and not name.primed:
                kind = self._states[spelled].type
                return builder.emit("state", attribute=spelled, type=kind, hint=spelled)
            return self._value(Node(spelled, level=len(definers)))
        if spelled in _FINISHED:
            return self._slot(spelled)
        if spelled in one.slots:
            return self._value(Node(spelled, level=self._definers[spelled].index(place) + 1))
        if spelled in one.values:
            return one.values[spelled].into(builder)
        if spelled in one.hyper_names:
            spelled = one.hyper_names[spelled]
            return builder.emit("hyper", attribute=spelled, hint=spelled)
        if spelled in one.state_names:
            flat, kind = one.state_names[spelled], state_type(one.scope.states[spelled])
            return builder.emit("state", attribute=flat, type=kind, hint=flat)
        if spelled in one.scope.inputs:
            return leaf(one.scope.inputs[spelled], builder)
        if spelled in one.scope.equations:
            return self._value(Node(spelled, place=place))
        if spelled in one.scope.randoms:
            counter = functools.partial(self._expression, place, own=spelled)
            return draw(one.scope.randoms[spelled], counter, self._scope(one), builder, one.name)
        return builder.emit(BUILTINS[spelled], hint=spelled, span=name.span)

    def _scope(self, one: Modifier) -> Scope:
        """The file of a modifier, whose mistakes are reported here."""
        return replace(one.scope, report=self._report)

    # --- the rule's own operations ----------------------------------------------------------------

    def _copied(self, root: Value) -> Value | None:
        """A value of the rule's program in the new one, with slots in their places."""
        operations, copies = self._base.operations, self._copies
        named = {v: n for n, v in self._equations.items()}
        for index in upstream(operations, (root,), stop=named):
            if index in copies:
                continue
            operation = operations[index]
            if index in named:
                copies[index] = self._slot(named[index])
            elif operation.opcode == "gradient" and GRADIENT not in self._equations:
                copies[index] = self._slot(GRADIENT)
            elif operation.opcode == "hyper" and operation.attribute in self._definers:
                copies[index] = self._slot(str(operation.attribute))
            else:
                copies[index] = self._copy(operation, [copies.get(a) for a in operation.arguments])
        return copies[root]

    def _after_step(self, read: Operation) -> Value | None:
        """The parameter or a state after the step."""
        name = str(read.attribute)
        if read.opcode == "parameter":
            return self._slot(UPDATE)
        if name in self._states:
            return self._copied(self._states[name].next)
        own = ((n, s) for n, one in enumerate(self._applied) for s in one.state_names.items())
        found = next(((n, s) for n, (s, flat) in own if flat == name), None)
        if found is None:
            return self._builder.copy(read, ())  # an input
        return self._value(Node(f"{found[1]}'", place=found[0]))

    def _copy(self, operation: Operation, arguments: Sequence[Value | None]) -> Value | None:
        found = tuple(a for a in arguments if a is not None)
        if len(found) < len(arguments):
            return None
        try:
            return self._builder.copy(operation, found)
        except TypeMismatch as error:
            self._report.error(
                "type",
                f"{error.message}, once the modifiers are applied",
                self._combination.base.span,
                label="a modifier gives an equation another type than the rule's own",
                hint="leave out one modifier after the other to find which",
            )
            return None

    def _fitting(self, place: int, name: str, value: Value | None) -> Value | None:
        """The value, if the rule can have it in that place; else None, and a diagnostic."""
        if value is None:
            return None
        kind = self._builder[value].type
        message = misfit(kind, name, self._base, self._equations)
        if not message:
            return value
        self._error(place, "type", message, self._applied[place].equation(name).value.span,
                    f"it would become {kind.noun}")  # fmt: skip
        return None

    # --- states -----------------------------------------------------------------------------------

    def _declared(self) -> list[State]:
        """The states, with initial values that may still use other states and `t`."""
        found = [self._base_state(s) for s in self._base.states]
        for place, one in enumerate(self._applied):
            found += [self._own_state(place, name) for name in one.scope.states]
        found += inputs(self._base, self._applied, self._builder)
        return [s for s in found if s is not None]

    def _base_state(self, state: State) -> State | None:
        after, first = self._copied(state.next), self._copied(state.initial)
        if after is None or first is None:
            return None
        return replace(state, initial=first, next=after)

    def _own_state(self, place: int, name: str) -> State | None:
        one = self._applied[place]
        node, spelled, before = one.scope.states[name], f"{name}'", self._report.count
        allowed = {GRADIENT, "theta", *LENGTHS, *one.scope.hypers}
        allowed |= {f"{BASE}.{x}" for x in (GRADIENT, *self._hypers)}
        resolve_initial(node, self._scope(one), allowed)
        if self._report.count > before:
            return None
        first = self._expression(place, node.initial, name)
        after = self._value(Node(spelled, place=place))
        if first is None or after is None:
            return None
        kind = state_type(node)
        for value, span in ((first, node.initial.span), (after, one.equation(spelled).value.span)):
            found = self._builder[value].type
            if not found.fits(kind) or found.condition:
                label = f"it would become {found.noun}"
                self._error(place, "type", f"`{name}` is {kind.noun}", span, label)
                return None
        return State(one.state_names[name], kind, first, after)

    def _refuse_start(self, name: str, why: str) -> None:
        self._report.error(
            "initial-value",
            f"`{name}` has no initial value once the modifiers are applied",
            self._combination.base.span,
            label=why,
            hint="start a state of the modifier from a number, or from `theta`",
        )

    # --- mistakes ---------------------------------------------------------------------------------

    def _error(self, place: int, code: str, message: str, span: Span, label: str) -> None:
        applied = self._applied[place].application.modifier
        self._report.error(
            code, message, span, label=label, notes=[Note("applied here", applied.span)]
        )
