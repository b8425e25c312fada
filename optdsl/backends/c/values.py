"""Values of a program in C: their names, their expressions, and where they lie."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from optdsl.backends.c.expressions import (
    RESERVED,
    identifier,
    literal,
    power,
    spell,
)
from optdsl.backends.named import NamedValues
from optdsl.ir.program import Operation, Value
from optdsl.ir.types import Extent
from optdsl.schedule import Kernel

# What elements need of a share of weights: a choice and a factor.
WAYS = {"turned": "bits", "way": "real"}


class Values(NamedValues):
    """The values of one kernel.

    Words that belong to a value, such as its reciprocal, end in capitals. A name that a user gave
    has an underscore at its end if it has capitals.

    There are two kinds of arithmetic: "double" on the host, for uniform values, and "real" for the
    elements and what is one number a tensor, so that states that are can be compared with others.

    Attributes:
        kernel: the kernel.
        places: where uniform values, and shares of weights, lie in a row; grows as it is asked.
        scalars: the values of a tensor, in the order in which they lie.
    """

    def __init__(self, kernel: Kernel, double: bool, buffers: Sequence[str]) -> None:
        """Name everything.

        Args:
            kernel: the kernel.
            double: whether elements are doubles.
            buffers: what lies in memory: the parameter, its gradient, states.
        """
        super().__init__(kernel, buffers, RESERVED, identifier, "x")
        self._double = double

    def word(self, value: Value, kind: str) -> str:
        """A value as a word: a variable or a literal."""
        operation = self.operation(value)
        if operation.opcode == "constant":
            assert isinstance(operation.attribute, float)
            return literal(operation.attribute, kind)
        return self._names[value]

    def place(self, value: Value, row: str = "u") -> str:
        """Where a value that is not one of the elements lies."""
        if self.extent(value) is Extent.UNIFORM:
            return self.shared(self._names[value], row)
        return f"s[{self.scalars.index(value)}]"

    def shared(self, name: str, row: str = "u") -> str:
        """Where something lies in a row."""
        return f"{row}[{self.places.setdefault(name, len(self.places))}]"

    def assigned(self, value: Value, kind: str) -> list[str]:
        """The lines that compute a value, not a leaf, into its variable."""
        operation, name = self.operation(value), self._names[value]
        if operation.opcode == "mix":
            return self._mix(value, kind)
        if operation.type.condition and self.extent(value) is Extent.TENSOR:
            return []  # written where it is used, it vectorizes best
        kind_of_result = "int" if operation.type.condition else kind
        return [f"const {kind_of_result} {name} = {self._expression(value, kind)};"]

    def _expression(self, value: Value, kind: str) -> str:
        operation = self.operation(value)
        double = kind == "double" or self._double
        x = [self.word(a, kind) for a in operation.arguments]
        if operation.opcode == "pow":
            exponent = self.operation(operation.arguments[1]).attribute
            constant = exponent if isinstance(exponent, float) else None
            return power(x[0], x[1], constant, double, "d" if kind == "double" else "")
        if operation.opcode in {"max", "min"}:
            first, second = map(self.extent, operation.arguments)
            if second is Extent.UNIFORM is not first:
                # Of two zeros the second is taken: that of the tensor, as by torch.clamp.
                x.reverse()
        if operation.opcode == "div" and self.by_reciprocal(operation, kind):
            return f"{x[0]} * {x[1]}_PER"
        if operation.opcode == "where":
            condition = operation.arguments[0]
            if self.extent(condition) is Extent.TENSOR:
                x[0] = f"({self._expression(condition, kind)})"
            elif kind == "real" and self.extent(value) is Extent.TENSOR:
                return f"chosen({', '.join(x)})"
        return spell(operation.opcode, x, double, "d" if kind == "double" else "")

    def by_reciprocal(self, operation: Operation, kind: str) -> bool:
        """Whether elements are divided by what is the same for all: a product is faster.

        The numbers of a tensor may be as small as its elements, and have no reciprocal then.
        """
        divisor = operation.arguments[1]
        uniform = self.extent(divisor) is Extent.UNIFORM and not self.constant(divisor)
        elements = operation.type.extent is Extent.TENSOR
        return kind == "real" and not self._double and uniform and elements

    def _mix(self, value: Value, kind: str) -> list[str]:
        """A mean, one part after the other; shares of uniform weights come from the host."""
        name = self._names[value]
        weights, parts = (self.operation(value).arguments[i::2] for i in (0, 1))
        mean, total = self.word(parts[0], kind), self.word(weights[0], kind)
        given = kind == "real" and self._shared_by_elements(value)
        lines = []
        for number, (w, part) in enumerate(zip(weights[1:], parts[1:], strict=True), start=1):
            x, share = self.word(part, kind), f"{name}_SHARE{number}"
            last = number == len(parts) - 1
            result = name if last else f"{name}_MEAN{number}"
            if not given:
                lines += self._share(share, total, self.word(w, kind))
                total = f"{share}_TOTAL"
            if kind == "double":
                lines.append(f"const double {result} = mixedd({mean}, {x}, {share});")
            else:
                if not given:
                    lines += [f"const {k} {share}_{way.upper()} = {way}({share});" for way, k in
                              WAYS.items()]  # fmt: skip
                ways = f"{mean}, {x}, {share}_TURNED, {share}_WAY"
                lines.append(f"const real {result} = mixed({ways});")
            mean = result
        return lines

    def _shared_by_elements(self, value: Value) -> bool:
        """Whether it is a mean of elements whose weights are the same for all of them."""
        operation = self.operation(value)
        if operation.opcode != "mix" or self.extent(value) is not Extent.TENSOR:
            return False
        return self.uniform(operation.arguments[0::2])

    def _share(self, share: str, total: str, weight: str) -> list[str]:
        """The share of one more weight in all weights so far."""
        return [
            f"const double {share}_TOTAL = {total} + {weight};",
            f"const double {share} = share_of({weight}, {share}_TOTAL);",
        ]

    def shares(self) -> list[str]:
        """The shares of the weights of each mean of elements that was asked for, on the host."""
        lines = []
        for value in self.kernel.body:
            name = self._names[value]
            if f"{name}_SHARE1" not in self.places:
                continue
            weights = [self.word(w, "double") for w in self.operation(value).arguments[0::2]]
            total = weights[0]
            for number, weight in enumerate(weights[1:], start=1):
                share = f"{name}_SHARE{number}"
                lines += self._share(share, total, weight)
                total = f"{share}_TOTAL"
        return lines

    def asked(self, values: Sequence[Value], extra: Iterable[Value], kind: str) -> list[Value]:
        """What computing `values`, and using `extra`, takes from elsewhere, by its own name."""
        own = set(values)
        used = [a for v in values for a in self._named(v, kind)]
        return [
            v
            for v in dict.fromkeys([*used, *extra])
            if self.extent(v) is not Extent.TENSOR and v not in own and not self.constant(v)
        ]

    def _named(self, value: Value, kind: str) -> tuple[Value, ...]:
        """The arguments that the lines of a value name; of others there are `derived` words."""
        operation = self.operation(value)
        if operation.opcode == "div" and self.by_reciprocal(operation, kind):
            return operation.arguments[:1]
        if kind == "real" and self._shared_by_elements(value):
            return operation.arguments[1::2]
        return operation.arguments

    def derived(self, values: Sequence[Value], row: str = "u") -> dict[str, tuple[str, str]]:
        """Reciprocals, and shares of weights, that elements use: by name, type and expression."""
        found: dict[str, tuple[str, str]] = {}
        for value in values:
            operation = self.operation(value)
            if operation.opcode == "div" and self.by_reciprocal(operation, "real"):
                divisor = operation.arguments[1]
                per = f"{self._names[divisor]}_PER"
                found[per] = ("real", f"(real)(1 / {self.place(divisor, row)})")
            elif self._shared_by_elements(value):
                for number in range(1, len(operation.arguments) // 2):
                    share = f"{self._names[value]}_SHARE{number}"
                    for way, kind in WAYS.items():
                        found[f"{share}_{way.upper()}"] = (
                            kind,
                            f"{way}({self.shared(share, row)})",
                        )
        return found
