"""Which equations of two rules differ, for readers."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from optdsl.algebra.normal_form import Algebra, TooMuchWork
from optdsl.algebra.polynomial import Polynomial
from optdsl.ir.builder import Builder, TooManyOperations
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Program, Value, upstream
from optdsl.prove.equations import equation, sizes


def different_equations(saved: Program, own: Program, states: list[str], where: str) -> list[str]:
    """The equations that differ, a line each, as seen from the results that both rules have.

    Args:
        saved: one rule, reduced to what it means.
        own: the other one, which is here.
        states: the names of the states that both have.
        where: where the first one is.
    """
    wanted = ["theta'", *(f"{s}'" for s in states), *(f"{s} at first" for s in states)]
    algebra = Algebra()
    try:
        sides = [_Named(program) for program in (saved, own)]
        shared = [name for name in sides[0].values if name in sides[1].values]
        whole = [side.forms(algebra, wanted, ()) for side in sides]
        if all(whole[0][name] == whole[1][name] for name in wanted):
            return []
        # Each equation by itself: those that only read what differs are the same.
        apart = [side.forms(algebra, shared, shared) for side in sides]
    except (TooManyOperations, TooMuchWork):
        return ["the equations are too large to be compared, and are not the same to the letter"]
    needed = [set(side.needed(wanted)) for side in sides]
    lines: list[str] = []
    different: list[str] = []
    for name in shared:
        if apart[0][name] != apart[1][name] and any(name in names for names in needed):
            different.append(name)
            lines.append(f"{where}  {sides[0].text(name)}")
            lines.append(f"{'here':<{len(where)}}  {sides[1].text(name)}")
    for side, place in zip(sides, (where, "here"), strict=True):
        extra = side.needed(different, known=shared)
        lines += [f"only {place}: {side.text(name)}" for name in extra]
    return lines


class _Named:
    """A program whose equations have their readers' names again, and so have its results.

    Attributes:
        values: the named equations.
    """

    def __init__(self, program: Program) -> None:
        results = [("theta'", program.parameter)]
        for state in program.states:
            results += [(f"{state.name}'", state.next), (f"{state.name} at first", state.initial)]
        taken = {name for name, _ in results}
        hints = Counter(o.hint for o in program.operations if o.hint and not TABLE[o.opcode].leaf)
        names: dict[Value, list[str]] = defaultdict(list)
        for index, operation in enumerate(program.operations):
            hint = operation.hint
            if hint is not None and hints[hint] == 1 and hint not in taken:
                names[Value(index)].append(hint)
        for name, value in results:
            names[value].append(name)
        builder, new = Builder(), list[Value]()
        self.values: dict[str, Value] = {}
        for index, operation in enumerate(program.operations):
            value = builder.copy(operation, tuple(new[a] for a in operation.arguments))
            chosen = names[Value(index)]
            for name in chosen:
                self.values[name] = builder.emit("define", value, attribute=name)
            # A number, the gradient and their like are read as what they are.
            leaf = TABLE[operation.opcode].leaf
            new.append(self.values[chosen[0]] if chosen and not leaf else value)
        self._program = replace(program, operations=builder.operations)

    def forms(
        self, algebra: Algebra, names: Iterable[str], opaque: Iterable[str]
    ) -> Mapping[str, Polynomial]:
        """The normal forms of equations, where others are nothing but their names."""
        hidden = {self.values[name] for name in opaque}
        inner = {name: self._inner(name) for name in names}
        found = algebra.forms(self._program, inner.values(), None, hidden)
        return {name: found[value] for name, value in inner.items()}

    def needed(self, names: Iterable[str], known: Collection[str] = ()) -> list[str]:
        """The equations that others are made from, but for what `known` ones are made from.

        Without any that are known, the others are among them.
        """
        stop = {self.values[name] for name in known}
        roots = [self._inner(name) if name in known else self.values[name] for name in names]
        needed = set(upstream(self._program.operations, roots, stop)) - stop
        return [name for name, value in self.values.items() if value in needed]

    def _inner(self, name: str) -> Value:
        return self._program.operations[self.values[name]].arguments[0]

    def text(self, name: str) -> str:
        """An equation in the language."""
        return equation(self._program, self.values[name], self._sizes)

    @functools.cached_property
    def _sizes(self) -> list[int]:
        return sizes(self._program)
