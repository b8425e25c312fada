"""The variables of a step of many tensors at once, and which memory it may write to."""

from __future__ import annotations

import abc
from collections.abc import Iterable

from optdsl.backends.naming import Names, identifier
from optdsl.backends.python_expressions import Printer
from optdsl.backends.standalone.groupable import finite_part, uniform, users
from optdsl.backends.standalone.terms import Terms
from optdsl.ir.program import Value, upstream
from optdsl.schedule import Kernel, Result


class Lists(Terms, abc.ABC):
    """The values of a step in lists of tensors, one for each parameter."""

    def __init__(
        self, kernel: Kernel, printer: Printer, states: dict[str, str], names: Names
    ) -> None:
        """Nothing is computed yet.

        Args:
            kernel: the step.
            printer: spells numbers.
            states: the variables of the states.
            names: those that are taken.
        """
        super().__init__(kernel, printer)
        self._states, self._taken = states, names
        self._variables: dict[Value, str] = {}
        self._computed: set[Value] = set()
        # What may be the memory of something else, and so is not written to.
        self._unowned: set[Value] = set()
        self._lines: list[str] = []
        for result in kernel.results:
            self._note_sides(result.value, result)

    def _note_sides(self, value: Value, result: Result) -> None:
        """A side of a choice that is a result may be computed in the result's memory, too."""
        operation = self._operation(value)
        if operation.opcode != "where" or not uniform(self._kernel, operation.arguments[0]):
            return
        for side in operation.arguments[1:]:
            if self._uses[side] == 1 and self._operation(side).arguments:
                self._results.setdefault(side, result)
                self._note_sides(side, result)

    def _follows_the_parameter(self, values: Iterable[Value]) -> bool:
        """Whether values may be infinite where the parameter is."""
        finite = {v for v in self._kernel.body if finite_part(self._kernel, v)}
        behind = upstream(self._program.operations, values, finite)
        return any(self._operation(v).opcode == "parameter" for v in behind if v not in finite)

    @abc.abstractmethod
    def _compute(self, value: Value) -> None:
        """The statements that compute a value."""

    def _into(
        self, value: Value, call: str, first: Value, rest: list[str], inside: set[Value]
    ) -> str:
        """A call, in the memory of its first argument if nothing else needs that."""
        target = self._variable(first)
        arguments = ", ".join([target, *rest])
        if target not in rest and self._consumable(first, value, inside):
            self._lines.append(f"torch._foreach_{call}_({arguments})")
            self._variables[value] = target
            return target
        name = self._fresh(value)
        self._lines.append(f"{name} = torch._foreach_{call}({arguments})")
        return name

    def _materialized(self, value: Value) -> Value:
        """A value that has a variable now."""
        if value in self._lazy:
            del self._lazy[value]
            self._compute(value)
        return value

    def _variable(self, value: Value) -> str:
        operation = self._operation(value)
        if value in self._lazy:
            self._materialized(value)
        if value in self._variables:
            return self._variables[value]
        match operation.opcode:
            case "parameter":
                return "theta"
            case "gradient":
                return "g"
            case _:
                return self._states[str(operation.attribute)]

    def _fresh(self, value: Value) -> str:
        hint = self._operation(value).hint
        wanted = identifier(hint) if hint is not None else self._printer.description(value)
        self._variables[value] = self._taken.fresh(wanted)
        return self._variables[value]

    def _consumable(self, value: Value, user: Value, inside: set[Value]) -> bool:
        """Whether a value's memory may be overwritten by one that uses it."""
        operation = self._operation(value)
        if value in self._unowned or value in self._results:
            return False
        if operation.opcode == "gradient":
            return False
        result = self._results.get(user)
        if operation.opcode == "parameter" and (result is None or result.name != "theta"):
            return False
        if operation.opcode == "state" and (result is None or result.name == "theta"):
            return False
        if self._program.type(value).extent is not self._program.type(user).extent:
            return False
        done = self._computed | inside | {user}
        return all(u in done for u in users(self._kernel, value))
