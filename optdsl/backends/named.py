"""The values of a kernel under the names that they have in an emitted text."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import ClassVar

from optdsl.backends.naming import Names
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# By opcode, the buffers whose elements have the dtype of the parameter; states have that of steps.
PARAMETER_LIKE = {"parameter": "theta", "gradient": "g"}


class NamedValues:
    """The values of one kernel; names that a specification gives are kept where possible.

    Attributes:
        kernel: the kernel.
        program: its program.
        places: the index, in a row of uniform numbers, of each uniform value and share of weights
            that was asked for; `place` adds to it.
        scalars: the values of a tensor, in the order in which they are stored.
    """

    _SHARING: ClassVar[frozenset[Extent]]
    """Means of these extents read the shares of uniform weights from the row."""

    def __init__(
        self,
        kernel: Kernel,
        buffers: Sequence[str],
        reserved: Iterable[str],
        identifier: Callable[[str], str],
        unnamed: str,
        single: str | None,
    ) -> None:
        """Name everything.

        Args:
            kernel: the kernel.
            buffers: what is stored in memory: the parameter, its gradient, states.
            reserved: the words that have a meaning in the text.
            identifier: converts a name of the language into an identifier of the text.
            unnamed: the name of values without a name.
            single: what the backend calls arithmetic in single precision; None if there is none.
        """
        self.kernel, self.program = kernel, kernel.program
        self.places: dict[str, int] = {}
        self.scalars = [v for v in kernel.body if self.extent(v) is Extent.SCALAR]
        self._identifier, self._unnamed, self._single = identifier, unnamed, single
        names = Names(reserved)
        self._buffers = {b: names.fresh(f"{identifier(b)}_") for b in buffers}
        self._names = {v: names.fresh(self._wanted(v)) for v in kernel.values}

    def operation(self, value: Value) -> Operation:
        """The operation of a value."""
        return self.program.operations[value]

    def extent(self, value: Value) -> Extent:
        """The extent of a value."""
        return self.program.type(value).extent

    def literal(self, value: Value) -> float | None:
        """The number that a literal is; None for other values."""
        number = self.operation(value).attribute
        return number if isinstance(number, float) else None

    def constant(self, value: Value) -> bool:
        """Whether a value is a literal."""
        return self.operation(value).opcode == "constant"

    def uniform(self, values: Iterable[Value]) -> bool:
        """Whether all values are uniform."""
        return all(self.extent(v) is Extent.UNIFORM for v in values)

    def name(self, value: Value) -> str:
        """The variable of a value."""
        return self._names[value]

    def buffer(self, name: str) -> str:
        """The pointer to the parameter, its gradient or a state."""
        return self._buffers[name]

    def buffer_of(self, value: Value) -> str | None:
        """The buffer that an element is read from: "theta", "g" or a state; None if computed."""
        operation = self.operation(value)
        if TABLE[operation.opcode].stage is not Stage.BUFFER:
            return None
        return PARAMETER_LIKE.get(operation.opcode, str(operation.attribute))

    @property
    def stored_uniforms(self) -> list[Value]:
        """The uniform values that are states of tensors, which nothing else may have asked for."""
        stored = [r.value for r in self.kernel.stored if r.type.extent is Extent.SCALAR]
        return [v for v in stored if self.uniform([v]) and not self.constant(v)]

    def steps(self, mean: Value) -> list[tuple[str, Value, Value, str]]:
        """The steps that compute a mean, one for each part from the second on.

        Each consists of the name of the share of the part's weight in all weights so far, the
        weight, the part, and the name of the mean of all parts so far.
        """
        name, x = self.name(mean), self.operation(mean).arguments
        shares = [f"{name}_SHARE{n}" for n in range(1, len(x) // 2)]
        means = [*(f"{name}_MEAN{n}" for n in range(1, len(shares))), name]
        return list(zip(shares, x[2::2], x[3::2], means, strict=True))

    def place(self, name: str) -> int:
        """The index of a number in the row of uniform numbers, to which it is added if needed."""
        return self.places.setdefault(name, len(self.places))

    def asked(
        self,
        values: Sequence[Value],
        extra: Iterable[Value],
        kind: str,
        own: Collection[Value] | None = None,
    ) -> list[Value]:
        """The uniform values, and the values of a tensor, that a computation reads by their names.

        Args:
            values: what is computed.
            extra: what is used besides.
            kind: the arithmetic in which it is computed.
            own: values that need not be read; by default those that are computed.
        """
        own = set(values) if own is None else own
        used = (a for v in values for a in self._read_by_name(v, kind))
        return [
            v
            for v in dict.fromkeys([*used, *extra])
            if self.extent(v) is not Extent.TENSOR and v not in own and not self.constant(v)
        ]

    def by_reciprocal(self, operation: Operation, kind: str) -> bool:
        """Whether it multiplies elements by a uniform reciprocal, which is faster than a division.

        A number of a tensor may be as small as its elements, and have no finite reciprocal.
        """
        if operation.opcode != "div" or kind != self._single:
            return False
        divisor = operation.arguments[1]
        uniform = self.extent(divisor) is Extent.UNIFORM and not self.constant(divisor)
        return uniform and operation.type.extent is Extent.TENSOR

    def reads_shares(self, value: Value) -> bool:
        """Whether it is a mean that reads the shares of its weights from the row."""
        operation = self.operation(value)
        if operation.opcode != "mix" or self.extent(value) not in self._SHARING:
            return False
        return self.uniform(operation.arguments[0::2])

    def _read_by_name(self, value: Value, kind: str) -> tuple[Value, ...]:
        """The arguments that the lines of a value name.

        The others enter by reciprocals or shares, which have names of their own.
        """
        operation = self.operation(value)
        if self.by_reciprocal(operation, kind):
            return operation.arguments[:1]
        return operation.arguments[1::2] if self.reads_shares(value) else operation.arguments

    def _ordered(self, operation: Operation) -> tuple[Value, ...]:
        """The arguments of an operation in the order in which they are spelled.

        Of two zeros, a maximum or minimum takes its second argument. As by `torch.clamp`, that is
        the tensor's, and not the uniform bound.
        """
        x = operation.arguments
        bound = operation.opcode in {"max", "min"} and self.extent(x[1]) is Extent.UNIFORM
        return x[::-1] if bound and self.extent(x[0]) is not Extent.UNIFORM else x

    def _wanted(self, value: Value) -> str:
        operation = self.operation(value)
        if operation.hint is not None:
            return self._identifier(operation.hint)
        if TABLE[operation.opcode].leaf and not self.constant(value):
            return self._identifier(str(operation.attribute or operation.opcode))
        return self._unnamed
