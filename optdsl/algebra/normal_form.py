"""Normal forms: the values of a program as polynomials over atoms.

An atom is a leaf of the program, or a function of polynomials that is not expanded further. Values
with one normal form are equal over the reals. Equal values may have different forms, since only
polynomial arithmetic and a few laws of functions are used.

A value that may be undefined (a quotient whose divisor may be zero, the logarithm of a number that
may be negative) is an atom, and only laws that also hold for infinities and NaN are applied to it;
see `optdsl.algebra.undefined`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from fractions import Fraction

from optdsl.algebra import undefined
from optdsl.algebra.facts import Fact
from optdsl.algebra.polynomial import ONE, Polynomial, constant, decimal, square_root, variable
from optdsl.algebra.step import Step
from optdsl.algebra.undefined import Sum
from optdsl.ir.laws import Stage
from optdsl.ir.ops import COMPARE, TABLE
from optdsl.ir.program import Program, Value, upstream
from optdsl.ir.types import Extent

# A sum or product that would have more terms becomes an atom, a function of its two arguments.
MAX_TERMS = 256
# Powers with larger exponents are not multiplied out.
MAX_POWER = 8
# A value is an atom, too, if its form exceeds one of these limits.
MAX_BITS = 4096
MAX_ATOMS = 512
MAX_EXPONENT = 1 << 20
# The size of all normal forms of one algebra together, at most.
MAX_WORK = 500_000

# The arguments at which functions have rational values, with these values.
FOLDED: dict[tuple[str, Fraction | int | None], Fraction] = {
    ("exp", 0): Fraction(1), ("log", 1): Fraction(0), ("tanh", 0): Fraction(0),
}  # fmt: skip
_MIRRORED = {"gt": "lt", "ge": "le"}


class TooMuchWork(Exception):
    """The normal forms of an algebra outgrew its limit."""


class Algebra:
    """Makes normal forms; all forms of one algebra can be compared, also those of two programs."""

    def __init__(self, work: int = MAX_WORK, doubles: bool = False) -> None:
        """Make an algebra without forms.

        Args:
            work: the size of all forms together beyond which `forms` raises `TooMuchWork`.
            doubles: whether values with coefficients beyond the range of double precision are
                atoms, since such numbers become infinite or zero in a run.
        """
        self._doubles = doubles
        self._work = work
        self._atoms: dict[Hashable, int] = {}
        # The atoms that may be undefined, and the sums that they stand for.
        self._undefined: dict[int, Sum] = {}
        # The atoms that some program shows to be finite; they are finite in all programs.
        self._defined: set[int] = set()

    def atom(self, *key: Hashable) -> int:
        """The atom with a key; the same key gives the same atom."""
        return self._atoms.setdefault(key, len(self._atoms))

    def hyper(self, name: str) -> int:
        """The atom of a hyperparameter."""
        return self.atom("hyper", name)

    def defined(self, form: Polynomial) -> bool:
        """Whether a value with this form is always a finite number."""
        return self._sum_of(form) is None

    def forms(
        self,
        program: Program,
        roots: Iterable[Value],
        states: Mapping[str, Hashable] | None = None,
        opaque: Collection[Value] = (),
        facts: Sequence[Fact] | None = None,
        written: Sequence[Hashable] | None = None,
        totals: Mapping[str, Hashable] | None = None,
    ) -> dict[Value, Polynomial]:
        """The normal forms of some values and of all values that they depend on.

        Args:
            program: the program.
            roots: its values.
            states: a key for each state before the step; by default, all states are different.
            opaque: values that are atoms whatever they are computed from, by their attributes.
            facts: the facts about each value. Without them, all but infinite literals are taken to
                be finite, and divisors nonzero: equal forms are equal wherever both are defined.
            written: a key for each value, equal if values are computed by the same operations, so
                that zeros have one sign. Without it, no quotients are equal where that matters.
            totals: a key for each sum over all tensors, if its argument does not tell which it is.

        Raises:
            TooMuchWork: when all forms together outgrow the limit.
        """
        found: dict[Value, Polynomial] = {}
        for value in upstream(program.operations, roots, stop=opaque):
            operation = program.operations[value]
            if value in opaque:
                found[value] = variable(self.atom("opaque", operation.attribute))
                continue
            x, name = operation.arguments, str(operation.attribute)
            step = Step(
                operation,
                [found[a] for a in x],
                Fact() if facts is None else facts[value],
                None if facts is None else [facts[a] for a in x],
                [value if written is None else written[a] for a in x],
                tuple(str(t) for a in x if (t := program.type(a)).extent is not Extent.TENSOR),
            )
            if operation.opcode == "state":
                known = name if states is None else states[name]
                found[value] = self._opaque(step.fact.defined, "state", known)
            elif totals is not None and TABLE[operation.opcode].stage is Stage.TOTAL:
                found[value] = self._opaque(step.fact.defined, "total", totals[name])
            else:
                found[value] = self._limited(step, self._form(step))
            self._work -= sum(1 + len(monomial) for monomial, _ in found[value])
            if self._work < 0:
                raise TooMuchWork
        return found

    def _form(self, step: Step) -> Polynomial:
        operation, x = step.operation, step.x
        if step.fact.large and not (operation.opcode == "pow" and x[1].number is None):
            return self._large(step)
        match operation.opcode:
            case "constant":
                return self._constant(operation.attribute)
            case "identity" | "indices" as opcode:
                return self._opaque(True, opcode, str(operation.type))
            case opcode if TABLE[opcode].leaf:
                return self._opaque(step.fact.defined, operation.opcode, operation.attribute)
            case "draw":
                # Nothing is known of what is drawn but that equal draws are equal.
                kind = str(operation.type)
                return self._opaque(step.fact.defined, "draw", operation.attribute, kind, x[0])
            case "define" | "stop_gradient":
                return x[0]
            case "neg":
                return self._product(constant(-1), x[0])
            case "add":
                return self._sum(*x)
            case "sub":
                return self._difference(*x)
            case "mix" if all(map(self.defined, x)):
                return self._mean(x[0::2], x[1::2])
            case "mul":
                return self._product(*x)
            case "div":
                return self._quotient(step, *x)
            case "pow":
                return self._power(step, *x)
            case "sqrt":
                return self._root(step, *x)
            case "sign" | "abs":
                return self._signed(step, *x)
            case "max" | "min":
                return self._extremum(operation.opcode, *x)
            case "where":
                return self._where(*x)
            case opcode if opcode in COMPARE:
                return self._comparison(step, *x)
            case "sum" | "mean":
                # A number in front of a reduction can stand behind it. A sum of equal terms depends
                # on how many there are, and so on the type.
                reduced = self._opaque(
                    self.defined(x[0]), operation.opcode, x[0].monic(), *step.types
                )
                return self._product(constant(x[0].leading), reduced)
            case opcode if (opcode, x[0].number) in FOLDED:
                return constant(FOLDED[opcode, x[0].number])
            case opcode if TABLE[opcode].stage.mixes:
                # So does a sum along an axis, or over all tensors.
                finite = step.fact.defined and all(map(self.defined, x))
                return self._opaque(finite, opcode, step.types, *x)
            case opcode:
                return self._function(opcode, *x, defined=step.fact.defined)

    def _mean(self, weights: list[Polynomial], parts: list[Polynomial]) -> Polynomial:
        weighed = functools.reduce(self._sum, map(self._product, weights, parts))
        # The algebra does not know that the components of a weight vector sum to one.
        total = functools.reduce(self._sum, weights)
        return self._divided(weighed, total) if total.terms else self._over(total, 1)

    # --- atoms ----------------------------------------------------------------------------------

    def _opaque(self, defined: bool, *key: Hashable) -> Polynomial:
        """The atom of a key; `defined` says whether it is always a finite number."""
        atom = self.atom(*key)
        if defined:
            self._defined.add(atom)
            self._undefined.pop(atom, None)
        elif atom not in self._defined:
            self._undefined.setdefault(atom, undefined.of_atom(atom))
        return variable(atom)

    def _function(self, opcode: str, *x: Polynomial, defined: bool = True) -> Polynomial:
        """A function as an atom, which may be undefined if one of its arguments may be."""
        return self._opaque(defined and all(map(self.defined, x)), opcode, *x)

    def _commuting(self, opcode: str, *x: Polynomial, defined: bool = True) -> Polynomial:
        return self._function(opcode, *sorted(x), defined=defined)

    def _limited(self, step: Step, form: Polynomial) -> Polynomial:
        """The form of an operation, or an atom if the form has too large numbers."""
        scales = (c.numerator.bit_length() - c.denominator.bit_length() for _, c in form)
        beyond = self._doubles and any(not -1077 < scale < 1024 for scale in scales)
        long = any(len(m) > MAX_ATOMS or any(abs(e) > MAX_EXPONENT for _, e in m) for m, _ in form)
        return self._large(step) if beyond or long or form.bits > MAX_BITS else form

    def _large(self, step: Step) -> Polynomial:
        """An operation that may overflow, as an atom."""
        opcode = step.operation.opcode
        x = sorted(step.x) if TABLE[opcode].laws.commutative else step.x
        divided = {"div": 1, "pow": 0}.get(opcode)
        sign = None if divided is None else self._zero(step, divided, Fraction(1))
        types = step.types if TABLE[opcode].stage.mixes else ()
        return self._opaque(False, "large", opcode, sign, types, *x)

    # --- sums and products ----------------------------------------------------------------------

    def _constant(self, number: object) -> Polynomial:
        assert isinstance(number, float)
        if math.isfinite(number):
            return constant(decimal(number))
        return self._opaque(False, "constant", repr(number))

    def _sum_of(self, form: Polynomial) -> Sum | None:
        """The sum that a form stands for, if it may be undefined: such a form is one atom."""
        match form.terms:
            case ((((atom, _),), 1),):
                return self._undefined.get(atom)
        return None

    def _opened(self, form: Polynomial) -> Sum:
        return self._sum_of(form) or Sum(form, ())

    def _closed(self, found: Sum) -> Polynomial:
        if not found.terms:
            return found.number
        if found.single is not None:
            return variable(found.single)
        self._work -= 32 + sum(1 + len(coefficient) for _, coefficient in found.terms)
        bits = max(coefficient.bits for _, coefficient in found.terms)
        if len(found.terms) > MAX_TERMS or bits > MAX_BITS:
            return self._opaque(False, "long sum", found)
        atom = self.atom("sum of", found)
        self._undefined[atom] = found
        return variable(atom)

    def _sum(self, x: Polynomial, y: Polynomial) -> Polynomial:
        if self.defined(x) and self.defined(y):
            return x + y if len(x) + len(y) <= MAX_TERMS else self._commuting("long sum", x, y)
        left, right = self._opened(x), self._opened(y)
        number = self._sum(left.number, right.number)
        return self._closed(undefined.added(number, left.terms + right.terms))

    def _product(self, x: Polynomial, y: Polynomial) -> Polynomial:
        if self.defined(x) and self.defined(y):
            if len(x) * len(y) > MAX_TERMS and x.number is None and y.number is None:
                return self._commuting("product", x, y)
            self._work -= len(x) * len(y)
            product = x * y
            fits = product.bits <= 2 * MAX_BITS
            return product if fits else self._commuting("product", x, y, defined=False)
        for factor, other in ((x, y), (y, x)):
            if self.defined(factor):
                return self._closed(undefined.scaled(factor, self._opened(other), self._product))
        first, second = self._whole(x), self._whole(y)
        if len(first[0]) + len(second[0]) > MAX_ATOMS:
            return self._commuting("product", x, y)
        return self._closed(undefined.multiplied(first, second, self._product))

    def _whole(self, x: Polynomial) -> undefined.Term:
        """A value that may be undefined, as one factor: sums are not multiplied out."""
        whole = self._opened(x).product
        return whole or ((self._function("whole", x).terms[0][0][0][0],), ONE)

    # --- quotients ------------------------------------------------------------------------------

    def _divided(self, x: Polynomial, y: Polynomial) -> Polynomial:
        """x / y for a y that is a number other than zero."""
        if self.defined(x) and x.monic() == y.monic():
            return constant(x.leading / y.leading)
        inverse = y.inverse()
        if inverse is None:
            # A sum has no polynomial as its inverse: an atom stands for its monic multiple.
            inverse = variable(self.atom("sum of terms", y.monic()), -1).scaled(1 / y.leading)
        return self._product(x, inverse)

    def _quotient(self, step: Step, x: Polynomial, y: Polynomial) -> Polynomial:
        nonzero = step.facts is None or step.facts[1].nonzero
        if nonzero and y.terms and self.defined(y):
            return self._divided(x, y)
        return self._product(x, self._over(y, self._zero(step, 1, y.leading)))

    def _over(self, y: Polynomial, sign: Hashable) -> Polynomial:
        """1 / y for a y that may be zero or undefined; `sign` tells its zeros apart."""
        inverse = self._opaque(False, "over", y.monic(), sign)
        return self._product(constant(1 / y.leading), inverse) if y.terms else inverse

    def _zero(self, step: Step, argument: int, direction: Fraction) -> Hashable:
        """The sign of an argument where it is zero, times that of a factor, if it is known.

        If both signs are possible, a key that arguments computed by the same operations share.
        """
        if step.facts is None:
            return 1
        fact = step.facts[argument]
        if fact.plus and fact.minus and 0.0 in fact.range:
            return ("written", step.written[argument])
        return (1 if fact.plus else -1) * (-1 if direction < 0 else 1)

    def _power(self, step: Step, x: Polynomial, y: Polynomial) -> Polynomial:
        exponent = y.number
        if exponent == 0 or (x.number == 1 and self.defined(y)):
            return ONE
        if exponent == Fraction(1, 2) and self.defined(x):
            return self._root(step, x)
        if exponent is not None and exponent.denominator == 1 and abs(exponent) <= MAX_POWER:
            product = functools.reduce(self._product, [x] * abs(int(exponent)))
            if exponent > 0:
                return product
            if self.defined(x) and (step.facts is None or step.facts[0].nonzero) and product.terms:
                return self._divided(ONE, product)
            return self._over(product, self._zero(step, 0, x.leading) if exponent % 2 else 1)
        if step.fact.defined and self.defined(x) and self.defined(y):
            return self._function("pow", x, y)
        return self._opaque(False, "pow", x, y, self._zero(step, 0, Fraction(1)))

    # --- functions ------------------------------------------------------------------------------

    def _root(self, step: Step, x: Polynomial) -> Polynomial:
        if not x.terms:
            return x
        root, defined = square_root(x.leading), step.fact.defined
        if root is None:
            return self._function("sqrt", x, defined=defined)
        rest = x.monic()
        kept = ONE if rest == ONE else self._function("sqrt", rest, defined=defined)
        return self._product(constant(root), kept)

    def _signed(self, step: Step, x: Polynomial) -> Polynomial:
        """sign(c x) = sign(c) sign(x), and the same for absolute values."""
        opcode, number, scale = step.operation.opcode, x.number, x.leading
        if opcode == "sign" and number is not None and not step.decided(number):
            return self._opaque(True, opcode, "rounded", *step.written)
        outer = constant(abs(scale) if opcode == "abs" else (scale > 0) - (scale < 0))
        if number is not None:
            return outer
        return self._product(outer, self._function(opcode, x.monic()))

    def _extremum(self, opcode: str, x: Polynomial, y: Polynomial) -> Polynomial:
        if x == y:
            return x
        larger = self._difference(x, y).number if self.defined(x) and self.defined(y) else None
        if larger is None:
            return self._commuting(opcode, x, y)
        return x if (larger >= 0) == (opcode == "max") else y

    def _difference(self, x: Polynomial, y: Polynomial) -> Polynomial:
        return self._sum(x, self._product(constant(-1), y))

    def _comparison(self, step: Step, x: Polynomial, y: Polynomial) -> Polynomial:
        """A condition, as 1 or 0 if it always or never holds, and as an atom otherwise.

        It is an atom also if rounding may decide it differently from the real numbers.
        """
        opcode, written = step.operation.opcode, step.written
        if opcode in _MIRRORED:
            opcode, x, y, written = _MIRRORED[opcode], y, x, written[::-1]
        ordered = not TABLE[opcode].laws.commutative
        if not (self.defined(x) and self.defined(y)):
            # The difference of two infinities does not say how they compare.
            return self._opaque(True, opcode, *((x, y) if ordered else sorted((x, y))))
        difference = self._difference(x, y)
        if difference.number is None:
            scale = abs(difference.leading) if ordered else difference.leading
            return self._opaque(True, opcode, difference.scaled(1 / scale))
        if step.decided(difference.number):
            return constant(COMPARE[opcode](difference.number, 0))
        return self._opaque(True, opcode, "rounded", *written)

    def _where(self, condition: Polynomial, x: Polynomial, y: Polynomial) -> Polynomial:
        if condition.number is not None or x == y:
            return x if condition.number != 0 else y
        return self._function("where", condition, x, y)
