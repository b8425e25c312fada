"""Values of programs as polynomials over leaves and opaque functions.

Two values with one normal form are equal over the reals wherever both are defined. The converse
holds for what polynomial arithmetic decides; functions are opaque but for a few laws, so some equal
values keep different forms.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Hashable, Iterable, Mapping
from fractions import Fraction

from optdsl.algebra.polynomial import ONE, ZERO, Polynomial, constant, variable
from optdsl.ir.host import COMPARE
from optdsl.ir.program import Operation, Program, Value, upstream

# A product or sum with more terms stays one of two atoms: still equal to itself.
MAX_TERMS = 256
MAX_POWER = 8

_FOLDED: dict[tuple[str, Fraction], Fraction] = {
    ("exp", Fraction(0)): Fraction(1),
    ("log", Fraction(1)): Fraction(0),
    ("tanh", Fraction(0)): Fraction(0),
}


class Algebra:
    """Makes normal forms; those of one algebra can be compared, whatever programs they are of."""

    def __init__(self) -> None:
        self._atoms: dict[Hashable, int] = {}
        # What is made of infinity, with which no law of arithmetic holds.
        self._infinite: set[int] = set()

    def atom(self, *key: Hashable) -> int:
        """The atom that stands for something; the same key gives the same atom."""
        return self._atoms.setdefault(key, len(self._atoms))

    def hyper(self, name: str) -> int:
        """The atom of a hyperparameter."""
        return self.atom("hyper", name)

    def forms(
        self,
        program: Program,
        roots: Iterable[Value],
        states: Mapping[str, Hashable] | None = None,
        opaque: Collection[Value] = (),
    ) -> dict[Value, Polynomial]:
        """The normal forms of some values and of what they depend on.

        Args:
            program: where the values are.
            roots: the values.
            states: what each state before the step is taken to be; states that are taken to be
                the same thing are equal. By default every state is itself.
            opaque: values that are atoms, named by their attribute.
        """
        found: dict[Value, Polynomial] = {}
        for value in upstream(program.operations, roots, stop=opaque):
            operation = program.operations[value]
            if value in opaque:
                found[value] = variable(self.atom("opaque", operation.attribute))
            elif operation.opcode == "state":
                name = str(operation.attribute)
                known = name if states is None else states[name]
                found[value] = variable(self.atom("state", known))
            else:
                found[value] = self._form(operation, [found[a] for a in operation.arguments])
        return found

    def _form(self, operation: Operation, x: list[Polynomial]) -> Polynomial:
        if operation.opcode not in {"define", "stop_gradient"} and any(
            not self._infinite.isdisjoint(p.atoms) for p in x
        ):
            atom = self.atom(operation.opcode, *x)
            self._infinite.add(atom)
            return variable(atom)
        match operation.opcode:
            case "constant":
                return self._constant(operation.attribute)
            case "hyper" | "step" | "gradient" | "parameter" | "size":
                return variable(self.atom(operation.opcode, operation.attribute))
            case "define" | "stop_gradient":
                return x[0]
            case "neg":
                return -x[0]
            case "add":
                return self._sum(x[0], x[1])
            case "sub":
                return self._sum(x[0], -x[1])
            case "mix":
                pairs = list(zip(x[0::2], x[1::2], strict=True))
                weighed = sum((self._product(w, part) for w, part in pairs), start=ZERO)
                return self._quotient(weighed, sum((w for w, _ in pairs), start=ZERO))
            case "mul":
                return self._product(x[0], x[1])
            case "div":
                return self._quotient(x[0], x[1])
            case "pow":
                return self._power(x[0], x[1])
            case "sqrt":
                return self._root(x[0])
            case "sign" | "abs":
                return self._signed(operation.opcode, x[0])
            case "max" | "min":
                return self._extremum(operation.opcode, x[0], x[1])
            case "where":
                return self._where(*x)
            case "lt" | "le" | "gt" | "ge" | "eq" | "ne":
                return self._comparison(operation.opcode, x[0] - x[1])
            case "sum" | "mean":
                # A number in front of a reduction can stand behind it.
                reduced = variable(self.atom(operation.opcode, x[0].monic()))
                return reduced.scaled(x[0].leading)
            case opcode:
                number = x[0].number
                if number is not None and (opcode, number) in _FOLDED:
                    return constant(_FOLDED[opcode, number])
                return variable(self.atom(opcode, *x))

    def _constant(self, number: object) -> Polynomial:
        assert isinstance(number, float)
        if math.isinf(number):
            atom = self.atom("constant", number)
            self._infinite.add(atom)
            return variable(atom)
        return constant(decimal(number))

    def _sum(self, x: Polynomial, y: Polynomial) -> Polynomial:
        if len(x) + len(y) <= MAX_TERMS:
            return x + y
        return self._commuting("long sum", x, y)

    def _product(self, x: Polynomial, y: Polynomial) -> Polynomial:
        if len(x) * len(y) <= MAX_TERMS or x.number is not None or y.number is not None:
            return x * y
        return self._commuting("product", x, y)

    def _quotient(self, x: Polynomial, y: Polynomial) -> Polynomial:
        inverse = y.inverse()
        if inverse is not None:
            return self._product(x, inverse)
        if not y.terms:
            return variable(self.atom("over zero", x))
        if x.monic() == y.monic():
            return constant(x.leading / y.leading)
        # A sum has no inverse among polynomials: an atom stands for it, numbers taken out.
        inverted = variable(self.atom("sum of terms", y.monic()), -1)
        return self._product(x, inverted.scaled(1 / y.leading))

    def _power(self, x: Polynomial, y: Polynomial) -> Polynomial:
        exponent = y.number
        if exponent == 0 or x.number == 1:
            return ONE
        if exponent == Fraction(1, 2):
            return self._root(x)
        if exponent is not None and exponent.denominator == 1 and abs(exponent) <= MAX_POWER:
            factors = [x] * abs(int(exponent))
            product = functools.reduce(self._product, factors)
            return product if exponent > 0 else self._quotient(ONE, product)
        return variable(self.atom("pow", x, y))

    def _root(self, x: Polynomial) -> Polynomial:
        scale = x.leading
        if scale > 0:
            root = Fraction(math.isqrt(scale.numerator), math.isqrt(scale.denominator))
            if root * root == scale:
                rest = x.monic()
                return (ONE if rest == ONE else variable(self.atom("sqrt", rest))).scaled(root)
        return variable(self.atom("sqrt", x)) if x.terms else ZERO

    def _signed(self, opcode: str, x: Polynomial) -> Polynomial:
        """sign(c x) = sign(c) sign(x), and the same for absolute values."""
        scale = x.leading
        size = abs(scale) if opcode == "abs" else Fraction(1)
        direction = size if opcode == "abs" or scale > 0 else -size
        if x.number is not None:
            return constant(direction) if scale else ZERO
        return variable(self.atom(opcode, x.monic())).scaled(direction)

    def _extremum(self, opcode: str, x: Polynomial, y: Polynomial) -> Polynomial:
        difference = (x - y).number
        if difference is not None:
            return x if (difference >= 0) == (opcode == "max") else y
        return self._commuting(opcode, x, y)

    def _commuting(self, opcode: str, x: Polynomial, y: Polynomial) -> Polynomial:
        first, second = sorted((x, y), key=lambda p: p.terms)
        return variable(self.atom(opcode, first, second))

    def _comparison(self, opcode: str, difference: Polynomial) -> Polynomial:
        """A condition as 1 or 0 where it is decided, else as an atom; differences are scaled."""
        number = difference.number
        if number is not None:
            return constant(COMPARE[opcode](number, 0))
        if opcode in {"gt", "ge"}:
            opcode, difference = {"gt": "lt", "ge": "le"}[opcode], -difference
        scale = abs(difference.leading) if opcode in {"lt", "le"} else difference.leading
        return variable(self.atom(opcode, difference.scaled(1 / scale)))

    def _where(self, condition: Polynomial, x: Polynomial, y: Polynomial) -> Polynomial:
        decided = condition.number
        if decided is not None or x == y:
            return x if decided != 0 else y
        return variable(self.atom("where", condition, x, y))


def decimal(number: float) -> Fraction:
    """A finite float as the shortest decimal that reads back as it."""
    return Fraction(repr(number))
