"""Uniform factors collected: what is linear in tensors gets its coefficients from the host.

A mean of means of scaled sums is one sum of few terms, each with a uniform coefficient that is
computed once, in double precision; terms that cancel are gone. The result is the same function of
finite numbers, to rounding, and no more: what has no weight is multiplied with zero here, where a
mean leaves it out. A backend that runs it checks that the numbers were finite.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from optdsl.ir.builder import Builder
from optdsl.ir.program import Operation, Program, Value
from optdsl.passes.coefficients import Coefficients
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.multiples import SUMS, Multiple, Multiples

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
    """What tensors are multiples of: a sum of terms and a constant, or a value by now.

    Attributes:
        terms: coefficients by the roots that they multiply, where there is no value.
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


@dataclass(frozen=True)
class _Form:
    """A tensor as a multiple of a root."""

    scale: Value
    root: int


class _Collector:
    """Tensors as multiples of roots, roots as sums of multiples."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._needed = program.needed(program.results)
        self._old = Multiples(program, self._needed)
        self._builder = Builder()
        self._numbers = Coefficients(self._builder)
        self._new: dict[Value, Value] = {}  # of values that are no tensors of numbers
        self._forms: dict[Value, _Form] = {}  # of those that are
        self._roots: list[_Root] = []
        self._atoms: dict[Value, int] = {}  # the root of each new value

    def collected(self) -> Program:
        """The new program, with operations that nothing uses."""
        program, value = self._program, self._value
        for old in self._needed:
            self._visit(old)
        found = replace(
            program,
            states=tuple(
                replace(s, initial=value(s.initial), next=value(s.next)) for s in program.states
            ),
            parameter=value(program.parameter),
            tangents=tuple(replace(t, value=value(t.value)) for t in program.tangents),
        )
        return replace(found, operations=self._builder.operations)

    def _visit(self, value: Value) -> None:
        operation = self._program.operations[value]
        if not self._old.tensor(value):
            self._new[value] = self._copied(operation)
            return
        multiple = self._old.multiple(value)
        if multiple is not None:
            self._forms[value] = self._multiple(multiple)
        elif operation.opcode in SUMS:
            self._forms[value] = self._sum(value, operation)
        elif operation.opcode in {"mul", "div"}:
            self._forms[value] = self._product(value, operation)
        elif operation.opcode == "where":
            self._forms[value] = self._choice(operation)
        else:
            self._forms[value] = self._atom(self._copied(operation))

    def _copied(self, operation: Operation) -> Value:
        arguments = tuple(self._value(a) for a in operation.arguments)
        if operation.opcode == "mul" and all(map(self._old.uniform, operation.arguments)):
            return self._numbers.times(*arguments)
        return self._builder.copy(operation, arguments)

    def _atom(self, value: Value, scale: Value | None = None) -> _Form:
        """A multiple of something that is computed."""
        if value not in self._atoms:
            self._atoms[value] = len(self._roots)
            self._roots.append(_Root(value=value))
        return _Form(self._numbers.one if scale is None else scale, self._atoms[value])

    # --- old operations -------------------------------------------------------------------------

    def _multiple(self, multiple: Multiple) -> _Form:
        form, numbers = self._forms[multiple.of], self._numbers
        if multiple.how == "neg":
            return replace(form, scale=numbers.negative(form.scale))
        if multiple.by is None:
            return form
        change = numbers.times if multiple.how == "mul" else numbers.over
        return replace(form, scale=change(form.scale, self._new[multiple.by]))

    def _sum(self, value: Value, operation: Operation) -> _Form:
        """A sum, a difference or a mean; one that is used in several ways is computed."""
        mean = operation.opcode == "mix"
        weights, parts = operation.arguments[0::2], operation.arguments[mean :: 1 + mean]
        if mean and not all(map(self._old.uniform, weights)):
            return self._atom(self._copied(operation))
        seen = [self._terms(part) for part in parts]
        total = _Root(hint=operation.hint)
        for root in dict.fromkeys(r for terms, _ in seen for r in terms):
            coefficient = self._joined(operation, [terms.get(root) for terms, _ in seen])
            if coefficient is not None:
                total.terms[root] = coefficient
        total.constant = self._joined(operation, [constant for _, constant in seen])
        if len(total.terms) == 1 and total.constant is None:
            ((root, coefficient),) = total.terms.items()
            return _Form(coefficient, root)
        if not total.terms:  # nothing is left that has the extent of a tensor
            return self._atom(self._copied(operation))
        number = len(self._roots)
        self._roots.append(total)
        long = len(total.terms) + (total.constant is not None) >= _LONG
        exact = not mean and all(self._program.operations[a].opcode in _LEAVES for a in parts)
        if (self._old.uses[value] > 1 and (long or value in self._old.demanded)) or exact:
            self._computed(number)
        return _Form(self._numbers.one, number)

    def _terms(self, value: Value) -> tuple[dict[int, Value], Value | None]:
        """The coefficients of a value by root, and its constant."""
        numbers = self._numbers
        if self._old.uniform(value):
            zero = self._builder.is_constant(self._new[value], 0.0)
            return {}, None if zero else self._new[value]
        if not self._old.tensor(value):
            return {self._atom(self._new[value]).root: numbers.one}, None
        scale, number = self._forms[value].scale, self._forms[value].root
        root = self._roots[number]
        if root.value is not None:
            return {number: scale}, None
        terms = {r: numbers.times(scale, c) for r, c in root.terms.items()}
        return terms, None if root.constant is None else numbers.times(scale, root.constant)

    def _joined(self, operation: Operation, parts: list[Value | None]) -> Value | None:
        """The coefficient in a sum, from those in its parts."""
        numbers = self._numbers
        match operation.opcode:
            case "add":
                return numbers.plus(*parts)
            case "sub":
                left, right = parts
                return numbers.plus(left, None if right is None else numbers.negative(right))
        return numbers.mean([self._new[w] for w in operation.arguments[0::2]], parts)

    def _product(self, value: Value, operation: Operation) -> _Form:
        """A product or a quotient of tensors, uniform factors apart."""
        builder, numbers = self._builder, self._numbers
        scales, bases = [], []
        for argument in operation.arguments:
            form = self._forms.get(argument)
            if form is not None:
                scales.append(form.scale)
                bases.append(self._computed(form.root))
            elif self._old.uniform(argument):
                scales.append(self._new[argument])
                bases.append(numbers.one)
            else:
                scales.append(numbers.one)
                bases.append(self._new[argument])
        if operation.opcode == "mul":
            form = self._atom(builder.emit("mul", *bases), numbers.times(*scales))
            if self._old.used_once(value):
                self._roots[form.root].factors = (bases[0], bases[1])
            return form
        if self._old.divisors[operation.arguments[1]] > 1:
            # A product is faster than a quotient.
            quotient = builder.emit("div", numbers.one, bases[1])
            if bases[0] != numbers.one:
                quotient = builder.emit("mul", bases[0], quotient)
        else:
            quotient = builder.emit("div", *bases)
        return self._atom(quotient, numbers.over(*scales))

    def _choice(self, operation: Operation) -> _Form:
        """A choice between zero and something, the factor of that apart."""
        condition, *branches = operation.arguments
        zero = [self._program.operations[b].attribute == 0.0 for b in branches]
        form = self._forms.get(branches[zero.index(False)]) if sum(zero) == 1 else None
        if form is None:
            return self._atom(self._copied(operation))
        chosen = [self._numbers.zero if z else self._computed(form.root) for z in zero]
        return self._atom(self._builder.emit("where", self._new[condition], *chosen), form.scale)

    # --- new values -----------------------------------------------------------------------------

    def _value(self, value: Value) -> Value:
        """The new value of an old one."""
        if not self._old.tensor(value):
            return self._new[value]
        form = self._forms[value]
        if self._roots[form.root].value is None and self._old.used_once(value):
            terms, constant = self._terms(value)
            return self._written(terms, constant, self._program.operations[value].hint)
        return self._added([(form.scale, self._computed(form.root))], None)

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
        factor, times = max(shared.items(), key=lambda item: item[1], default=(None, 0))
        rest, within = [], []
        for root, coefficient in terms.items():
            factors = self._roots[root].factors
            if factor is not None and times > 1 and factors is not None and factor in factors:
                within.append((coefficient, factors[factors[0] == factor]))
            else:
                rest.append((coefficient, self._computed(root)))
        if factor is not None and within:
            product = self._builder.emit("mul", self._added(within, None), factor)
            rest.append((self._numbers.one, product))
        total = self._added(rest, constant)
        if hint is not None:
            self._builder.suggest(total, hint)
        return total

    def _added(self, terms: list[tuple[Value, Value]], constant: Value | None) -> Value:
        """Products of coefficients and values, added up; what is not multiplied comes first."""
        builder, total = self._builder, constant
        for coefficient, base in sorted(terms, key=lambda t: not builder.is_constant(t[0], 1.0)):
            sign = next((s for s in (1.0, -1.0) if builder.is_constant(coefficient, s)), None)
            term = base if sign is not None else builder.emit("mul", coefficient, base)
            if total is None:
                total = builder.emit("neg", term) if sign == -1.0 else term
            else:
                total = builder.emit("sub" if sign == -1.0 else "add", total, term)
        assert total is not None
        return total
