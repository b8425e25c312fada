"""Bounds on the absolute values of a program, and on the errors that rounding makes in them.

The bounds hold under these assumptions: the absolute values of parameters, gradients and
hyperparameters are zero or between 10^-`MODERATE` and 10^`MODERATE`, unless bounds of
hyperparameters say otherwise, and a run has at most 10^`STEPS` steps. A value that may exceed the
largest number of double precision under these assumptions may overflow.

A state is bounded if a step adds a bounded value to at most the state itself, as in a mean, a
running sum or a maximum. No bound is found for a state that a step may multiply by more than one.

A size, in this module, is the logarithm to base ten of an absolute value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from optdsl.algebra.means import Means
from optdsl.ir.domain import Interval
from optdsl.ir.intervals import excludes_zero
from optdsl.ir.ops import COMPARE, laws_of
from optdsl.ir.program import Operation, Program, Value

MODERATE = 30.0
STEPS = 15.0
# The size of the largest number of double precision, with a margin.
LARGEST = 308.2
# A difference of two numbers is zero, or at least one unit in the last place of the larger one.
_LAST_PLACE = 16.3
_UNIT = 2.0**-52
# A factor that is one may be rounded to one plus this; over all steps, that makes at most 1e5.
_SLACK = 1e-14
# Whole numbers below this size are exact.
_WHOLE = 15.9
_ROUNDS = 24
_MAX_WORK = 200_000
_MAX_STATES = 128


@dataclass(frozen=True, slots=True)
class Magnitude:
    """Bounds on a value.

    Attributes:
        size: an upper bound on its size.
        least: a lower bound on its size, unless it is zero.
        error: how far rounding may move the value (not its logarithm); 0 if it is exact.
        whole: whether it is a whole number.
        large: whether it may overflow although its arguments do not.
    """

    size: float = MODERATE
    least: float = -MODERATE
    error: float = 0.0
    whole: bool = False
    large: bool = False


# The bounds on each state.
_States = Mapping[str, Magnitude]


@dataclass(frozen=True, slots=True)
class _Bound:
    """A bound on an absolute value: multiples of the absolute values of states, plus a constant.

    Attributes:
        states: the multiple of each state.
        rest: the size of the constant.
        norm: another bound, often smaller, on the sum of the multiples.
    """

    states: Mapping[str, float]
    rest: float
    norm: float = 0.0


@dataclass
class Magnitudes:
    """Bounds on the values of a program.

    Attributes:
        values: the bounds on each value.
        growing: the states for which no bound was found.
    """

    values: list[Magnitude] = field(default_factory=list)
    growing: frozenset[str] = frozenset()


def magnitudes(
    program: Program, ranges: Sequence[Interval], settings: Mapping[str, float]
) -> Magnitudes:
    """Bounds on the values of a program.

    Args:
        program: the program.
        ranges: for each value an interval that contains it unless it is NaN.
        settings: fixed values of some hyperparameters.
    """
    step = _Step(program, ranges, settings)
    growing: set[str] = set()
    work = (len(program.operations) + 1) * (1 + len(program.states) // 16)
    rounds = max(3, min(_ROUNDS, _MAX_WORK // work)) if len(program.states) <= _MAX_STATES else 0
    zero = Magnitude(-math.inf, -MODERATE, 0.0, True)
    known = {s.name: Magnitude() if s.input else zero for s in program.states}
    changed = set[str]()
    for _ in range(2):
        for _ in range(rounds):
            known |= {name: Magnitude(error=math.inf) for name in growing}
            values = step.values(known)
            after = step.after(values, known)
            changed = {n for n in known if n not in growing and after[n] != known[n]}
            if not changed:
                return Magnitudes(values, frozenset(growing))
            known = after
        growing |= changed
    growing.update(known)
    known = {name: Magnitude(error=math.inf) for name in growing}
    return Magnitudes(step.values(known), frozenset(growing))


class _Step:
    """Finds bounds on the values of one step, and on the states after it."""

    def __init__(
        self, program: Program, ranges: Sequence[Interval], settings: Mapping[str, float]
    ) -> None:
        self._program, self._ranges, self._settings = program, ranges, settings
        means = Means(program, ranges, settings)
        self._same, self._of_state = means.same, means.of_state
        # The values of the latest call, of which those that no state is behind stay as they are.
        self._known: list[Magnitude] = []
        self._means = {
            value: found
            for value in range(len(program.operations))
            if self._of_state[value] and self._outer(Value(value)) >= LARGEST
            if (found := means.parts(Value(value))) is not None
        }

    def values(self, states: _States) -> list[Magnitude]:
        """The bounds on all values, from those on the states."""
        found: list[Magnitude] = []
        for index, operation in enumerate(self._program.operations):
            if self._known and not self._of_state[index]:
                found.append(self._known[index])
                continue
            x, value = [found[a] for a in operation.arguments], Value(index)
            if not x:
                found.append(self._leaf(value, operation, states))
                continue
            upper, lower = self._bounds(operation, x)
            size, least = min(self._outer(value), upper), self._inner(value, lower)
            whole, error = self._rounding(operation, x, size)
            large = size > LARGEST
            found.append(Magnitude(MODERATE if large else size, least, error, whole, large))
        self._known = found
        return found

    def after(self, values: list[Magnitude], known: _States) -> dict[str, Magnitude]:
        """The bounds on the states in any step, given bounds on the terms that a step adds."""
        bounds: list[_Bound] = []
        for value in range(len(values)):
            bounds.append(self._bound(Value(value), values, bounds))
        near = {s.name: bounds[s.next] for s in self._program.states}
        groups = _groups({name: set(bound.states) for name, bound in near.items()})
        found: dict[str, Magnitude] = {}
        for s in self._program.states:
            start, after, old = values[s.initial], values[s.next], known[s.name]
            group = groups[s.name]
            inside = {m: sum(c for n, c in near[m].states.items() if n in group) for m in group}
            own = max(min(inside[m], near[m].norm) for m in group)
            terms = [(n, c) for m in group for n, c in near[m].states.items() if n not in group]
            others = [_log(c) + known[n].size for n, c in terms if c]
            size = _total([*(near[m].rest for m in group), *others])
            if own > 0:
                size = size + STEPS + 5 * (own > 1) if own <= 1 + _SLACK else math.inf
            starts = (values[x.initial].size for x in self._program.states if x.name in group)
            size = max([*starts, min(size, self._outer(s.next)), old.size])
            exact = not (start.error or after.error or old.error)
            whole = start.whole and after.whole and old.whole
            found[s.name] = Magnitude(size, -MODERATE, 0.0 if exact else math.inf, whole)
        return found

    # --- single values --------------------------------------------------------------------------

    def _outer(self, value: Value) -> float:
        enclosure = self._ranges[value]
        return _log(max(abs(enclosure.lower), abs(enclosure.upper)))

    def _leaf(self, value: Value, operation: Operation, states: _States) -> Magnitude:
        name = str(operation.attribute)
        match operation.opcode:
            case "constant":
                assert isinstance(operation.attribute, float)
                number = operation.attribute
                if not math.isfinite(number):
                    return Magnitude()
                least = _log(number) if number else 0.0
                return Magnitude(_log(number), least, 0.0, number.is_integer())
            case "hyper":
                number = self._settings.get(name, math.inf)
                size = _log(number) if math.isfinite(number) else min(MODERATE, self._outer(value))
                return Magnitude(size, self._inner(value, -MODERATE), 0.0, self._is_whole(name))
            case "step" | "size":
                return Magnitude(STEPS, 0.0, 0.0, True)
            case "state" if name in states:
                return replace(states[name], size=min(states[name].size, self._outer(value)))
            case _:
                return Magnitude()

    def _is_whole(self, hyper: str) -> bool:
        if hyper in self._settings:
            return float(self._settings[hyper]).is_integer()
        return self._program.hyper(hyper).domain.whole

    def _inner(self, value: Value, least: float) -> float:
        enclosure = self._ranges[value]
        distance = max(enclosure.lower, -enclosure.upper)
        return max(least, _log(distance)) if distance > 0 else least

    def _bounds(self, operation: Operation, x: list[Magnitude]) -> tuple[float, float]:
        """An upper and a lower bound on the size of a result, from the bounds on its arguments."""
        size, least, laws = [a.size for a in x], [a.least for a in x], laws_of(operation)
        match operation.opcode:
            case "add" | "sub":
                pairs = zip(operation.arguments, least, strict=True)
                certain = [a for v, a in pairs if excludes_zero(self._ranges[v])]
                return _total(size), max(certain, default=min(least)) - _LAST_PLACE
            case "mul":
                return -math.inf if -math.inf in size else sum(size), sum(least)
            case "div":
                upper = size[0] - least[1] if size[0] > -math.inf else size[0]
                return upper, least[0] - size[1]
            case "sqrt":
                return size[0] / 2, least[0] / 2
            case "exp":
                exponent = min(self._ranges[operation.arguments[0]].upper, _ten(size[0]))
                return exponent * math.log10(math.e), -math.inf
            case "log":
                largest = max(abs(size[0]), abs(least[0]), 1.0)
                return _log(math.log(10) * largest), -_LAST_PLACE
            case "pow":
                found, limit = self._ranges[operation.arguments[1]], _ten(size[1])
                powers = (max(-limit, found.lower), min(limit, found.upper))
                upper = max(_scaled(p, size[0] if p >= 0 else least[0]) for p in powers)
                ends = (found.lower, found.upper)
                return upper, min(_scaled(p, least[0] if p >= 0 else size[0]) for p in ends)
            case "tanh":
                return min(0.0, size[0]), min(0.0, least[0]) - 0.2
            case "sign":
                return 0.0, 0.0
            case "floor":
                return _total([size[0], 0.0]), 0.0
            case "mix":
                return max(size[1::2]), min(least[1::2]) - _LAST_PLACE
            case "where":
                return max(size[1:]), min(least[1:])
            case "sum" | "mean":
                added = STEPS if operation.opcode == "sum" else 0.0
                return size[0] + added, least[0] - STEPS - _LAST_PLACE
            case _ if laws.selects:
                return max(size), min(least)
            case _:
                return math.inf, -math.inf

    def _rounding(
        self, operation: Operation, x: list[Magnitude], size: float
    ) -> tuple[bool, float]:
        """Whether the result is a whole number, and how far rounding may move it."""
        opcode, laws, error = operation.opcode, laws_of(operation), [a.error for a in x]
        if opcode in COMPARE or opcode in {"sign", "floor"}:
            jump = {"sign": 2.0, "floor": error[0] + 1.0}.get(opcode, 1.0)
            return True, jump if any(error) else 0.0
        if opcode == "where":
            whole = x[1].whole and x[2].whole
            return whole, math.inf if error[0] else max(error[1:])
        whole = laws.integral and all(a.whole for a in x)
        same = [self._same[a] for a in operation.arguments]
        if opcode == "sub" and same[0] == same[1]:
            return True, 0.0
        if laws.selects:
            return whole, max(error)
        units = {"mul": operation.arguments, "div": operation.arguments[1:]}.get(opcode, ())
        simple = (whole and size < _WHOLE) or any(map(self._unit, units))
        own = 0.0 if simple else _UNIT * _ten(size)
        match opcode:
            case "add" | "sub":
                return whole, sum(error) + own
            case "mul":
                moved = (_times(error[i], x[1 - i].size) for i in (0, 1))
                return whole, sum(moved) + (error[0] * error[1] if all(error) else 0.0) + own
            case "tanh" | "cos" | "sin":
                return False, error[0] + own
            case _:
                return False, math.inf if any(error) else own

    def _unit(self, value: Value) -> bool:
        """Whether a value is zero or a power of two, so that products with it are exact."""
        number = self._ranges[value].lower
        fixed = number == self._ranges[value].upper and math.isfinite(number)
        return fixed and abs(math.frexp(number)[0]) in (0.0, 0.5)

    # --- what a step adds to a state ------------------------------------------------------------

    def _bound(self, value: Value, sizes: list[Magnitude], bounds: list[_Bound]) -> _Bound:
        operation = self._program.operations[value]
        opcode, arguments = operation.opcode, operation.arguments
        if opcode == "state":
            return _Bound({str(operation.attribute): 1.0}, -math.inf, 1.0)
        outer = self._outer(value)
        plain = _Bound({}, min(sizes[value].size, outer))
        if not self._of_state[value] or outer < LARGEST:
            return plain
        if value in self._means:
            return _either([bounds[a] for a in self._means[value]])
        x = [bounds[a] for a in arguments]
        match opcode:
            case "add" | "sub":
                left, right = (bound.states for bound in x)
                states = {n: left.get(n, 0.0) + right.get(n, 0.0) for n in {**left, **right}}
                return _Bound(states, _total([x[0].rest, x[1].rest]), x[0].norm + x[1].norm)
            case "mul":
                first, second = sorted((0, 1), key=lambda i: sizes[arguments[i]].size)
                if self._of_state[arguments[first]] and not self._of_state[arguments[second]]:
                    first, second = second, first
                return _scaled_bound(x[second], sizes[arguments[first]].size)
            case "div":
                return _scaled_bound(x[0], -sizes[arguments[1]].least)
            case "where":
                return _either(x[1:])
            case "mix":
                return _either(x[1::2])
            case opcode:
                return _either(x) if opcode == "mean" or laws_of(operation).selects else plain


def _groups(uses: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each state the states that it depends on and that depend on it, itself included."""
    reached: dict[str, set[str]] = {}
    for name in uses:
        waiting, seen = [name], set[str]()
        while waiting:
            new = uses.get(waiting.pop(), set()) - seen
            seen |= new
            waiting += new
        reached[name] = seen
    return {n: {n, *(m for m in seen if n in reached[m])} for n, seen in reached.items()}


def _either(bounds: Sequence[_Bound]) -> _Bound:
    names = (name for bound in bounds for name in bound.states)
    states = {name: max(b.states.get(name, 0.0) for b in bounds) for name in names}
    return _Bound(states, max(b.rest for b in bounds), max(b.norm for b in bounds))


def _scaled_bound(bound: _Bound, size: float) -> _Bound:
    if size == -math.inf:
        return _Bound({}, -math.inf)
    factor = _ten(size)
    rest = bound.rest + size if bound.rest > -math.inf else bound.rest
    return _Bound({n: c * factor for n, c in bound.states.items()}, rest, bound.norm * factor)


def _log(number: float) -> float:
    if not math.isfinite(number):
        return math.inf
    return math.log10(abs(number)) if number else -math.inf


def _ten(size: float) -> float:
    """10^size; infinite beyond double precision."""
    return 10.0**size if size < LARGEST else math.inf


def _times(error: float, size: float) -> float:
    return error * _ten(size) if error and size > -math.inf else 0.0


def _scaled(factor: float, size: float) -> float:
    """The size of a power, factor * size; the size of a power with exponent 0 is 0."""
    return factor * size if factor and size else 0.0


def _total(sizes: Sequence[float]) -> float:
    """The size of the sum of numbers with these sizes."""
    largest = max(sizes)
    if not math.isfinite(largest):
        return largest
    return largest + math.log10(sum(10.0 ** (s - largest) for s in sizes))
