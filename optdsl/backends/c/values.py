"""Values of a program in C: their names, their expressions, and where they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from optdsl.backends.c.expressions import RESERVED, identifier, literal, power, spell
from optdsl.backends.c.storage import Storage, Stream
from optdsl.backends.named import NamedValues
from optdsl.ir.ops import DRAWS, LEAVES
from optdsl.ir.program import Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# The two numbers that elements need of a share of weights, with their C types.
WAYS = {"turned": "bits", "way": "real"}


class Values(NamedValues):
    """The values of one kernel.

    Words that belong to a value, such as its reciprocal, end in capitals. A user's name with
    capitals ends in an underscore.

    There are two kinds of arithmetic: "double" on the host, for uniform values, and "real" for
    elements and for scalars, so that scalar states can be compared with those of other backends.
    """

    _SHARING = frozenset({Extent.TENSOR})
    _RESERVED: ClassVar[frozenset[str]] = RESERVED
    _MIXED: ClassVar[str] = "mixed"
    """The function for a mean of two elements."""
    _SIGN: ClassVar[str] = "sign"
    """The function for the sign of an element."""

    def __init__(self, kernel: Kernel, storage: Storage, buffers: Sequence[str]) -> None:
        """Name everything, as `NamedValues` does; `storage` says how it lies in memory."""
        double = storage.double
        single = None if double else "real"
        super().__init__(kernel, buffers, self._RESERVED, identifier, "x", single)
        self._double = double
        self.storage = storage

    def word(self, value: Value, kind: str) -> str:
        """A value as a word: a variable or a literal."""
        number = self.literal(value)
        return self.name(value) if number is None else literal(number, kind)

    def location(self, value: Value, row: str = "u") -> str:
        """The expression that reads a value that is not one of the elements."""
        if self.extent(value) is Extent.UNIFORM:
            return f"{row}[{self.place(self.name(value))}]"
        return f"s[{self.position(value)}]"

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows of numbers that are the same for all elements: of the host, and of a tensor."""
        return ("u", "s") if self.scalars else ("u",)

    def position(self, value: Value) -> int:
        """The index of a number of a tensor among those that are stored for it."""
        return self.scalars.index(value)

    def inline(self, value: Value) -> bool:
        """Whether a value is spelled where it is used: compilers vectorize conditions so best."""
        return self.operation(value).type.condition and self.extent(value) is Extent.TENSOR

    def drawn(self, value: Value) -> bool:
        """Whether a value is drawn at random."""
        return self.operation(value).opcode in DRAWS

    def given(self, value: Value) -> bool:
        """Whether an element is read, from memory or from a row of random numbers."""
        return self.operation(value).opcode in LEAVES or self.drawn(value)

    def stream(self, value: Value) -> Stream:
        """The random numbers that a value is one of."""
        operation = self.operation(value)
        return self.storage.drawn(str(operation.attribute), operation.arguments[0])

    def counter(self, counter: Value | None) -> str:
        """The expression for a counter, in double precision; of None, for the step's number."""
        if counter is None:
            return "0" if self.storage.starts else f"u[{self.place('t_COUNTER')}]"
        return self.word(counter, "double") if self.constant(counter) else self.location(counter)

    def _read_by_name(self, value: Value, kind: str) -> tuple[Value, ...]:
        """Counters are read where a row of random numbers is made."""
        return () if self.drawn(value) else super()._read_by_name(value, kind)

    def assigned(self, value: Value, kind: str) -> list[str]:
        """The lines that compute a value, not a leaf, into its variable."""
        operation, name = self.operation(value), self.name(value)
        if operation.opcode == "mix":
            return self._mix(value, kind)
        if self.inline(value):
            return []
        kind_of_result = "int" if operation.type.condition else kind
        return [f"const {kind_of_result} {name} = {self._expression(value, kind)};"]

    def _expression(self, value: Value, kind: str) -> str:
        operation = self.operation(value)
        double, ours = kind == "double" or self._double, "d" if kind == "double" else ""
        x = [self.word(a, kind) for a in self._ordered(operation)]
        if operation.opcode == "pow":
            return power(x[0], x[1], self.literal(operation.arguments[1]), double, ours)
        if self.by_reciprocal(operation, kind):
            return f"{x[0]} * {x[1]}_PER"
        if operation.opcode == "where":
            condition = operation.arguments[0]
            if self.inline(condition):
                x[0] = f"({self._expression(condition, kind)})"
            elif kind == "real" and self.extent(value) is Extent.TENSOR:
                return f"chosen({', '.join(x)})"
        if operation.opcode == "sign" and kind == "real":
            return f"{self._SIGN}({x[0]})"
        return spell(operation.opcode, x, double, ours)

    def _mix(self, value: Value, kind: str) -> list[str]:
        """A mean, one part after the other; shares of uniform weights come from the host."""
        total, mean = (self.word(a, kind) for a in self.operation(value).arguments[:2])
        given = self.reads_shares(value)
        lines = []
        for share, weight, part, result in self.steps(value):
            x = self.word(part, kind)
            if not given:
                lines += self._share(share, total, self.word(weight, kind))
                total = f"{share}_TOTAL"
            if kind == "double":
                lines.append(f"const double {result} = mixedd({mean}, {x}, {share});")
            else:
                if not given:
                    lines += [f"const {k} {share}_{way.upper()} = {way}({share});" for way, k in
                              WAYS.items()]  # fmt: skip
                ways = f"{mean}, {x}, {share}_TURNED, {share}_WAY"
                lines.append(f"const real {result} = {self._MIXED}({ways});")
            mean = result
        return lines

    def _share(self, share: str, total: str, weight: str) -> list[str]:
        """The share of one more weight in all weights so far."""
        return [
            f"const double {share}_TOTAL = {total} + {weight};",
            f"const double {share} = share_of({weight}, {share}_TOTAL);",
        ]

    def share_lines(self) -> list[str]:
        """The lines that compute, on the host, the shares of weights that elements read."""
        lines = []
        for value in self.kernel.body:
            if f"{self.name(value)}_SHARE1" in self.places:
                total = self.word(self.operation(value).arguments[0], "double")
                for share, weight, *_ in self.steps(value):
                    lines += self._share(share, total, self.word(weight, "double"))
                    total = f"{share}_TOTAL"
        return lines

    def derived(self, values: Sequence[Value], row: str = "u") -> dict[str, tuple[str, str]]:
        """Reciprocals, and shares of weights, that elements use: by name, type and expression."""
        found: dict[str, tuple[str, str]] = {}
        for value in values:
            operation = self.operation(value)
            if self.by_reciprocal(operation, "real"):
                divisor = operation.arguments[1]
                per = f"(real)(1 / {self.location(divisor, row)})"
                found[f"{self.name(divisor)}_PER"] = "real", per
            elif self.reads_shares(value):
                for share, *_ in self.steps(value):
                    for way, kind in WAYS.items():
                        text = f"{way}({row}[{self.place(share)}])"
                        found[f"{share}_{way.upper()}"] = kind, text
        return found
