"""Sums and products of values that may be infinite or NaN, as far as laws hold of them.

Sums and products of such values commute and associate, a number may be multiplied into a sum, and
equal multiples of one sign may be added up. Nothing cancels: x - x is kept as 0 * x, which is zero
where x is finite and NaN elsewhere, and neither x / x nor (1 - k) * x is multiplied out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction

from optdsl.algebra.polynomial import ONE, ZERO, Polynomial

# Atoms that may be undefined, multiplied, sorted; and the number that they are multiplied with.
Term = tuple[tuple[int, ...], Polynomial]
Product = Callable[[Polynomial, Polynomial], Polynomial]


@dataclass(frozen=True, slots=True)
class Sum:
    """A number, and products that may be none; sorted, so that equal sums are equal."""

    number: Polynomial
    terms: tuple[Term, ...]

    @property
    def single(self) -> int | None:
        """The atom, where the sum is one atom and nothing else."""
        if self.number.terms or len(self.terms) != 1:
            return None
        atoms, coefficient = self.terms[0]
        return atoms[0] if len(atoms) == 1 and coefficient == ONE else None

    @property
    def product(self) -> Term | None:
        """The term, where the sum is one product."""
        return None if self.number.terms or len(self.terms) != 1 else self.terms[0]


def of_atom(atom: int) -> Sum:
    """An atom that may be undefined."""
    return Sum(ZERO, (((atom,), ONE),))


def added(number: Polynomial, terms: Iterable[Term]) -> Sum:
    """A number and some products, those that are multiples of each other collected."""
    up: dict[tuple[tuple[int, ...], Polynomial], Fraction] = {}
    down: dict[tuple[tuple[int, ...], Polynomial], Fraction] = {}
    nothing: set[tuple[int, ...]] = set()
    for atoms, coefficient in terms:
        if not coefficient.terms:
            nothing.add(atoms)
            continue
        scale = coefficient.leading
        total, key = up if scale > 0 else down, (atoms, coefficient.monic())
        total[key] = total.get(key, Fraction(0)) + scale
    found: list[Term] = []
    for key in {**up, **down}:
        atoms, direction = key
        scale = up.get(key, Fraction(0)) + down.get(key, Fraction(0))
        if key in up and key in down:
            # Infinite, they would cancel to NaN.
            nothing.add(atoms)
        if scale:
            found.append((atoms, direction.scaled(scale)))
    found += ((atoms, ZERO) for atoms in nothing)
    return Sum(number, tuple(sorted(found, key=lambda term: (term[0], term[1].terms))))


def scaled(factor: Polynomial, x: Sum, product: Product) -> Sum:
    """A number times a sum."""
    terms = ((atoms, product(factor, coefficient)) for atoms, coefficient in x.terms)
    return added(product(factor, x.number), terms)


def multiplied(x: Term, y: Term, product: Product) -> Sum:
    """The product of two products."""
    return added(ZERO, [(tuple(sorted(x[0] + y[0])), product(x[1], y[1]))])
