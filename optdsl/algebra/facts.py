"""Facts about the values of a program: their ranges, the signs of their zeros, whether they exist.

A value is defined if it is a finite real number in every step of every run, for all hyperparameters
within their bounds, as long as parameters and gradients are finite. A quotient whose divisor may be
zero is not defined, and neither are values that are computed from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from optdsl.algebra.magnitudes import Magnitudes, magnitudes
from optdsl.ir import intervals
from optdsl.ir.domain import ANYTHING, Choice, Interval, hull
from optdsl.ir.ops import COMPARE, TABLE, laws_of, unaliased
from optdsl.ir.program import Operation, Program, Value, depending

# If the induction over steps takes more work than this, states are taken to be unknown.
_MAX_WORK = 400_000


@dataclass(frozen=True, slots=True)
class Fact:
    """What is known about a value.

    Attributes:
        range: an interval that contains it wherever it is defined.
        defined: whether it is always a finite number.
        plus: whether it may be 0 with the positive sign.
        minus: whether it may be -0, for which 1 / x has another sign.
        error: how far rounding may move it; 0 if it is computed exactly.
        large: whether it may overflow double precision although its arguments do not.
    """

    range: Interval = ANYTHING
    defined: bool = True
    plus: bool = True
    minus: bool = True
    error: float = 0.0
    large: bool = False

    @property
    def nonzero(self) -> bool:
        """Whether it is always a finite number other than zero."""
        return self.defined and intervals.excludes_zero(self.range)

    @property
    def may_be_positive(self) -> bool:
        """Whether its sign bit may be clear."""
        return not self.defined or self.range.upper > 0 or (self.plus and 0.0 in self.range)

    @property
    def may_be_negative(self) -> bool:
        """Whether its sign bit may be set."""
        return not self.defined or self.range.lower < 0 or (self.minus and 0.0 in self.range)


UNKNOWN = Fact(defined=False, error=math.inf)
_LEAF = Fact()
_POSITIVE_ZERO, _CONDITION = (True, False), Fact(Interval(0.0, 1.0))


def facts(program: Program, settings: Mapping[str, float] | None = None) -> tuple[Fact, ...]:
    """The facts about each value of a program, with some hyperparameters fixed by `settings`."""
    given = {} if settings is None else settings
    found = _steady(program, given, Magnitudes())
    sizes = magnitudes(program, [f.range for f in found], given)
    if sizes.growing or any(m.large for m in sizes.values):
        found = _steady(program, given, sizes)
    return tuple(
        Fact(f.range, f.defined, f.plus, f.minus, m.error, m.large)
        for f, m in zip(found, sizes.values, strict=True)
    )


def decided(difference: float | Fraction, x: Fact, y: Fact) -> bool:
    """Whether rounding cannot change how two values compare, given their exact difference."""
    error = x.error + y.error
    return error == 0 or difference > error or -difference > error


def _steady(program: Program, given: Mapping[str, float], sizes: Magnitudes) -> tuple[Fact, ...]:
    """The facts that hold before the first step and in every step, found by induction.

    The facts about the initial values of states are widened until a step preserves them.
    """
    known: dict[str, Fact] | None = None
    found: tuple[Fact, ...] = ()
    for _ in range(max(4, min(64, _MAX_WORK // (len(program.operations) + 1)))):
        found = _found(program, given, known, sizes, found)
        if known is None:
            # What is given to a step may be any number, as gradients may.
            known = {s.name: _LEAF if s.input else found[s.initial] for s in program.states}
            known |= {name: replace(known[name], defined=False) for name in sizes.growing}
            found = _found(program, given, known, sizes, found)
        wider = {s.name: _widened(known[s.name], found[s.next]) for s in program.states}
        if wider == known:
            return found
        known = wider
    return _found(program, given, {s.name: UNKNOWN for s in program.states}, sizes, found)


def _found(
    program: Program,
    settings: Mapping[str, float],
    states: Mapping[str, Fact] | None,
    sizes: Magnitudes,
    before: tuple[Fact, ...],
) -> tuple[Fact, ...]:
    """The facts, given those about states; `before` has them for other facts about states."""
    found: list[Fact] = []
    of_state = depending(program.operations, "state") if before else ()
    for value, operation in enumerate(program.operations):
        if before and not of_state[value]:
            found.append(before[value])
            continue
        x = [found[a] for a in operation.arguments]
        if operation.opcode == "state":
            # While a blend is put together, the program does not list its members' states yet.
            fact = _LEAF if states is None else states.get(str(operation.attribute), _LEAF)
        elif operation.opcode == "hyper":
            fact = _hyper(program, str(operation.attribute), settings)
        elif operation.opcode == "constant":
            assert isinstance(operation.attribute, float)
            fact = _number(operation.attribute)
        elif operation.opcode in COMPARE:
            # A condition is 0 or 1 even if it compares undefined values.
            fact = _CONDITION
        elif not x:
            fact = Fact(TABLE[operation.opcode].interval())
        else:
            if operation.opcode == "mix":
                x = _weighed(x)
            enclosure = TABLE[operation.opcode].interval(*(f.range for f in x))
            plus, minus = _zeros(operation, x)
            large = bool(sizes.values) and sizes.values[value].large
            defined = not large and _defined(program.operations, operation, x)
            fact = Fact(enclosure, defined, plus, minus)
        found.append(fact)
    return tuple(found)


def _weighed(x: list[Fact]) -> list[Fact]:
    """The weights and parts of a mean, without parts whose weight is always zero."""
    pairs = list(zip(x[0::2], x[1::2], strict=True))
    nothing = intervals.point(0.0)
    kept = [pair for pair in pairs if not (pair[0].defined and pair[0].range == nothing)]
    return [fact for pair in kept or pairs[:1] for fact in pair]


def _number(number: float) -> Fact:
    if not math.isfinite(number):
        return UNKNOWN
    negative = math.copysign(1.0, number) < 0
    return Fact(intervals.point(number), True, not negative, negative)


def _hyper(program: Program, name: str, settings: Mapping[str, float]) -> Fact:
    if name in settings:
        return _number(settings[name])
    domain = program.hyper(name).domain
    # A hyperparameter may be infinite if its domain includes an infinite end.
    finite = not isinstance(domain, Choice) or all(map(math.isfinite, domain.values))
    defined = finite and not (math.inf in domain or -math.inf in domain)
    # The zero of a domain without negative numbers is 0, not -0.
    return Fact(hull(domain), defined, True, hull(domain).lower < 0)


def _widened(old: Fact, new: Fact) -> Fact:
    """The facts about a state before or after a step.

    An end of its range that moves is set to zero or infinity, so that the induction ends.
    """
    lower, upper = old.range, old.range
    if not old.range.includes(new.range):
        around = intervals.union(old.range, new.range)
        if (around.lower, around.lower_open) != (old.range.lower, old.range.lower_open):
            lower = Interval(0.0 if around.lower >= 0 else -math.inf)
        if (around.upper, around.upper_open) != (old.range.upper, old.range.upper_open):
            upper = Interval(-math.inf, 0.0 if around.upper <= 0 else math.inf)
    enclosure = Interval(lower.lower, upper.upper, lower.lower_open, upper.upper_open)
    return Fact(
        enclosure, old.defined and new.defined, old.plus or new.plus, old.minus or new.minus
    )


def _defined(operations: Sequence[Operation], operation: Operation, x: list[Fact]) -> bool:
    """Whether an operation has a finite result for all its arguments, over the reals."""
    match operation.opcode:
        case "where":
            return x[1].defined and x[2].defined
        case "draw":
            return True  # at a counter that is no number, a step ends with an error
        case _ if not all(f.defined for f in x):
            return False
        case "div":
            return x[1].nonzero
        case "sqrt":
            return x[0].range.lower >= 0
        case "log":
            return x[0].range.lower >= 0 and x[0].nonzero
        case "pow":
            base, exponent = x
            if whole(operations, operation.arguments[1]):
                return exponent.range.lower >= 0 or base.nonzero
            positive = base.range.lower >= 0 and base.nonzero
            return positive or (base.range.lower >= 0 and exponent.range.lower >= 0)
        case "mix" | "exp" | "sum" | "mean":
            return True
        case _:
            # A function that is not listed here may be undefined.
            laws = laws_of(operation)
            return laws.rational or laws.selects or laws.bounded((False,) * len(x))


def whole(operations: Sequence[Operation], value: Value) -> bool:
    """Whether a value is known to be a whole number: a literal, or the step."""
    operation = operations[unaliased(operations, value)]
    number = operation.attribute
    return operation.opcode == "step" or (isinstance(number, float) and number.is_integer())


def _product(zero: Fact, other: Fact) -> tuple[bool, bool]:
    """The signs that a product has if its factor `zero` is zero; so has a quotient."""
    p, n = other.may_be_positive, other.may_be_negative
    plus, minus = zero.plus and 0.0 in zero.range, zero.minus and 0.0 in zero.range
    return (plus and p) or (minus and n), (plus and n) or (minus and p)


def _zeros(operation: Operation, x: list[Fact]) -> tuple[bool, bool]:
    """Whether the result of an operation may be 0, and whether it may be -0, over the reals."""
    match operation.opcode:
        case "define" | "stop_gradient":
            return x[0].plus, x[0].minus
        case "neg":
            return x[0].minus, x[0].plus
        case "add":
            # Numbers that cancel give 0, and so do two zeros unless both are -0.
            return True, x[0].minus and x[1].minus
        case "sub":
            return True, x[0].minus and x[1].plus
        case "mul" if operation.arguments[0] == operation.arguments[1]:
            return _POSITIVE_ZERO
        case "mul":
            first, second = _product(x[0], x[1]), _product(x[1], x[0])
            return first[0] or second[0], first[1] or second[1]
        case "div" if x[1].defined:
            return _product(x[0], x[1])
        case "div":
            # If the divisor is infinite, the quotient is zero whatever it divides.
            (p, n), (q, m) = ((f.may_be_positive, f.may_be_negative) for f in x)
            return (p and q) or (n and m), (p and m) or (n and q)
        case "pow":
            square = x[1].range.lower == x[1].range.upper and x[1].range.lower % 2 == 0
            return True, not square and (x[0].minus or not x[1].defined)
        case "exp" | "abs" | "log":
            return _POSITIVE_ZERO
        case "max" | "min":
            return x[0].plus or x[1].plus, x[0].minus or x[1].minus
        case "where":
            return x[1].plus or x[2].plus, x[1].minus or x[2].minus
        case "mix":
            return True, any(f.minus for f in x[1::2])
        case "sqrt" | "tanh" | "sign" | "sum" | "mean":
            return True, x[0].minus
        case _:
            return True, True
