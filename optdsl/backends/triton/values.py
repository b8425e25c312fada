"""Values of a program in Triton: their names, their expressions, and where they are stored."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import ClassVar

from optdsl.backends.base import BINARY
from optdsl.backends.named import NamedValues
from optdsl.backends.naming import plain_identifier
from optdsl.backends.triton.expressions import RESERVED, full, literal, power, spell
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

DOUBLE = "tl.float64"
# Operations whose arguments may be plain literals: the result has the type of the other argument.
_NUMBERS_FIT = BINARY.keys() - {"div"}


class Values(NamedValues):
    """The values of one kernel.

    Words that belong to a value, such as its reciprocal, end in capitals; names that a user gave
    have none. Uniform values are calculated in double precision, elements and scalars in `real`.

    Attributes:
        real: the type of elements in calculations.
    """

    _SHARING = frozenset({Extent.TENSOR, Extent.SCALAR})
    _RESERVED: ClassVar[frozenset[str]] = RESERVED

    def __init__(self, kernel: Kernel, real: str, buffers: Sequence[str]) -> None:
        """Name everything, as `NamedValues` does."""
        super().__init__(kernel, buffers, self._RESERVED, plain_identifier, "v", "tl.float32")
        self.real = real

    def word(self, value: Value, kind: str | None = None) -> str:
        """A value as a word: a variable or a literal, of a type if that is given."""
        number = self.literal(value)
        if number is None:
            return self.name(value)
        return literal(number) if kind is None else full(number, kind)

    def assigned(self, value: Value, kind: str) -> list[str]:
        """The lines that compute a value, not a leaf, in a type: that of elements, or `DOUBLE`."""
        operation = self.operation(value)
        if operation.opcode == "mix":
            return self._mix(value, kind)
        return [f"{self.name(value)} = {self._expression(operation, kind)}"]

    def _expression(self, operation: Operation, kind: str) -> str:
        x = self._ordered(operation)
        fits = operation.opcode in _NUMBERS_FIT and not all(map(self.constant, x))
        words = [self.word(a, None if fits else kind) for a in x]
        if operation.opcode == "pow":
            return power(words[0], words[1], self.literal(x[1]), kind)
        if self.by_reciprocal(operation, kind):
            return f"{words[0]} * {words[1]}_PER"
        return spell(operation.opcode, words, kind)

    # --- means ----------------------------------------------------------------------------------

    def _mix(self, value: Value, kind: str) -> list[str]:
        """A mean, one part after the other; shares of uniform weights come from their row."""
        given = self.reads_shares(value)
        lines = [] if given else self._shares(value, kind)
        mean = self.word(self.operation(value).arguments[1], kind)
        for share, _, part, result in self.steps(value):
            if not given:
                lines += self._ways(share, kind)
            x = self.word(part, kind)
            lines.append(f"{result} = mixed({mean}, {x}, {share}_TURNED, {share}_WAY)")
            mean = result
        return lines

    def _shares(self, value: Value, kind: str) -> list[str]:
        """The share of each further weight of a mean in all weights so far."""
        cast = "" if kind == DOUBLE else f".to({DOUBLE})"
        total = self.word(self.operation(value).arguments[0], DOUBLE)
        lines = []
        for share, of, *_ in self.steps(value):
            weight = self.word(of, DOUBLE)
            lines.append(f"{share}_TOTAL = {total}{cast} + {weight}{cast}")
            lines.append(f"{share} = share_of({weight}, {share}_TOTAL)")
            total = f"{share}_TOTAL"
        return lines

    @staticmethod
    def _ways(share: str, kind: str) -> list[str]:
        """From which of two numbers their mean is computed, the nearer one, and how far it is."""
        way = f"tl.where({share}_TURNED, {share} - 1, {share})"
        cast = "" if kind == DOUBLE else f".to({kind})"
        return [f"{share}_TURNED = {share} >= 0.5", f"{share}_WAY = {way}{cast}"]

    def derived(self) -> list[str]:
        """The lines that compute what elements asked for beside uniform values."""
        names = (self.name(value) for value in self.kernel.uniform)
        lines = [f"{name}_PER = 1 / {name}" for name in names if f"{name}_PER" in self.places]
        for value in self.kernel.body:
            if f"{self.name(value)}_SHARE1_WAY" in self.places:
                lines += self._shares(value, DOUBLE)
                for share, *_ in self.steps(value):
                    lines += self._ways(share, DOUBLE)
        return lines

    def condition(self, place: str) -> bool:
        """Whether a number of the row, by its name, is a condition."""
        conditions = (v for v in self.kernel.uniform if self.program.type(v).condition)
        return place.endswith("_TURNED") or place in map(self.name, conditions)

    # --- what is loaded -------------------------------------------------------------------------

    def fixed(
        self,
        values: Sequence[Value],
        extra: Iterable[Value],
        kind: str,
        own: Collection[Value] | None = None,
        cast: bool = False,
    ) -> list[str]:
        """The lines that load what a computation reads: uniform values at u, a tensor's at s.

        Args:
            values: what is computed.
            extra: what is used besides.
            kind: the type in which it is computed.
            own: values that need not be loaded; by default those that are computed.
            cast: whether uniform values have to be converted to `kind`, as those of the row in
                double precision; elements read a second row, of their own type, which is faster.
        """
        converted = f".to({kind})" if cast else ""
        lines = []
        for value in self.asked(values, extra, kind, own):
            if self.extent(value) is Extent.UNIFORM:
                address, conversion = f"u + {self.place(self.name(value))}", converted
            else:
                address, conversion = f"s + {self.scalars.index(value)}", f".to({kind})"
            end = " != 0" if self.program.type(value).condition else conversion
            lines.append(f"{self.name(value)} = tl.load({address}){end}")
        for value in values:
            operation = self.operation(value)
            if self.by_reciprocal(operation, kind):
                per = f"{self.name(operation.arguments[1])}_PER"
                lines.append(f"{per} = tl.load(u + {self.place(per)})")
            elif self.reads_shares(value):
                for share, *_ in self.steps(value):
                    for name, end in ((f"{share}_TURNED", " != 0"), (f"{share}_WAY", converted)):
                        lines.append(f"{name} = tl.load(u + {self.place(name)}){end}")
        return list(dict.fromkeys(lines))
