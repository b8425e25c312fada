"""Which memory the values of a piece lie in, and which of it may be written to."""

from __future__ import annotations

from collections.abc import Sequence

from optdsl.backends.naming import Names
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel, Result

# The variables of what a piece has.
PARAMETER, GRADIENT = "theta", "g"


class PieceMemory:
    """The memory of a piece: its parameter, gradient and states, and more for values in between.

    Attributes:
        states: the variables of the states, by name.
        slots: the variables of the memory for values in between.
    """

    def __init__(self, kernel: Kernel, states: dict[str, str], names: Names) -> None:
        """Nothing is computed yet.

        Args:
            kernel: the step.
            states: the variables of the states.
            names: those that are taken.
        """
        self._program, self._kernel = kernel.program, kernel
        self._operations = kernel.program.operations
        self.states, self._names = states, names
        self.slots: list[str] = []
        self._free: list[str] = []
        self._results = {r.value: r for r in reversed(kernel.results)}
        self._users: dict[Value, set[Value]] = {}
        for value in kernel.body:
            for argument in self._operations[value].arguments:
                self._users.setdefault(argument, set()).add(value)
        self._done: set[Value] = set()
        # The memory that a value may be in, and the values that may be in a memory.
        self._where: dict[Value, frozenset[str]] = {}
        self._inside: dict[str, set[Value]] = {}
        # What may also be in memory of its own, and so is not written to.
        self._loose: set[Value] = set()
        for value in kernel.body:
            if not self._operations[value].arguments:
                self._place(value, {self._of_leaf(value)})
        self._passed_over = self._conditions_of_finite_parts()
        self._done |= self._passed_over

    def _of_leaf(self, value: Value) -> str:
        operation = self._operations[value]
        leaves = {"parameter": PARAMETER, "gradient": GRADIENT}
        return leaves.get(operation.opcode) or self.states[str(operation.attribute)]

    def finite_part(self, value: Value) -> bool:
        """Whether a value is its argument, or 0 where that is not finite."""
        operation = self._operations[value]
        if not self._program.is_finite_part(operation):
            return False
        x, other = operation.arguments[1:]
        tensor = self._program.type(x).extent is Extent.TENSOR
        return tensor and self._operations[other].attribute == 0.0

    def passed_over(self, value: Value) -> bool:
        """Whether only the conditions of finite parts read a value, which so has no statement."""
        return value in self._passed_over

    def _conditions_of_finite_parts(self) -> set[Value]:
        found: set[Value] = set()
        for value in reversed(self._kernel.body):
            users = self._users.get(value, set())
            if value in self._results or not users or not self._operations[value].arguments:
                continue
            if all(
                u in found
                or (
                    self.finite_part(u)
                    and self._operations[u].arguments[0] == value
                    and self._operations[u].arguments[1] != value
                )
                for u in users
            ):
                found.add(value)
        return found

    def compute(self, value: Value) -> None:
        """A statement has computed a value; what only it has read may be written to."""
        self._done.add(value)
        for slot in self.slots:
            if slot not in self._free and self._writable({slot}):
                self._free.append(slot)

    def share(
        self, value: Value, others: Sequence[Value], loose: bool = False, own: bool = False
    ) -> None:
        """A value may be the memory of others.

        Args:
            value: the value.
            others: the others.
            loose: whether it may also be in memory that a statement has made.
            own: whether it may also be in the memory that it had as a target.
        """
        places = {s for x in others for s in self._where.get(x, ())}
        self._place(value, places | self._where[value] if own else places)
        if loose or any(x in self._loose or not self._where.get(x) for x in others):
            self._loose.add(value)

    def target(
        self,
        value: Value,
        arguments: Sequence[Value],
        texts: Sequence[str] = (),
        keep: Sequence[Value] = (),
    ) -> str:
        """The memory that a value is computed in.

        Args:
            value: the value.
            arguments: what may be overwritten, once nothing else needs it.
            texts: the variables of the arguments.
            keep: arguments that are read after the memory is written to.
        """
        kept = {s for x in keep for s in self._where.get(x, ())}
        result = self._results.get(value)
        if result is not None:
            home = self.home(result)
            if home not in kept and self._writable({home}, value):
                self._place(value, {home})
                return home
        for number, argument in enumerate(arguments):
            places = self._where.get(argument, frozenset())
            if not places or places & kept or argument in self._loose:
                continue
            if not self._writable(places, value):
                # One of the places may have been waiting for nothing but this argument.
                slot = next((s for s in self.slots if s in places), None)
                if slot is None or not self._writable({slot}, value):
                    continue
                self._place(value, {slot})
                return slot
            if result is not None and not places <= set(self.slots):
                continue  # where another result may belong
            if len(places) > 1 and not texts:
                continue
            self._place(value, places)
            return texts[number] if texts else next(iter(places))
        slot = self.spare()
        self._place(value, {slot})
        return slot

    def only_in(self, value: Value, place: str) -> bool:
        """Whether a value can be nowhere but in some memory."""
        return self._where.get(value) == frozenset([place]) and value not in self._loose

    def result(self, value: Value) -> bool:
        """Whether a value is one of the results."""
        return value in self._results

    def spare(self) -> str:
        """Memory that nothing needs."""
        if not self._free:
            self.slots.append(self._names.fresh(f"memory_{len(self.slots) + 1}"))
            return self.slots[-1]
        return self._free.pop()

    def give_back(self, slot: str) -> None:
        """Memory is needed no more."""
        self._free.append(slot)

    def home(self, result: Result) -> str:
        """The variable of the memory where a result belongs."""
        return PARAMETER if result.name == "theta" else self.states[result.name]

    def is_home(self, result: Result) -> bool:
        """Whether a result is where it belongs."""
        own = self._where.get(result.value) == frozenset([self.home(result)])
        return own and result.value not in self._loose

    def tangled(self) -> bool:
        """Whether a result may be where another one belongs."""
        homes = {self.home(r): r.value for r in self._results.values()}
        return any(
            homes.get(place, value) != value
            for value in self._results
            for place in self._where.get(value, ())
        )

    def _place(self, value: Value, places: set[str] | frozenset[str]) -> None:
        self._where[value] = frozenset(places)
        for place in places:
            self._inside.setdefault(place, set()).add(value)
            if place in self._free:
                self._free.remove(place)

    def _writable(self, places: set[str] | frozenset[str], user: Value | None = None) -> bool:
        """Whether nothing needs what is in some memory, once a value is computed from it."""
        if GRADIENT in places:
            return False
        done = self._done if user is None else self._done | {user}
        return all(
            x not in self._results and self._users.get(x, set()) <= done
            for place in places
            for x in self._inside.get(place, ())
        )
