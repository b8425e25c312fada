"""Checks that slots are convex combinations: their weights sum to one and lie in [0, 1].

The weights must be multi-affine in the coefficients. Their extremes over the declared bounds then
lie at the corners of the box of all bounds, with each weight vector at a corner of its simplex. The
check is exact: it uses rational arithmetic.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction

from optdsl.algebra.facts import facts
from optdsl.algebra.normal_form import Algebra, TooMuchWork
from optdsl.algebra.polynomial import ONE, ZERO, Polynomial, constant, decimal, variable
from optdsl.diagnostics import Report, Span
from optdsl.ir.builder import Builder
from optdsl.ir.domain import hull, spell
from optdsl.ir.program import Hyper, Program, Simplex, Value
from optdsl.syntax import ast

MAX_CORNERS = 1_024


@dataclass(frozen=True)
class Combination:
    """A slot that was shown to be a convex combination.

    Attributes:
        slot: its name.
        parts: the values that it combines, as the blend spells them.
        corners: the number of corners of the coefficients' bounds that were checked.
    """

    slot: str
    parts: tuple[str, ...]
    corners: int


class _NotConvex(Exception):
    def __init__(self, message: str, label: str, hint: str) -> None:
        super().__init__(message)
        self.message, self.label, self.hint = message, label, hint


def combination(
    slot: str,
    equation: ast.Equation,
    program: Program,
    value: Value,
    originals: Mapping[str, Value],
    report: Report,
) -> Combination | None:
    """The slot as a convex combination of members' values; if it is none, None and a diagnostic.

    Args:
        slot: its name.
        equation: its definition.
        program: has the operations of the values, and the hyperparameters with their bounds.
        value: the value of the slot.
        originals: the members' values that the equation uses, by their spelling.
        report: receives the diagnostic.
    """
    algebra = Algebra()
    try:
        weights = _weights(slot, algebra, program, value, originals)
        corners = _check(algebra, weights, program)
        _check_defined(program, value, originals)
    except _NotConvex as problem:
        span = equation.value.span
        report.error(
            "convex",
            f"`{slot}` {problem.message}",
            Span(span.source, span.start, span.start + len(span.text.partition("\n")[0])),
            label=problem.label,
            hint=problem.hint,
        )
        return None
    return Combination(slot, tuple(weights), corners)


_FORM = "a slot is a sum of members' values, each with a weight made of hyperparameters"
_TOO_LARGE = "is too large to be looked at"
_EXAMPLE = "write for instance `w * A.x + (1 - w) * B.x` with `hyper w = 1 in [0, 1]`"


def _weights(
    slot: str,
    algebra: Algebra,
    program: Program,
    value: Value,
    originals: Mapping[str, Value],
) -> dict[str, Polynomial]:
    """The weight of each part, a polynomial over hyperparameters."""
    try:
        form = algebra.forms(program, (value,), opaque=set(originals.values()))[value]
    except TooMuchWork:
        raise _NotConvex(_TOO_LARGE, _FORM, _EXAMPLE) from None
    atoms = {algebra.atom("opaque", name): name for name in originals}
    hypers = {algebra.hyper(h.name) for h in program.hypers}
    weights = dict.fromkeys(originals, ZERO)
    for monomial, coefficient in form:
        parts = [(atom, power) for atom, power in monomial if atom in atoms]
        rest = [(atom, power) for atom, power in monomial if atom not in atoms]
        if not parts:
            raise _NotConvex("adds something that is no member's", _FORM, _EXAMPLE)
        if len(parts) > 1 or parts[0][1] != 1:
            raise _NotConvex("is not linear in what it takes from members", _FORM, _EXAMPLE)
        if any(atom not in hypers or power < 0 for atom, power in rest):
            raise _NotConvex(
                "has a weight that is not made of hyperparameters alone", _FORM, _EXAMPLE
            )
        weights[atoms[parts[0][0]]] += Polynomial(((tuple(rest), coefficient),))
    return weights


def _check_defined(program: Program, value: Value, originals: Mapping[str, Value]) -> None:
    """Refuse weights that are infinite or NaN for some coefficients.

    For instance, `w / w` is 1 except for w = 0. The members' values are replaced by states, which
    are taken to be finite, so that only the operations of the slot itself are checked.
    """
    builder, own = Builder(), program.operations
    parts = {v: builder.emit("state", attribute=own[v].attribute, type=own[v].type)
             for v in originals.values()}  # fmt: skip
    root = builder.copied(program, (value,), parts)[value]
    alone = replace(program, operations=builder.operations)
    known, algebra = facts(alone), Algebra()
    try:
        form = algebra.forms(alone, (root,), opaque=set(parts.values()), facts=known)[root]
    except TooMuchWork:
        raise _NotConvex(_TOO_LARGE, _FORM, _EXAMPLE) from None
    if algebra.defined(form):
        return
    if any(fact.large for fact in known):
        raise _NotConvex(
            "has a weight that may overflow",
            "a factor may pass the largest number, 1.8e308, over the bounds of the coefficients",
            "write the weights with smaller factors, or narrow the bounds of the coefficients",
        )
    divisors = [o.arguments[1] for o in builder.operations if o.opcode == "div"]
    zero = any(not known[divisor].nonzero for divisor in divisors)
    raise _NotConvex(
        "has a weight that may be infinite or NaN",
        "a divisor may be zero" if zero else "some coefficients do not give a finite number",
        "write the weights without what cancels, or narrow the bounds of the coefficients",
    )


def _check(algebra: Algebra, weights: Mapping[str, Polynomial], program: Program) -> int:
    atoms = frozenset().union(*(w.atoms for w in weights.values()))
    hypers = [h for h in program.hypers if algebra.hyper(h.name) in atoms]
    simplexes = [s for s in program.simplexes if {h.name for h in hypers} & set(s.hypers)]
    for part, weight in weights.items():
        _multi_affine(algebra, part, weight, hypers, simplexes)
    total = sum(weights.values(), start=ZERO)
    corners = list(_corners(hypers, simplexes))
    fixed = {
        algebra.hyper(h.name): constant(decimal(hull(h.domain).lower))
        for h in hypers
        if hull(h.domain).lower == hull(h.domain).upper
    }
    if total.substituted(fixed | without_last(algebra, simplexes)) != ONE:
        at, sums = next(
            ((c, x) for c in corners if (x := _at(algebra, total, c)) != 1),
            (corners[0], Fraction(1)),
        )
        sums_to = f"{_spell(sums)}{_spelled(at)}"
        raise _NotConvex(
            f"has weights that sum to {sums_to}, not to one",
            "the weights must sum to one whatever the coefficients are",
            _EXAMPLE,
        )
    for corner in corners:
        for part, weight in weights.items():
            found = _at(algebra, weight, corner)
            if not 0 <= found <= 1:
                raise _NotConvex(
                    f"can leave the convex hull: the weight of `{part}` is "
                    f"{_spell(found)}{_spelled(corner)}",
                    "weights must stay in [0, 1] over the bounds of the coefficients",
                    "narrow the bounds of the coefficients, or change the weights",
                )
    return len(corners)


def without_last(algebra: Algebra, simplexes: Iterable[Simplex]) -> dict[int, Polynomial]:
    """The last weight of each vector, which is one minus the sum of the others."""
    return {
        algebra.hyper(s.hypers[-1]): ONE
        - sum((variable(algebra.hyper(h)) for h in s.hypers[:-1]), start=ZERO)
        for s in simplexes
    }


def _multi_affine(
    algebra: Algebra,
    part: str,
    weight: Polynomial,
    hypers: list[Hyper],
    simplexes: list[Simplex],
) -> None:
    groups = [{h.name} for h in hypers if not any(h.name in s.hypers for s in simplexes)]
    groups += [set(s.hypers) for s in simplexes]
    for group in groups:
        inside = {algebra.hyper(name) for name in group}
        degree = max((sum(e for a, e in m if a in inside) for m, _ in weight), default=0)
        if degree > 1:
            raise _NotConvex(
                f"has a weight of `{part}` that is not linear in {', '.join(sorted(group))}",
                "each coefficient may occur once in a product",
                "weights are linear in each coefficient, as in `a * b` and `1 - a * b`",
            )


def _corners(hypers: list[Hyper], simplexes: list[Simplex]) -> Iterator[dict[str, Fraction]]:
    """The corners of the product of the coefficients' bounds and of the simplexes."""
    choices: list[list[dict[str, Fraction]]] = []
    for hyper in hypers:
        if any(hyper.name in s.hypers for s in simplexes):
            continue
        bounds = hull(hyper.domain)
        if bounds.lower - bounds.lower != 0 or bounds.upper - bounds.upper != 0:
            raise _NotConvex(
                f"has a weight with `{hyper.name}`, which is unbounded",
                f"`{hyper.name}` lies in {bounds}",
                "give it bounds, as in `in [0, 1]`",
            )
        ends = dict.fromkeys((decimal(bounds.upper), decimal(bounds.lower)))
        choices.append([{hyper.name: end} for end in ends])
    for simplex in simplexes:
        choices.append(
            [{h: Fraction(int(h == one)) for h in simplex.hypers} for one in simplex.hypers]
        )
    count = math.prod(map(len, choices))
    if count > MAX_CORNERS:
        raise _NotConvex(
            f"has weights of too many coefficients: their bounds have {count:,} corners",
            f"at most {MAX_CORNERS:,} are looked at",
            "use a weight vector, `hyper w = uniform on simplex(...)`, which has few",
        )
    for chosen in itertools.product(*choices):
        yield {name: value for part in chosen for name, value in part.items()}


def _at(algebra: Algebra, weight: Polynomial, corner: Mapping[str, Fraction]) -> Fraction:
    values = {algebra.hyper(name): constant(value) for name, value in corner.items()}
    number = weight.substituted(values).number
    assert number is not None
    return number


def _spell(number: Fraction) -> str:
    try:
        return spell(float(number))
    except OverflowError:
        return "more than 1e308" if number > 0 else "less than -1e308"


def _spelled(corner: Mapping[str, Fraction]) -> str:
    settings = ", ".join(f"{name} = {_spell(value)}" for name, value in corner.items())
    return f" at {settings}" if settings else ""
