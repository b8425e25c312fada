"""How long the values of a kernel are needed, in the order in which their statements are written.

So a text can compute a matrix in the memory of one that nothing needs any more, and call it by the
name of one.
"""

from __future__ import annotations

from collections.abc import Callable

from optdsl.ir.program import Value
from optdsl.schedule import Kernel

# What may be another tensor, or a view of one, and so shares its memory.
_SHARING = {"transpose", "bfloat16", "float32", "spread", "identity", "define", "stop_gradient"}
_SHARING |= {"indices", "diagonal_rows", "diagonal_cols", "diagonal_own"}
# Columns of a matrix that has more, and a mean in which one matrix has all the weight.
_SHARING |= {"singular_vectors", "mix"}


class Lifetimes:
    """Which values are computed, and which are needed no more."""

    def __init__(self, kernel: Kernel, host: Callable[[Value], bool]) -> None:
        """Nothing is computed yet.

        Args:
            kernel: the kernel.
            host: whether a value is a number of the host.
        """
        self._operations, self._host = kernel.program.operations, host
        self._users: dict[Value, set[Value]] = {}
        for value in kernel.values:
            for argument in self._operations[value].arguments:
                self._users.setdefault(argument, set()).add(value)
        self._results = {r.value for r in (*kernel.results, *kernel.dots)}
        self._computed: set[Value] = set()

    def compute(self, value: Value) -> None:
        """A statement computes a value, and what only its expression has."""
        if value not in self._computed:
            self._computed.add(value)
            for argument in self._operations[value].arguments:
                self.compute(argument)

    def dead(self, value: Value) -> bool:
        """Whether a value is needed no more."""
        return value not in self._results and self._users.get(value, set()) <= self._computed

    def consumable(self, value: Value, user: Value, last: bool) -> bool:
        """Whether an operation may overwrite an argument.

        Args:
            value: the argument.
            user: the operation.
            last: whether everything else in its statement is computed before.
        """
        users = self._users.get(value, set())
        once = self._operations[user].arguments.count(value) == 1
        if value in self._results or not once or not self._own(value):
            return False
        if users == {user}:
            return True
        before = self._computed | self._inside(user)
        return last and all(map(self._own, users)) and users - {user} <= before

    def last_reader(self, value: Value, user: Value) -> bool:
        """Whether nothing reads a value, or what shares its memory, after the statement of a user.

        The user reads other values, or the value itself, and nothing that shares its memory.
        """
        users = self._users.get(value, set())
        before = self._computed | self._inside(user)
        shared = any(not self._own(x) for x in users)
        return value not in self._results and not shared and users - {user} <= before

    def unused(self, value: Value) -> bool:
        """Whether a matrix is needed no more, nor is what may share its memory."""
        users = self._users.get(value, set())
        return self._own(value) and self.dead(value) and all(map(self._own, users))

    def _inside(self, value: Value) -> set[Value]:
        """What the expression of a value computes besides the value."""
        found: set[Value] = set()
        for argument in self._operations[value].arguments:
            if argument not in self._computed and argument not in found:
                found |= {argument} | self._inside(argument)
        return found

    def _own(self, value: Value) -> bool:
        """Whether a value has memory of its own."""
        operation = self._operations[value]
        if operation.opcode == "where" and self._host(operation.arguments[0]):
            return False
        return bool(operation.arguments) and operation.opcode not in _SHARING
