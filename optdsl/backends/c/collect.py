"""Collection of factors: expressions that are linear in tensors become sums of few terms.

Means of scaled sums become one sum, in which each term has a coefficient that is computed in double
precision before the loop: by the host where it is uniform, once a tensor where it is made of a
number of the tensor, such as a norm or a scalar state. Terms that cancel are removed. The result is
the same function only for finite numbers, and up to rounding: a part of a mean without weight is
multiplied by zero here, and not left out. The emitted code checks that the numbers are finite.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from optdsl.backends.c.coefficients import NEGATIVE, ONE, Coefficient, Coefficients
from optdsl.backends.c.multiples import Multiple, Multiples
from optdsl.ir.builder import Builder
from optdsl.ir.laws import Stage
from optdsl.ir.ops import TABLE
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.eliminate_dead import eliminate_dead

# A sum of at least this many terms that is used more than once is computed once.
_LONG = 3


def collect(program: Program) -> Program:
    """An equivalent program on finite numbers with fewer operations on tensors.

    Differences of two leaves are kept, since they are exact where the leaves are close.
    """
    return eliminate_dead(collected(program)[0])


def collected(program: Program) -> tuple[Program, Mapping[Value, Value]]:
    """The same with unused operations, and the new values of what is no tensor of numbers."""
    collector = _Collector(program)
    return collector.collected(), collector.others


@dataclass
class _Root:
    """A tensor of which others are multiples: a sum of terms and a constant, or a computed value.

    Attributes:
        terms: the coefficient of each root in the sum, by the number of the root.
        constant: a number that is added to the sum.
        value: the value in the new program, once it is computed.
        hint: its name.
        factors: the two factors of a product that is used only once.
    """

    terms: dict[int, Coefficient] = field(default_factory=dict)
    constant: Value | None = None
    value: Value | None = None
    hint: str | None = None
    factors: tuple[Value, Value] | None = None


@dataclass(frozen=True)
class _Form:
    """A tensor as a multiple of a root."""

    scale: Coefficient
    root: int


class _Collector:
    """Represents tensors as multiples of roots, and roots as sums of multiples."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._needed = program.needed(program.results)
        self._old = Multiples(program, self._needed)
        self._builder = Builder()
        self._numbers = Coefficients(self._builder)
        self.others: dict[Value, Value] = {}  # of values that are no tensors of numbers
        self._forms: dict[Value, _Form] = {}  # of those that are
        self._roots: list[_Root] = []
        self._atoms: dict[Value, int] = {}  # the root of each new value

    def collected(self) -> Program:
        """The new program, which may have unused operations."""
        for old in self._needed:
            self._visit(old)
        program = self._program
        results = [v for s in program.states for v in (s.initial, s.next)]
        results += [program.parameter, *(t.value for t in program.tangents)]
        new = {old: self._value(old) for old in results}
        return program.rebuilt(self._builder.operations, new)

    def _visit(self, value: Value) -> None:
        operation = self._program.operations[value]
        if not self._old.tensor(value):
            self.others[value] = self._copied(operation)
            return
        multiple = self._old.multiple(value)
        if multiple is not None:
            self._forms[value] = self._multiple(multiple)
        elif TABLE[operation.opcode].laws.additive:
            self._forms[value] = self._sum(value, operation)
        else:
            match operation.opcode:
                case "mul" | "div":
                    self._forms[value] = self._product(value, operation)
                case "where":
                    self._forms[value] = self._choice(operation)
                case _:
                    self._forms[value] = self._atom(self._copied(operation))

    def _copied(self, operation: Operation) -> Value:
        arguments = tuple(self._value(a) for a in operation.arguments)
        if operation.opcode == "mul" and all(map(self._old.uniform, operation.arguments)):
            # Zero times a finite number; rules with a hyperparameter fixed at 0 have such products.
            zeros = [a for a in arguments if self._builder.is_constant(a, 0.0)]
            if zeros:
                return zeros[0]
        return self._builder.copy(operation, arguments)

    def _atom(self, value: Value, scale: Coefficient = ONE) -> _Form:
        """A multiple of a computed value."""
        if value not in self._atoms:
            self._atoms[value] = len(self._roots)
            self._roots.append(_Root(value=value))
        return _Form(scale, self._atoms[value])

    # --- old operations -------------------------------------------------------------------------

    def _multiple(self, multiple: Multiple) -> _Form:
        form, numbers = self._forms[multiple.of], self._numbers
        if multiple.how == "neg":
            return replace(form, scale=numbers.times(NEGATIVE, form.scale))
        if multiple.by is None:
            return form
        by = numbers.of(self.others[multiple.by]) or Coefficient(0.0)
        change = numbers.times if multiple.how == "mul" else numbers.over
        return replace(form, scale=change(form.scale, by))

    def _stored(self, value: Value) -> bool:
        """Whether a value is read from memory."""
        return TABLE[self._program.operations[value].opcode].stage is Stage.BUFFER

    def _sum(self, value: Value, operation: Operation) -> _Form:
        """A sum, a difference or a mean; one that is used several times is computed."""
        mean = operation.opcode == "mix"
        weights, parts = operation.arguments[0::2], operation.arguments[mean :: 1 + mean]
        if mean and not all(map(self._old.number, weights)):
            return self._atom(self._copied(operation))
        seen = [self._terms(part) for part in parts]
        total = _Root(hint=operation.hint)
        for root in dict.fromkeys(r for terms, _ in seen for r in terms):
            coefficient = self._joined(operation, [terms.get(root) for terms, _ in seen])
            if coefficient is not None:
                total.terms[root] = coefficient
        constants = [None if c is None else self._numbers.of(c) for _, c in seen]
        constant = self._joined(operation, constants)
        total.constant = None if constant is None else self._numbers.value(constant)
        if len(total.terms) == 1 and total.constant is None:
            ((root, coefficient),) = total.terms.items()
            return _Form(coefficient, root)
        if not total.terms:  # nothing is left that has the extent of a tensor
            return self._atom(self._copied(operation))
        number = len(self._roots)
        self._roots.append(total)
        long = len(total.terms) + (total.constant is not None) >= _LONG
        exact = not mean and all(map(self._stored, parts))
        if (self._old.uses[value] > 1 and (long or value in self._old.demanded)) or exact:
            self._computed(number)
        return _Form(ONE, number)

    def _terms(self, value: Value) -> tuple[dict[int, Coefficient], Value | None]:
        """The coefficients of a value by root, and its constant."""
        numbers = self._numbers
        if self._old.number(value):
            zero = self._builder.is_constant(self.others[value], 0.0)
            return {}, None if zero else self.others[value]
        if not self._old.tensor(value):
            return {self._atom(self.others[value]).root: ONE}, None
        scale, number = self._forms[value].scale, self._forms[value].root
        root = self._roots[number]
        if root.value is not None:
            return {number: scale}, None
        terms = {r: numbers.times(scale, c) for r, c in root.terms.items()}
        constant = None if root.constant is None else numbers.of(root.constant)
        if constant is None:
            return terms, None
        return terms, numbers.value(numbers.times(scale, constant))

    def _joined(self, operation: Operation, parts: list[Coefficient | None]) -> Coefficient | None:
        """The coefficient in a sum, from those in its parts."""
        numbers = self._numbers
        match operation.opcode:
            case "add":
                return numbers.plus(*parts)
            case "sub":
                left, right = parts
                return numbers.plus(left, None if right is None else numbers.times(NEGATIVE, right))
        return numbers.mean([self.others[w] for w in operation.arguments[0::2]], parts)

    def _product(self, value: Value, operation: Operation) -> _Form:
        """A product or a quotient of tensors, numbers apart."""
        builder, numbers = self._builder, self._numbers
        one = builder.constant(1.0)
        scales, bases = [], []
        for argument in operation.arguments:
            form = self._forms.get(argument)
            if form is not None:
                scales.append(form.scale)
                bases.append(self._computed(form.root))
            elif self._old.number(argument):
                scales.append(numbers.of(self.others[argument]) or Coefficient(0.0))
                bases.append(one)
            else:
                scales.append(ONE)
                bases.append(self.others[argument])
        if operation.opcode == "mul" and bases[0] == bases[1]:
            # The square of a base may underflow where the square of its multiple does not.
            squared = [self._value(a) for a in operation.arguments]
            return self._atom(builder.emit("mul", *squared))
        if operation.opcode == "mul":
            form = self._atom(builder.emit("mul", *bases), numbers.times(*scales))
            if self._old.used_once(value):
                self._roots[form.root].factors = (bases[0], bases[1])
            return form
        if self._old.divisors[operation.arguments[1]] > 1:
            # A product is faster than a quotient.
            quotient = builder.emit("div", one, bases[1])
            if bases[0] != one:
                quotient = builder.emit("mul", bases[0], quotient)
        else:
            quotient = builder.emit("div", *bases)
        return self._atom(quotient, numbers.over(*scales))

    def _choice(self, operation: Operation) -> _Form:
        """A choice between zero and a multiple, whose factor is taken out of the choice."""
        condition, *branches = operation.arguments
        zero = [self._program.operations[b].attribute == 0.0 for b in branches]
        form = self._forms.get(branches[zero.index(False)]) if sum(zero) == 1 else None
        if form is None:
            return self._atom(self._copied(operation))
        nothing = self._builder.constant(0.0)
        chosen = [nothing if z else self._computed(form.root) for z in zero]
        return self._atom(self._builder.emit("where", self.others[condition], *chosen), form.scale)

    # --- new values -----------------------------------------------------------------------------

    def _value(self, value: Value) -> Value:
        """The new value of an old one."""
        if not self._old.tensor(value):
            return self.others[value]
        form = self._forms[value]
        if self._roots[form.root].value is None and self._old.used_once(value):
            terms, constant = self._terms(value)
            return self._written(terms, constant, self._program.operations[value].hint)
        return self._added([(form.scale, self._computed(form.root))], None)

    def _computed(self, number: int) -> Value:
        """The value of a root, after which its terms are not used any more."""
        root = self._roots[number]
        if root.value is None:
            root.value = self._written(root.terms, root.constant, root.hint)
            self._atoms.setdefault(root.value, number)
        return root.value

    def _written(
        self, terms: dict[int, Coefficient], constant: Value | None, hint: str | None
    ) -> Value:
        """The value of a sum, in which products with a common factor are added up first."""
        shared = Counter(f for r in terms for f in set(self._roots[r].factors or ()))
        factor, times = max(shared.items(), key=lambda item: item[1], default=(None, 0))
        rest, within = [], []
        for root, coefficient in terms.items():
            factors = self._roots[root].factors
            if factor is not None and times > 1 and factors is not None and factor in factors:
                within.append((coefficient, factors[factors[0] == factor]))
            else:
                rest.append((coefficient, self._computed(root)))
        if factor is not None and within:
            rest.append((ONE, self._builder.emit("mul", self._added(within, None), factor)))
        total = self._added(rest, constant)
        if hint is not None:
            self._builder.suggest(total, hint)
        return total

    def _added(self, terms: list[tuple[Coefficient, Value]], constant: Value | None) -> Value:
        """The sum of products of coefficients and values.

        Terms with a coefficient of 1 or -1 come last: a parameter is much larger than its updates,
        and adding them to it one by one would round each of them.
        """
        builder, total = self._builder, constant
        plain = []
        for coefficient, base in terms:
            scale: Coefficient | None = coefficient
            if coefficient.literal in {1.0, -1.0}:
                plain.append((coefficient.literal, base))
                scale = None if coefficient.rest is None else Coefficient(0.0, coefficient.rest)
            if scale is not None:
                term = builder.emit("mul", self._numbers.value(scale), base)
                total = term if total is None else builder.emit("add", total, term)
        # A subtracted term is not the first one if there is another.
        for sign, base in sorted(plain, reverse=total is None):
            if total is None:
                total = base if sign == 1.0 else builder.emit("neg", base)
            else:
                total = builder.emit("add" if sign == 1.0 else "sub", total, base)
        assert total is not None
        return total
