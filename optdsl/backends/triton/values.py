"""Values of a program in Triton: their names, their expressions, and where they lie."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence

from optdsl.backends.named import NamedValues
from optdsl.backends.triton.expressions import (
    BINARY,
    RESERVED,
    full,
    identifier,
    literal,
    power,
    spell,
)
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

DOUBLE = "tl.float64"
# Where a literal alone would not tell the type of what comes out, or what goes into a function.
_NUMBERS_FIT = BINARY.keys() - {"div"}


class Values(NamedValues):
    """The values of one kernel.

    Words that belong to a value, such as its reciprocal, end in capitals; names that a user gave
    have none. Uniform values are calculated in double precision, and elements and
    what is one number a tensor in `real`.

    Attributes:
        kernel: the kernel.
        real: the type of elements in calculations.
        places: where uniform values, and shares of weights, lie in a row; grows as it is asked.
        scalars: the values of a tensor, in the order in which they lie.
    """

    def __init__(self, kernel: Kernel, real: str, buffers: Sequence[str]) -> None:
        """Name everything.

        Args:
            kernel: the kernel.
            real: see the class.
            buffers: what lies in memory: the parameter, its gradient, states.
        """
        super().__init__(kernel, buffers, RESERVED, identifier, "v")
        self.real = real

    def word(self, value: Value, kind: str | None = None) -> str:
        """A value as a word: a variable or a literal, of a type if that is given."""
        operation = self.operation(value)
        if operation.opcode == "constant":
            assert isinstance(operation.attribute, float)
            if kind is not None:
                return full(operation.attribute, kind)
            return literal(operation.attribute)
        return self._names[value]

    def place(self, name: str) -> int:
        """Where something uniform lies in a row."""
        return self.places.setdefault(name, len(self.places))

    def assigned(self, value: Value, kind: str) -> list[str]:
        """The lines that compute a value, not a leaf, into its variable.

        Args:
            value: of any extent.
            kind: the type in which it is calculated: that of elements, or `DOUBLE`.
        """
        operation = self.operation(value)
        if operation.opcode == "mix":
            return self._mix(value, kind)
        return [f"{self._names[value]} = {self._expression(operation, kind)}"]

    def _expression(self, operation: Operation, kind: str) -> str:
        x = operation.arguments
        fits = operation.opcode in _NUMBERS_FIT and not all(map(self.constant, x))
        words = [self.word(a, None if fits else kind) for a in x]
        if operation.opcode == "pow":
            exponent = self.operation(x[1]).attribute if self.constant(x[1]) else None
            return power(words[0], words[1], exponent if isinstance(exponent, float) else None,
                         kind)  # fmt: skip
        if operation.opcode in {"max", "min"}:
            first, second = map(self.extent, x)
            if second is Extent.UNIFORM is not first:
                # Of two zeros the second is taken: that of the tensor, as by torch.clamp.
                words.reverse()
        if self.by_reciprocal(operation, kind):
            return f"{words[0]} * {words[1]}_PER"
        return spell(operation.opcode, words, kind)

    def by_reciprocal(self, operation: Operation, kind: str) -> bool:
        """Whether elements are divided by what is the same for all: a product is faster.

        The numbers of a tensor may be as small as its elements, and have no reciprocal then.
        """
        if operation.opcode != "div" or kind != "tl.float32":
            return False
        if operation.type.extent is not Extent.TENSOR:
            return False
        divisor = operation.arguments[1]
        return self.extent(divisor) is Extent.UNIFORM and not self.constant(divisor)

    # --- means ----------------------------------------------------------------------------------

    def _mix(self, value: Value, kind: str) -> list[str]:
        """A mean, one part after the other; shares of uniform weights come from their row."""
        name = self._names[value]
        weights, parts = (self.operation(value).arguments[i::2] for i in (0, 1))
        given = kind != DOUBLE or self.extent(value) is not Extent.UNIFORM
        given = given and self.uniform(weights)
        lines = [] if given else self._shares(value, kind)
        mean = self.word(parts[0], kind)
        for number, part in enumerate(parts[1:], start=1):
            result = name if number == len(parts) - 1 else f"{name}_MEAN{number}"
            x, share = self.word(part, kind), f"{name}_SHARE{number}"
            if not given:
                lines += self._ways(share, kind)
            lines.append(f"{result} = mixed({mean}, {x}, {share}_TURNED, {share}_WAY)")
            mean = result
        return lines

    def _shares(self, value: Value, kind: str) -> list[str]:
        """The share of each further weight of a mean in all weights so far."""
        cast = "" if kind == DOUBLE else f".to({DOUBLE})"
        name = self._names[value]
        first, *others = self.operation(value).arguments[0::2]
        total, lines = self.word(first, DOUBLE), []
        for number, weight in enumerate(others, start=1):
            share, w = f"{name}_SHARE{number}", self.word(weight, DOUBLE)
            lines.append(f"{share}_TOTAL = {total}{cast} + {w}{cast}")
            lines.append(f"{share} = share_of({w}, {share}_TOTAL)")
            total = f"{share}_TOTAL"
        return lines

    @staticmethod
    def _ways(share: str, kind: str) -> list[str]:
        """From which of two the mean is the nearer, and how far it is away from there."""
        way = f"tl.where({share}_TURNED, {share} - 1, {share})"
        cast = "" if kind == DOUBLE else f".to({kind})"
        return [f"{share}_TURNED = {share} >= 0.5", f"{share}_WAY = {way}{cast}"]

    def derived(self) -> list[str]:
        """The lines for what elements have asked for beside uniform values."""
        lines = []
        for value in self.kernel.uniform:
            name = self._names[value]
            if f"{name}_PER" in self.places:
                lines.append(f"{name}_PER = 1 / {name}")
        for value in self.kernel.body:
            name = self._names[value]
            if f"{name}_SHARE1_WAY" in self.places:
                lines += self._shares(value, DOUBLE)
                for number in range(1, len(self.operation(value).arguments) // 2):
                    lines += self._ways(f"{name}_SHARE{number}", DOUBLE)
        return lines

    def condition(self, place: str) -> bool:
        """Whether what lies at a place of a row is a choice."""
        conditions = (v for v in self.kernel.uniform if self.program.type(v).condition)
        return place.endswith("_TURNED") or place in map(self.name, conditions)

    # --- what comes from elsewhere --------------------------------------------------------------

    def fixed(
        self,
        values: Sequence[Value],
        extra: Iterable[Value],
        kind: str,
        own: Container[Value] | None = None,
        cast: bool = False,
    ) -> list[str]:
        """The lines that load what computing `values`, and using `extra`, takes from elsewhere.

        That are uniform values, from their row at u, and values of the tensor, at s.

        Args:
            values: what is computed.
            extra: what is used besides.
            kind: the type in which it is.
            own: what comes from nowhere else; by default what is computed.
            cast: whether uniform values have to be converted to `kind`: their row is in double
                precision.
        """
        own = set(values) if own is None else own
        used = [a for v in values for a in self._named(v, kind)]
        lines = []
        for value in dict.fromkeys([*used, *extra]):
            if self.extent(value) is Extent.TENSOR or value in own or self.constant(value):
                continue
            lines.append(f"{self._names[value]} = {self._loaded(value, kind, cast)}")
        for value in values:
            lines += self._derived(value, kind, cast)
        return list(dict.fromkeys(lines))

    def _loaded(self, value: Value, kind: str, converted: bool) -> str:
        if self.extent(value) is Extent.UNIFORM:
            # They lie there in the type of elements, too: to convert them would take longer.
            text = f"tl.load(u + {self.place(self._names[value])})"
            cast = f".to({kind})" if converted else ""
        else:
            text, cast = f"tl.load(s + {self.scalars.index(value)})", f".to({kind})"
        return f"{text} != 0" if self.program.type(value).condition else f"{text}{cast}"

    def _named(self, value: Value, kind: str) -> tuple[Value, ...]:
        """The arguments that the lines of a value name; of others there are derived words."""
        operation = self.operation(value)
        if self.by_reciprocal(operation, kind):
            return operation.arguments[:1]
        if operation.opcode == "mix" and self.uniform(operation.arguments[0::2]):
            return operation.arguments[1::2]
        return operation.arguments

    def _derived(self, value: Value, kind: str, converted: bool) -> list[str]:
        """Reciprocals, and shares of weights, that a value uses."""
        operation, name = self.operation(value), self._names[value]
        if self.by_reciprocal(operation, kind):
            per = f"{self._names[operation.arguments[1]]}_PER"
            return [f"{per} = tl.load(u + {self.place(per)})"]
        if operation.opcode == "mix" and self.uniform(operation.arguments[0::2]):
            lines = []
            for number in range(1, len(operation.arguments) // 2):
                turned, way = (f"{name}_SHARE{number}_{x}" for x in ("TURNED", "WAY"))
                lines.append(f"{turned} = tl.load(u + {self.place(turned)}) != 0")
                cast = f".to({kind})" if converted else ""
                lines.append(f"{way} = tl.load(u + {self.place(way)}){cast}")
            return lines
        return []
