"""Uniform factors collected: what is linear in tensors gets its coefficients from the host.

A mean of means of scaled sums is one sum of few terms, each with a uniform coefficient that is
computed once, in double precision; terms that cancel are gone. The result is the same function of
finite numbers, to rounding, and no more: what has no weight is multiplied with zero here, where a
mean leaves it out. A backend that runs it checks that the numbers were finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value
from optdsl.ir.types import TENSOR, UNIFORM, Extent
from optdsl.passes.eliminate_dead import eliminate_dead

# From so many terms on, a sum that is used more than once is not repeated in what uses it.
_LONG = 3
_LEAVES = frozenset({"state", "gradient", "parameter"})


def collect(program: Program) -> Program:
    """The program on finite numbers, with fewer operations on tensors.

    Differences of two leaves stay what they are: they are exact where the leaves are close.
    """
    return eliminate_dead(_Collector(program).collected())


@dataclass
class _Root:
    """What values are multiples of: a sum of terms and a constant, or a value by now.

    Attributes:
        terms: coefficients by the roots that they multiply; none once there is a value.
        constant: what is added that is the same for all elements.
        value: the value in the new program, once it is computed.
        hint: its name.
        factors: what it is the product of, if it is one that is used only once.
    """

    terms: dict[int, Value] = field(default_factory=dict)
    constant: Value | None = None
    value: Value | None = None
    hint: str | None = None
    factors: tuple[Value, Value] | None = None


class _Collector:
    """Values as multiples of roots, roots as sums of multiples."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._builder = Builder()
        self._new: dict[Value, Value] = {}  # of values that are no tensors of numbers
        self._roots: list[_Root] = []
        self._atoms: dict[Value, int] = {}  # the root of each new value
        self._forms: dict[Value, tuple[Value, int]] = {}
        self._one = self._builder.constant(1.0)
        self._base: dict[Value, Value] = {}
        self._uses: Counter[Value] = Counter()
        self._demanded: set[Value] = set()
        self._divisors: Counter[Value] = Counter()

    def collected(self) -> Program:
        """The new program, with operations that nothing uses."""
        program = self._program
        needed = program.needed((*program.initial_values, *program.step_values))
        self._survey(needed)
        for value in needed:
            self._visit(value)
        found = replace(
            program,
            states=tuple(
                replace(s, initial=self._value(s.initial), next=self._value(s.next))
                for s in program.states
            ),
            parameter=self._value(program.parameter),
            tangents=tuple(replace(t, value=self._value(t.value)) for t in program.tangents),
        )
        return replace(found, operations=self._builder.operations)

    # --- the old program ------------------------------------------------------------------------

    def _survey(self, needed: Iterable[Value]) -> None:
        """Find which values are multiples of which, how often those are used, and by what."""
        for value in needed:
            scaled = self._scaled(value)
            self._base[value] = value if scaled is None else self._base[scaled[0]]
            if scaled is not None:
                continue
            operation = self._program.operations[value]
            for argument in self._tensors(operation):
                self._use(argument, operation.opcode not in {"add", "sub", "mix"})
            if operation.opcode == "div" and self._tensor(operation.arguments[1]):
                self._divisors[operation.arguments[1]] += 1
        for value in (*self._program.initial_values, *self._program.step_values):
            if self._tensor(value):
                self._use(value, True)

    def _use(self, value: Value, demanded: bool) -> None:
        base = self._base[value]
        self._uses[base] += 1
        if demanded:
            self._demanded.add(base)

    def _extent(self, value: Value) -> Extent:
        return self._program.type(value).extent

    def _tensor(self, value: Value) -> bool:
        """Whether a value is a tensor of numbers."""
        return self._program.type(value) == TENSOR

    def _tensors(self, operation: Operation) -> list[Value]:
        return [a for a in operation.arguments if self._tensor(a)]

    def _scaled(self, value: Value) -> tuple[Value, str, Value | None] | None:
        """What a tensor is a multiple of, in which way, and by what uniform number."""
        operation = self._program.operations[value]
        if not self._tensor(value):
            return None
        x = operation.arguments
        match operation.opcode:
            case "neg" | "define" | "stop_gradient" if self._tensor(x[0]):
                return x[0], operation.opcode, None
            case "mul" if UNIFORM in (self._program.type(x[0]), self._program.type(x[1])):
                left = self._program.type(x[0]) == UNIFORM
                return x[left], "mul", x[1 - left]
            case "div" if self._program.type(x[1]) == UNIFORM:
                return x[0], "div", x[1]
            case "where" if self._weighed(x):
                return x[2], "define", None
        return None

    def _weighed(self, x: tuple[Value, ...]) -> bool:
        """Whether a choice only leaves out what is multiplied with zero."""
        condition, zero, product = (self._program.operations[a] for a in x)
        return (
            condition.opcode == "eq"
            and self._program.operations[condition.arguments[1]].attribute == 0.0
            and zero.attribute == 0.0
            and product.opcode == "mul"
            and condition.arguments[0] in product.arguments
        )

    # --- the new one ----------------------------------------------------------------------------

    def _visit(self, value: Value) -> None:
        operation = self._program.operations[value]
        if not self._tensor(value):
            self._new[value] = self._copied(operation)
            return
        scaled = self._scaled(value)
        if scaled is not None:
            of, how, by = scaled
            self._forms[value] = self._multiple(self._forms[of], how, by)
        elif operation.opcode in {"add", "sub", "mix"}:
            self._forms[value] = self._sum(value, operation)
        elif operation.opcode in {"mul", "div"}:
            self._forms[value] = self._product(value, operation)
        elif operation.opcode == "where":
            self._forms[value] = self._choice(operation)
        else:
            self._forms[value] = self._one, self._atom(self._copied(operation))

    def _copied(self, operation: Operation) -> Value:
        arguments = tuple(self._value(a) for a in operation.arguments)
        if operation.opcode == "mul" and operation.type == UNIFORM:
            return self._times(*arguments)
        return self._builder.copy(operation, arguments)

    def _atom(self, value: Value) -> int:
        if value not in self._atoms:
            self._atoms[value] = len(self._roots)
            self._roots.append(_Root(value=value))
        return self._atoms[value]

    def _multiple(self, form: tuple[Value, int], how: str, by: Value | None) -> tuple[Value, int]:
        scale, root = form
        match how:
            case "neg":
                scale = self._negative(scale)
            case "mul":
                assert by is not None
                scale = self._times(scale, self._new[by])
            case "div":
                assert by is not None
                scale = self._builder.emit("div", scale, self._new[by])
        return scale, root

    def _sum(self, value: Value, operation: Operation) -> tuple[Value, int]:
        """A sum, a difference or a mean; one that is used in several ways is computed."""
        mean = operation.opcode == "mix"
        weights, parts = operation.arguments[0::2], operation.arguments[mean :: 1 + mean]
        if mean and not all(self._program.type(w) == UNIFORM for w in weights):
            return self._one, self._atom(self._copied(operation))
        seen = [self._terms(part) for part in parts]
        total = _Root(hint=operation.hint)
        for root in dict.fromkeys(r for terms, _ in seen for r in terms):
            coefficient = self._joined(operation, [terms.get(root) for terms, _ in seen])
            if coefficient is not None:
                total.terms[root] = coefficient
        total.constant = self._joined(operation, [constant for _, constant in seen])
        if len(total.terms) == 1 and total.constant is None:
            ((root, coefficient),) = total.terms.items()
            return coefficient, root
        if not total.terms:  # nothing is left that has the extent of a tensor
            return self._one, self._atom(self._copied(operation))
        number = len(self._roots)
        self._roots.append(total)
        long = len(total.terms) + (total.constant is not None) >= _LONG
        exact = not mean and all(self._program.operations[a].opcode in _LEAVES for a in parts)
        if (self._uses[value] > 1 and (long or value in self._demanded)) or exact:
            self._computed(number)
        return self._one, number

    def _joined(self, operation: Operation, numbers: list[Value | None]) -> Value | None:
        """The coefficient in a sum, from those in its parts; None if it is zero."""
        builder = self._builder
        if all(n is None for n in numbers):
            return None
        match operation.opcode:
            case "add":
                return self._plus(*numbers)
            case "sub":
                left, right = numbers
                return self._plus(left, None if right is None else self._negative(right))
        zero = builder.constant(0.0)
        given = [zero if n is None else n for n in numbers]
        if all(n == given[0] for n in given):
            return given[0]
        weights = [self._new[w] for w in operation.arguments[0::2]]
        return builder.emit("mix", *(v for pair in zip(weights, given, strict=True) for v in pair))

    def _terms(self, value: Value) -> tuple[dict[int, Value], Value | None]:
        """The coefficients of a value by root, and its constant."""
        if self._program.type(value) == UNIFORM:
            zero = self._builder.is_constant(self._new[value], 0.0)
            return {}, None if zero else self._new[value]
        if not self._tensor(value):
            return {self._atom(self._new[value]): self._one}, None
        scale, number = self._forms[value]
        root = self._roots[number]
        if root.value is not None:
            return {number: scale}, None
        terms = {r: self._times(scale, c) for r, c in root.terms.items()}
        return terms, None if root.constant is None else self._times(scale, root.constant)

    def _product(self, value: Value, operation: Operation) -> tuple[Value, int]:
        """A product or a quotient of tensors, uniform factors apart."""
        builder, opcode = self._builder, operation.opcode
        scales, bases = [], []
        for argument in operation.arguments:
            if self._tensor(argument):
                scale, root = self._forms[argument]
                scales.append(scale)
                bases.append(self._computed(root))
            elif self._program.type(argument) == UNIFORM:
                scales.append(self._new[argument])
                bases.append(self._one)
            else:
                scales.append(self._one)
                bases.append(self._new[argument])
        if opcode == "mul":
            root = self._atom(builder.emit("mul", *bases))
            if self._uses[value] == 1:
                self._roots[root].factors = (bases[0], bases[1])
            return self._times(*scales), root
        scale = scales[0]
        if not builder.is_constant(scales[1], 1.0):
            scale = builder.emit("div", scale, scales[1])
        if self._divisors[operation.arguments[1]] > 1:
            reciprocal = builder.emit("div", self._one, bases[1])
            quotient = (
                reciprocal if bases[0] == self._one else builder.emit("mul", bases[0], reciprocal)
            )
        else:
            quotient = builder.emit("div", *bases)
        return scale, self._atom(quotient)

    def _choice(self, operation: Operation) -> tuple[Value, int]:
        """A choice between zero and something, the factor of that apart."""
        builder = self._builder
        condition, *branches = operation.arguments
        zero = [self._program.operations[b].attribute == 0.0 for b in branches]
        if sum(zero) != 1:
            return self._one, self._atom(self._copied(operation))
        scale, root = self._forms[branches[zero.index(False)]]
        chosen = [builder.constant(0.0) if z else self._computed(root) for z in zero]
        return scale, self._atom(builder.emit("where", self._value(condition), *chosen))

    def _value(self, value: Value) -> Value:
        """The new value of an old one."""
        if not self._tensor(value):
            return self._new[value]
        scale, number = self._forms[value]
        root = self._roots[number]
        if root.value is None and self._uses[self._base[value]] == 1:
            terms, constant = self._terms(value)
            return self._written(terms, constant, self._program.operations[value].hint)
        base = self._computed(number)
        if self._builder.is_constant(scale, 1.0):
            return base
        if self._builder.is_constant(scale, -1.0):
            return self._builder.emit("neg", base)
        return self._builder.emit("mul", scale, base)

    def _computed(self, number: int) -> Value:
        """The value of a root; what it is a sum of does not matter any more."""
        root = self._roots[number]
        if root.value is None:
            root.value = self._written(root.terms, root.constant, root.hint)
            self._atoms.setdefault(root.value, number)
        return root.value

    def _written(self, terms: dict[int, Value], constant: Value | None, hint: str | None) -> Value:
        """A sum; products that have a factor in common are added up first."""
        shared = Counter(f for r in terms for f in set(self._roots[r].factors or ()))
        factor, times = max(shared.items(), key=lambda item: item[1], default=(self._one, 0))
        rest, within = [], []
        for root, coefficient in terms.items():
            factors = self._roots[root].factors
            if times > 1 and factors is not None and factor in factors:
                within.append((coefficient, factors[factors[0] == factor]))
            else:
                rest.append((coefficient, self._computed(root)))
        if within:
            product = self._builder.emit("mul", self._added(within, None), factor)
            rest.append((self._one, product))
        total = self._added(rest, constant)
        if hint is not None:
            self._builder.suggest(total, hint)
        return total

    def _added(self, terms: list[tuple[Value, Value]], constant: Value | None) -> Value:
        builder, total = self._builder, constant
        # What is not multiplied comes first.
        for coefficient, base in sorted(terms, key=lambda t: not builder.is_constant(t[0], 1.0)):
            if total is None:
                total = (
                    base
                    if builder.is_constant(coefficient, 1.0)
                    else builder.emit("mul", coefficient, base)
                )
            elif builder.is_constant(coefficient, 1.0):
                total = builder.emit("add", total, base)
            elif builder.is_constant(coefficient, -1.0):
                total = builder.emit("sub", total, base)
            else:
                total = builder.emit("add", total, builder.emit("mul", coefficient, base))
        assert total is not None
        return total

    # --- coefficients ---------------------------------------------------------------------------

    def _times(self, x: Value, y: Value) -> Value:
        builder = self._builder
        for one, other in ((x, y), (y, x)):
            if builder.is_constant(one, 0.0) or builder.is_constant(other, 1.0):
                return one
            if builder.is_constant(one, -1.0):
                return self._negative(other)
        for one, other in ((x, y), (y, x)):
            if builder[one].opcode == "neg":
                return self._negative(self._times(builder[one].arguments[0], other))
        return builder.emit("mul", x, y)

    def _negative(self, x: Value) -> Value:
        operation = self._builder[x]
        if operation.opcode == "neg":
            return operation.arguments[0]
        if operation.opcode == "constant":
            assert isinstance(operation.attribute, float)
            return self._builder.constant(-operation.attribute)
        return self._builder.emit("neg", x)

    def _plus(self, x: Value | None, y: Value | None) -> Value | None:
        builder = self._builder
        if x is None or y is None:
            return y if x is None else x
        numbers = [builder[v].attribute for v in (x, y) if builder[v].opcode == "constant"]
        if len(numbers) == 2:
            total = sum(n for n in numbers if isinstance(n, float))
            return None if total == 0 else builder.constant(total)
        for one, other in ((x, y), (y, x)):
            if builder.is_constant(one, 0.0):
                return other
            operation = builder[one]
            if operation.opcode == "neg":
                if operation.arguments[0] == other:
                    return None
                return builder.emit("sub", other, operation.arguments[0])
        return builder.emit("add", x, y)
