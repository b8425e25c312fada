"""Sums and products of values that may be infinite or NaN.

Only laws that hold for such values are used: sums and products commute and associate, a finite
number may be distributed over a sum, and multiples of one value may be added up if they have the
same sign. Nothing cancels: x - x is kept as 0 * x, which is zero where x is finite and NaN
elsewhere, and x / x and (1 - k) * x stay as they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from optdsl.algebra.polynomial import ONE, ZERO, Polynomial

# A product: its atoms that may be undefined, sorted, and the finite number that multiplies them.
Term = tuple[tuple[int, ...], Polynomial]
Product = Callable[[Polynomial, Polynomial], Polynomial]


@dataclass(frozen=True, slots=True)
class Sum:
    """A finite number plus products that may be undefined, sorted so that equal sums are equal."""

    number: Polynomial
    terms: tuple[Term, ...]

    @property
    def single(self) -> int | None:
        """The atom, if the sum is one atom and nothing else."""
        match self.product:
            case ((atom,), coefficient) if coefficient == ONE:
                return atom
        return None

    @property
    def product(self) -> Term | None:
        """The product, if the sum is one product and nothing else."""
        return None if self.number.terms or len(self.terms) != 1 else self.terms[0]


def of_atom(atom: int) -> Sum:
    """An atom that may be undefined."""
    return Sum(ZERO, (((atom,), ONE),))


def added(number: Polynomial, terms: Iterable[Term]) -> Sum:
    """A number plus some products; multiples of the same product are added up."""
    scales: dict[Term, list[Fraction]] = defaultdict(list)
    # Products with the coefficient 0, which are NaN where the product of the atoms is not finite.
    nothing: set[tuple[int, ...]] = set()
    for atoms, coefficient in terms:
        if coefficient.terms:
            scales[atoms, coefficient.monic()].append(coefficient.leading)
        else:
            nothing.add(atoms)
    found: list[Term] = []
    for (atoms, direction), factors in scales.items():
        if min(factors) < 0 < max(factors):
            # Infinite values of different signs would cancel to NaN.
            nothing.add(atoms)
        if total := sum(factors):
            found.append((atoms, direction.scaled(Fraction(total))))
    found += ((atoms, ZERO) for atoms in nothing)
    return Sum(number, tuple(sorted(found, key=lambda term: (term[0], term[1].terms))))


def scaled(factor: Polynomial, x: Sum, product: Product) -> Sum:
    """A number times a sum."""
    terms = ((atoms, product(factor, coefficient)) for atoms, coefficient in x.terms)
    return added(product(factor, x.number), terms)


def multiplied(x: Term, y: Term, product: Product) -> Sum:
    """The product of two products."""
    return added(ZERO, [(tuple(sorted(x[0] + y[0])), product(x[1], y[1]))])
