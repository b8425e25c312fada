"""Initial values of states whose gradient, or hyperparameters, modifiers have redefined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import State, Value, upstream
from optdsl.ir.types import TypeMismatch


def started(
    states: Sequence[State], builder: Builder, refuse: Callable[[str, str], None]
) -> list[State]:
    """The states with initial values that are known before the first step.

    An initial value may use the gradient, and so, by way of modifiers, other states and `t`. It is
    what the first step finds: states at their own initial values, and `t` at 1.

    Args:
        states: the states, with initial values in the builder.
        builder: receives the new ones.
        refuse: is told the name of a state that has no initial value, and why; it is left out.
    """
    return _Start(states, builder, refuse).states()


class _Start:
    def __init__(
        self, states: Sequence[State], builder: Builder, refuse: Callable[[str, str], None]
    ) -> None:
        self._states, self._builder, self._refuse = states, builder, refuse
        self._by_name = {s.name: s for s in states}
        self._first: dict[str, Value | None] = {}
        self._making: list[str] = []

    def states(self) -> list[State]:
        """The states that have an initial value."""
        found = [(s, self._of(s.name)) for s in self._states]
        return [replace(s, initial=value) for s, value in found if value is not None]

    def _of(self, name: str) -> Value | None:
        """The initial value of a state."""
        if name in self._making:
            self._refuse(name, "it depends on itself")
            return None
        if name not in self._first:
            self._making.append(name)
            self._first[name] = self._at_start(self._by_name[name].initial, name)
            self._making.pop()
        return self._first[name]

    def _input(self, values: Sequence[Value]) -> str:
        """The name of an input among some values, or that is asked for; empty for none."""
        for operation in (self._builder[v] for v in values):
            name = str(operation.attribute)
            read = operation.opcode == "state" and self._by_name[name].input
            if read or operation.opcode == "given":
                return name
        return ""

    def _at_start(self, root: Value, name: str) -> Value | None:
        """A value as it is at the first step; None, which is told, where it has none."""
        builder = self._builder
        operations = builder.operations
        needed = upstream(operations, (root,))
        if not self._by_name[name].input and (asked := self._input(needed)):
            self._refuse(name, f"`{asked}` is an input, which is given to steps only")
            return None
        if not any(operations[v].opcode in {"state", "step"} for v in needed):
            return root
        new: dict[Value, Value] = {}
        for value in needed:
            operation = operations[value]
            if operation.opcode == "state":
                found = self._of(str(operation.attribute))
                if found is None:
                    return None
                new[value] = found
            elif operation.opcode == "step":
                new[value] = builder.constant(1.0)
            elif operation.opcode == "define":
                new[value] = new[operation.arguments[0]]
            else:
                if TABLE[operation.opcode].stage is Stage.TOTAL:
                    operation = replace(operation, attribute=f"{operation.attribute}/start")
                try:
                    new[value] = builder.copy(operation, tuple(new[a] for a in operation.arguments))
                except TypeMismatch as error:
                    self._refuse(name, error.message)
                    return None
        return new[root]
