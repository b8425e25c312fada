"""The values of a kernel under the names that they have in an emitted text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from optdsl.backends.naming import Names
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel


class NamedValues:
    """The values of one kernel; names that a specification gives are kept where they can be.

    Attributes:
        kernel: the kernel.
        program: its program.
        places: where uniform values, and shares of weights, lie in a row; grows as it is asked.
        scalars: the values of a tensor, in the order in which they lie.
    """

    def __init__(
        self,
        kernel: Kernel,
        buffers: Sequence[str],
        reserved: Iterable[str],
        identifier: Callable[[str], str],
        unnamed: str,
    ) -> None:
        """Name everything.

        Args:
            kernel: the kernel.
            buffers: what lies in memory: the parameter, its gradient, states.
            reserved: the words that mean something in the text.
            identifier: makes a name of the language one of the text.
            unnamed: how values without a name are called.
        """
        self.kernel, self.program = kernel, kernel.program
        self.places: dict[str, int] = {}
        self.scalars = [v for v in kernel.body if self.extent(v) is Extent.SCALAR]
        self._identifier, self._unnamed = identifier, unnamed
        names = Names(reserved)
        self._buffers = {b: names.fresh(f"{identifier(b)}_") for b in buffers}
        self._names = {v: names.fresh(self._wanted(v)) for v in kernel.values}

    def operation(self, value: Value) -> Operation:
        """The operation of a value."""
        return self.program.operations[value]

    def extent(self, value: Value) -> Extent:
        """The extent of a value."""
        return self.program.type(value).extent

    def constant(self, value: Value) -> bool:
        """Whether a value is a literal."""
        return self.operation(value).opcode == "constant"

    def uniform(self, values: Iterable[Value]) -> bool:
        """Whether all of them are."""
        return all(self.extent(v) is Extent.UNIFORM for v in values)

    def name(self, value: Value) -> str:
        """The variable of a value."""
        return self._names[value]

    def buffer(self, name: str) -> str:
        """The pointer to the parameter, its gradient or a state."""
        return self._buffers[name]

    def _wanted(self, value: Value) -> str:
        operation = self.operation(value)
        if operation.hint is not None:
            return self._identifier(operation.hint)
        if TABLE[operation.opcode].leaf and not self.constant(value):
            return self._identifier(str(operation.attribute or operation.opcode))
        return self._unnamed
