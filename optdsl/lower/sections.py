"""Sections become one program: where they differ, it chooses by the number of the section.

Each section is lowered by itself first. What all of its sections name alike is one equation of the
program, so that modifiers and blends see ``update`` and not one of each section.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from optdsl.diagnostics import Note, Report, Span, nearest
from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import NEUTRAL, TABLE
from optdsl.ir.program import Operation, Program, State, Value, upstream
from optdsl.ir.sections import KINDS, OTHERWISE
from optdsl.ir.types import Type
from optdsl.lower.scope import Scope
from optdsl.syntax import ast

# Words of kinds that a shape decides, here or in a later version.
_OF_SHAPES = frozenset(
    {"matrices", "matrix", "vectors", "vector", "tensors", "convolutions", "wide", "all"}
)


def check_sections(scope: Scope) -> None:
    """Report sections that no tensor can reach, and statements after a whole rule."""
    seen: dict[str, Span] = {}
    closed: ast.Section | None = None
    for node in scope.declaration.statements:
        if isinstance(node, ast.Section):
            if node.kind in seen or OTHERWISE in seen:
                first = node.kind if node.kind in seen else OTHERWISE
                scope.report.error(
                    "section",
                    "no tensor reaches this section",
                    node.span,
                    label="an earlier one takes them all",
                    notes=[Note("here", seen[first])],
                    hint="sections are tried in their order",
                )
            _check_kind(scope, node)
            seen.setdefault(node.kind, node.span)
            closed = node if node.rule is not None else None
        elif closed is not None and isinstance(node, ast.State | ast.Equation | ast.Random):
            assert closed.rule is not None
            scope.report.error(
                "section",
                f"`{closed.rule.text}` is a whole rule",
                node.name.span,
                label="nothing can be added to it here",
                notes=[Note("the tensors that no section takes get it", closed.span)],
                hint="move this above the first section, or into another one",
            )
    scope.report.check()


def _check_kind(scope: Scope, node: ast.Section) -> None:
    """Report a kind that looks like one of those that shapes decide.

    No tensor would come to its section unless a group sent it there, which would go unnoticed.
    """
    kind = node.kind
    if kind in {*KINDS, OTHERWISE}:
        return
    near = nearest(kind, KINDS)
    if not near and _OF_SHAPES.isdisjoint(kind.split()):
        return
    scope.report.error(
        "section",
        f"`{kind}` is no kind of tensor",
        node.span,
        hint=near
        or "the kinds are matrices, flattened or stacked matrices, flattened or stacked "
        "convolutions, these with `wide` before them, and vectors; a name of your own, such as "
        "`embeddings`, takes what parameter groups send there",
    )


class _Cycle(Exception):
    """Equations of some names depend on one another in two sections in opposite ways."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


def _report_circle(total: Operation) -> None:
    """Report a sum over all tensors that depends on itself by way of several sections."""
    report = Report()
    assert total.span is not None
    report.error(
        "cycle",
        "a sum over all tensors depends on itself",
        total.span,
        label="what tensors of one section add to it depends on those of another one",
        hint="use a state, which has the sum of the step before",
    )
    report.check()


def joined(kinds: Sequence[str], labels: Sequence[str], parts: Sequence[Program]) -> Program:
    """The program of a rule with sections.

    Args:
        kinds: the kind of each section.
        labels: what tells the states of a section from those of another one, where they have one
            name and different types.
        parts: the program of each section; hyperparameters of one name are the same.
    """
    apart: set[str] = set()
    while True:
        try:
            return _Join(kinds, _separated(labels, parts), apart).program()
        except _Cycle as cycle:
            apart.add(cycle.name)


def joined_by(
    condition: Callable[[Builder], Value], labels: Sequence[str], parts: Sequence[Program]
) -> Program:
    """The program of a rule that is one of two programs of a kind, for each shape one of them.

    Args:
        condition: makes the condition for the second one.
        labels: tells states of the second one from those of the first one, as in `joined`.
        parts: the two programs.
    """
    first = parts[0]
    apart: set[str] = set()
    while True:
        try:
            found = _Join(labels, _separated(labels, parts), apart, condition).program()
        except _Cycle as cycle:
            apart.add(cycle.name)
            continue
        states = tuple(replace(s, sections=()) for s in found.states)
        return replace(found, sections=(), kind=first.kind, states=states)


def _separated(labels: Sequence[str], parts: Sequence[Program]) -> list[Program]:
    """The parts with other names for states of one name that are not one state."""
    found: list[Program] = []
    types: dict[str, tuple[Type, str]] = {}
    for label, part in zip(labels, parts, strict=True):
        renamed = {}
        for state in part.states:
            own = state.type, state.codec
            first = types.setdefault(state.name, own)
            if first != own:
                name = f"{label.replace(' ', '_').lower()}_{state.name}"
                while name in types:
                    name += "_"
                types[name] = own
                renamed[state.name] = name
        found.append(_renamed(part, renamed) if renamed else part)
    return found


def _renamed(program: Program, names: Mapping[str, str]) -> Program:
    """A program with other names for states."""
    new = {**names, **{f"{name}'": f"{own}'" for name, own in names.items()}}
    operations = tuple(
        replace(o, attribute=new[str(o.attribute)], hint=new[str(o.attribute)])
        if o.opcode in {"state", "define"} and str(o.attribute) in new
        else o
        for o in program.operations
    )
    states = tuple(replace(s, name=names.get(s.name, s.name)) for s in program.states)
    return replace(program, operations=operations, states=states)


class _Join:
    """Makes one program of the programs of sections."""

    def __init__(
        self,
        kinds: Sequence[str],
        parts: Sequence[Program],
        apart: set[str],
        condition: Callable[[Builder], Value] | None = None,
    ) -> None:
        self._condition = condition
        self._kinds, self._parts, self._apart = kinds, parts, apart
        self._builder = Builder()
        self._equations = [part.equations for part in parts]
        self._copies: list[dict[Value, Value]] = [{} for _ in parts]
        self._joint: dict[str, Value] = {}
        self._making: list[str] = []
        self._sums: dict[str, Value] = {}
        self._totals = [
            [Value(v) for v, o in enumerate(p.operations) if TABLE[o.opcode].stage is Stage.TOTAL]
            for p in parts
        ]

    def program(self) -> Program:
        """The program."""
        parameter = self._chosen(dict(enumerate(p.parameter for p in self._parts)))
        point = self._point()
        states: dict[str, dict[int, State]] = {}
        for number, part in enumerate(self._parts):
            for state in part.states:
                states.setdefault(state.name, {})[number] = state
        found = [self._state(name, own) for name, own in states.items()]
        for number, equations in enumerate(self._equations):
            for value in equations.values():
                self._copied(number, value)
        lengths: dict[str, dict[int, Value]] = {}
        for number, part in enumerate(self._parts):
            for axis, length in part.axes:
                lengths.setdefault(axis, {})[number] = length
        axes = [(axis, self._chosen(own)) for axis, own in lengths.items()]
        first = self._parts[0]
        hypers = {h.name: h for part in self._parts for h in part.hypers}
        learned = {x.hyper: x for part in self._parts for x in part.learned}
        simplexes = {x.name: x for part in self._parts for x in part.simplexes}
        structure = {name: x for part in self._parts for name, x in part.structure}
        return Program(
            first.name,
            first.documentation,
            tuple(hypers.values()),
            tuple(learned.values()),
            self._builder.operations,
            tuple(found),
            parameter,
            simplexes=tuple(simplexes.values()),
            sections=tuple(self._kinds),
            evaluation=point,
            structure=tuple(structure.items()),
            codec=first.codec,
            axes=tuple(axes),
        )

    def _point(self) -> Value | None:
        """Where the model is evaluated: at the parameter where a section does not say."""
        points = {n: p.evaluation for n, p in enumerate(self._parts) if p.evaluation is not None}
        if not points:
            return None
        copies = {n: self._builder.emit("parameter") for n in range(len(self._parts))}
        return self._among(copies | {n: self._copied(n, value) for n, value in points.items()})

    def _state(self, name: str, own: dict[int, State]) -> State:
        everywhere = len(own) == len(self._parts)
        first = next(iter(own.values()))
        return State(
            name,
            first.type,
            self._chosen({n: s.initial for n, s in own.items()}),
            self._chosen({n: s.next for n, s in own.items()}),
            tuple(dict.fromkeys(o for state in own.values() for o in state.origins)),
            () if everywhere else tuple(own),
            first.input,
            first.codec,
        )

    def _chosen(self, values: Mapping[int, Value]) -> Value:
        """A value that some sections have, each its own: the one of a tensor's section."""
        copies = {number: self._copied(number, value) for number, value in values.items()}
        return self._among(copies)

    def _among(self, copies: Mapping[int, Value]) -> Value:
        numbers = list(copies)
        found = copies[numbers[-1]]
        for number in reversed(numbers[:-1]):
            if copies[number] != found:
                found = self._where(number, copies[number], found)
        return found

    def _where(self, number: int, here: Value, elsewhere: Value) -> Value:
        """One value for the tensors of a section, and another one for those of later ones."""
        builder = self._builder
        if self._condition is not None:
            return builder.emit("where", self._condition(builder), elsewhere, here)
        own = builder.emit("eq", builder.emit("section"), builder.constant(number))
        return builder.emit("where", own, here, elsewhere)

    def _copied(self, number: int, root: Value) -> Value:
        """A value of a section in the program, with joint equations in their places."""
        part, copies = self._parts[number], self._copies[number]
        named = {v: n for n, v in self._equations[number].items()}
        for value in upstream(part.operations, (root,), stop=named):
            if value in copies:
                continue
            operation = part.operations[value]
            if value in named:
                copies[value] = self._equation(number, named[value])
            elif TABLE[operation.opcode].stage is Stage.TOTAL:
                copies[value] = self._total(str(operation.attribute), operation)
            else:
                arguments = tuple(copies[a] for a in operation.arguments)
                copies[value] = self._builder.copy(operation, arguments)
        return copies[root]

    def _total(self, name: str, operation: Operation) -> Value:
        """A sum over the tensors of all sections that have it; those of others add nothing."""
        if name in self._sums:
            return self._sums[name]
        place = f"{name} over all"
        if place in self._making:
            inside = self._making[self._making.index(place) :]
            circle = next((n for n in reversed(inside) if not n.endswith(" over all")), None)
            if circle is not None:
                raise _Cycle(circle)
            _report_circle(operation)
        self._making.append(place)
        having: dict[int, Value] = {}
        for number, part in enumerate(self._parts):
            found = [v for v in self._totals[number] if part.operations[v].attribute == name]
            if found:
                (argument,) = part.operations[found[0]].arguments
                having[number] = self._copied(number, argument)
        kinds = {self._builder[v].type for v in having.values()}
        combined = TABLE[operation.opcode].combined
        if len(kinds) > 1:
            # What extends along other axes in another section is added up first.
            having = {n: self._summed(v, combined) for n, v in having.items()}
        if len(having) < len(self._parts):
            nothing = self._builder.constant(NEUTRAL[combined])
            having |= {n: nothing for n in range(len(self._parts)) if n not in having}
        found_sum = self._among(dict(sorted(having.items())))
        self._making.pop()
        self._sums[name] = self._builder.copy(operation, (found_sum,))
        return self._sums[name]

    def _summed(self, value: Value, combined: str) -> Value:
        reduction = "sum" if combined == "add" else "max_matrix"
        return self._builder.emit(reduction, value) if self._builder[value].type.spans else value

    def _equation(self, number: int, name: str) -> Value:
        """An equation of a section: one for all sections that have it, if the types agree."""
        if name in self._joint:
            return self._joint[name]
        having = {n: e[name] for n, e in enumerate(self._equations) if name in e}
        kinds = {self._parts[n].type(v) for n, v in having.items()}
        if name in self._apart or len(kinds) > 1:
            value = self._copied(number, self._argument(number, name))
            return self._named(value, f"{self._kinds[number]}.{name}", name)
        if name in self._making:
            raise _Cycle(name)
        self._making.append(name)
        found = self._among({n: self._copied(n, self._argument(n, name)) for n in having})
        self._making.pop()
        self._joint[name] = self._named(found, name, name)
        return self._joint[name]

    def _argument(self, number: int, name: str) -> Value:
        part = self._parts[number]
        return part.operations[self._equations[number][name]].arguments[0]

    def _named(self, value: Value, label: str, hint: str) -> Value:
        return self._builder.emit("define", value, attribute=label, hint=hint)
