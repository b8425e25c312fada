"""Polynomials with rational coefficients; their variables, called atoms, are plain integers.

Exponents may be negative: the inverse of an atom is the atom to the power -1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction

# Atoms with their exponents, none of which is 0, sorted by atom.
Monomial = tuple[tuple[int, int], ...]


@dataclass(frozen=True, order=True, slots=True)
class Polynomial:
    """A sum of monomials with nonzero coefficients, sorted so that equal polynomials are equal."""

    terms: tuple[tuple[Monomial, Fraction], ...]

    @property
    def number(self) -> Fraction | None:
        """The value of a constant polynomial; None for others."""
        match self.terms:
            case ():
                return Fraction(0)
            case (((), coefficient),):
                return coefficient
        return None

    @property
    def atoms(self) -> frozenset[int]:
        """The atoms that occur."""
        return frozenset(atom for monomial, _ in self.terms for atom, _ in monomial)

    @property
    def leading(self) -> Fraction:
        """The coefficient of the last monomial; 0 for the polynomial 0."""
        return self.terms[-1][1] if self.terms else Fraction(0)

    @property
    def bits(self) -> int:
        """The length in bits of the longest numerator or denominator."""
        sizes = (max(c.numerator.bit_length(), c.denominator.bit_length()) for _, c in self.terms)
        return max(sizes, default=0)

    def __iter__(self) -> Iterator[tuple[Monomial, Fraction]]:
        return iter(self.terms)

    def __len__(self) -> int:
        return len(self.terms)

    def __add__(self, other: Polynomial) -> Polynomial:
        return _collected((*self.terms, *other.terms))

    def __neg__(self) -> Polynomial:
        return self.scaled(Fraction(-1))

    def __sub__(self, other: Polynomial) -> Polynomial:
        return self + -other

    def __mul__(self, other: Polynomial) -> Polynomial:
        return _collected((_product(m, n), a * b) for m, a in self.terms for n, b in other.terms)

    def scaled(self, factor: Fraction) -> Polynomial:
        """factor * self."""
        return Polynomial(tuple((m, factor * c) for m, c in self.terms)) if factor else ZERO

    def monic(self) -> Polynomial:
        """The multiple whose leading coefficient is 1; 0 for the polynomial 0."""
        return self.scaled(1 / self.leading) if self.terms else self

    def inverse(self) -> Polynomial | None:
        """1 / self if it is a single term; None otherwise."""
        if len(self.terms) != 1:
            return None
        monomial, coefficient = self.terms[0]
        return Polynomial(((tuple((a, -e) for a, e in monomial), 1 / coefficient),))

    def substituted(self, values: Mapping[int, Polynomial]) -> Polynomial:
        """The polynomial with some atoms replaced, which must not have negative exponents."""
        total = ZERO
        for monomial, coefficient in self.terms:
            kept = tuple((a, e) for a, e in monomial if a not in values)
            factors = (values[a] for a, e in monomial if a in values for _ in range(e))
            start = Polynomial(((kept, coefficient),))
            total += functools.reduce(Polynomial.__mul__, factors, start)
        return total


def constant(number: Fraction | int) -> Polynomial:
    """A number."""
    return Polynomial((((), Fraction(number)),)) if number else Polynomial(())


def decimal(number: float) -> Fraction:
    """A finite float as the shortest decimal that reads back as it."""
    return Fraction(repr(number))


def square_root(x: Fraction) -> Fraction | None:
    """The square root of a number, if it is rational."""
    if x < 0:
        return None
    root = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
    return root if root * root == x else None


def variable(atom: int, exponent: int = 1) -> Polynomial:
    """An atom to a power other than 0."""
    return Polynomial(((((atom, exponent),), Fraction(1)),))


ZERO = constant(0)
ONE = constant(1)


def _collected(terms: Iterable[tuple[Monomial, Fraction]]) -> Polynomial:
    total: dict[Monomial, Fraction] = {}
    for monomial, coefficient in terms:
        total[monomial] = total.get(monomial, Fraction(0)) + coefficient
    return Polynomial(tuple(sorted((m, c) for m, c in total.items() if c)))


def _product(left: Monomial, right: Monomial) -> Monomial:
    if not left or not right:
        return left or right
    exponents = dict(left)
    for atom, exponent in right:
        exponents[atom] = exponents.get(atom, 0) + exponent
    return tuple(sorted((a, e) for a, e in exponents.items() if e))
