"""The runs in which programs are compared: of many scales, and on both sides of what they compare.

The same runs every time, simple ones first.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from optdsl.ir.domain import Choice, Domain, hull
from optdsl.ir.evaluate import Run, Tensor, Uniforms
from optdsl.ir.laws import Stage
from optdsl.ir.ops import COMPARE, TABLE, laws_of
from optdsl.ir.program import Hyper, Operation, Program, Value, depending, upstream

RUNS = 24
STEPS = 10
# Constants that are looked at, and steps that a run may take to get past one.
_MAX_LANDMARKS = 12
MAX_STEPS = 2_000
# Over the size of a program: how many of its branches are looked at for the step.
_MAX_TURNS = 16_000


@dataclass(frozen=True)
class Landmarks:
    """Where a program may change what it does.

    Attributes:
        numbers: the constants with which it compares.
        steps: the last steps before something that depends on the step alone turns out otherwise,
            sorted.
        count: the largest number up to `MAX_STEPS` with which a state is compared, which may
            count steps; 0 where there is none.
        far: the smallest whole number beyond that with which a state is compared, if there is one.
    """

    numbers: tuple[float, ...]
    steps: tuple[int, ...]
    count: int = 0
    far: int | None = None

    @property
    def all_steps(self) -> tuple[int, ...]:
        """The steps after which something may change, a count included."""
        return (*self.steps, self.count) if self.count else self.steps


def landmarks(programs: Sequence[Program], hypers: Mapping[str, float]) -> Landmarks:
    """The landmarks of some programs with given hyperparameters."""
    numbers: dict[float, None] = {}
    steps: set[int] = set()
    count, far = 0, list[int]()
    for program in programs:
        needed = program.needed(program.carried_values)
        branching = [v for v in needed if laws_of(program.operations[v]).compares]
        compared = [a for v in branching for a in _x(program, v)]
        for number in _numbers(program, compared, hypers):
            numbers.setdefault(number)
        of_step = _of_step(program, needed)
        stepwise = [v for v in branching if all(a in of_step for a in _x(program, v))]
        for value in stepwise[: max(1, _MAX_TURNS // len(program.operations))]:
            steps.update(_turns(program, value, hypers))
        steps.update(_met(program, needed, of_step, hypers))
        of_state = depending(program.operations, "state")
        beside = [a for v in branching if of_state[v] for a in _x(program, v)]
        counts = [n for n in _numbers(program, beside, hypers) if n + 1 >= STEPS]
        count = max([count, *(math.ceil(n) for n in counts if n <= MAX_STEPS)])
        far += (int(n) for n in counts if n > MAX_STEPS and n.is_integer())
    return Landmarks(
        tuple(numbers)[:_MAX_LANDMARKS], tuple(sorted(steps)), count, min(far, default=None)
    )


def _numbers(
    program: Program, values: Sequence[Value], hypers: Mapping[str, float]
) -> Iterator[float]:
    """The sizes of the literals and hyperparameters that some values are made from."""
    for value in upstream(program.operations, values):
        operation = program.operations[value]
        known = {"constant": operation.attribute, "hyper": hypers.get(str(operation.attribute))}
        found = known.get(operation.opcode)
        if isinstance(found, float) and math.isfinite(found) and found:
            yield abs(found)


def _met(
    program: Program, needed: Sequence[Value], of_step: set[Value], hypers: Mapping[str, float]
) -> Iterator[int]:
    """The steps at which a sum of the step and a number is zero, and those before."""
    sums = [v for v in needed if v in of_step and laws_of(program.operations[v]).additive]
    met = [v for v in sums if any(program.operations[a].opcode == "step" for a in _x(program, v))]
    for value in met[:_MAX_LANDMARKS]:
        for number in _numbers(program, _x(program, value), hypers):
            if STEPS <= number < MAX_STEPS:
                yield from (math.ceil(number) - 1, math.floor(number))


def _x(program: Program, value: Value) -> tuple[Value, ...]:
    return program.operations[value].arguments


def _of_step(program: Program, needed: Sequence[Value]) -> set[Value]:
    """The values that depend on the step, and on hyperparameters, and on nothing else."""
    found: set[Value] = set()
    for value in needed:
        operation = program.operations[value]
        given = TABLE[operation.opcode].stage in {Stage.LITERAL, Stage.HOST}
        if given or (operation.arguments and found.issuperset(operation.arguments)):
            found.add(value)
    return found


def _turns(program: Program, value: Value, hypers: Mapping[str, float]) -> Iterator[int]:
    """The last steps before a branch goes another way, as doubling and halving find them."""
    opcode, x = program.operations[value].opcode, Uniforms(program, _x(program, value))

    def way(t: int) -> object:
        left, right = x.at(hypers, t)
        return COMPARE[opcode](left, right) if opcode in COMPARE else left > right

    if x.steady:
        return
    # Beside the numbers that it is made from, too: something may be so at one step only.
    near = [n for n in _numbers(program, (value,), hypers) if n < 2**40]
    beside = {int(n) + d for n in near[:_MAX_LANDMARKS] for d in (-1, 0, 1, 2)}
    known = sorted({*range(1, 17), *(2**k for k in range(5, 41)), *(b for b in beside if b > 0)})
    ways = [way(t) for t in known]
    for before, after, old, new in zip(known, known[1:], ways, ways[1:], strict=False):
        if old != new:
            low, high = before, after
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if way(middle) == old else (low, middle)
            yield low


def runs(programs: Sequence[Program], settings: Mapping[str, float], work: int) -> Iterator[Run]:
    """The runs, as many as some work allows.

    Args:
        programs: those that will be compared; the first one has the hyperparameters.
        settings: those of them that have a given value.
        work: how many operations may be computed, roughly.
    """
    program = programs[0]
    size = sum(len(p.operations) for p in programs)
    source = random.Random(0)
    defaults = {h.name: h.default for h in program.hypers} | dict(settings)
    known = landmarks(programs, defaults)
    for run in (
        *_plain(program, settings, source),
        *_at_ends(program, settings, source),
        *_near(program, settings, source, known.numbers),
    ):
        work -= size * len(run.gradients) * len(run.theta)
        if work < 0 and len(run.gradients) > 1:
            return
        yield run
    reached = [s for s in known.all_steps if STEPS <= s + 1 <= MAX_STEPS + 1]
    for length in dict.fromkeys(s + 2 for s in (*reached[:2], *reached[-2:])):
        work -= size * length
        if work < 0:
            return
        # One gradient again and again is short to write down.
        yield Run(tuple(defaults.items()), (_drawn(source, 1.0),), ((1.0,),) * length)


def _plain(program: Program, settings: Mapping[str, float], source: random.Random) -> Iterator[Run]:
    for index in range(RUNS):
        hypers = _hypers(program, source, index >= 2) | dict(settings)
        elements = 1 if index < RUNS // 3 else 3
        scale = (1.0, 1.0, 1e-4, 1e3)[index % 4]
        yield _run(hypers, source, [scale] * STEPS, elements, zero=index % 4 == 3)


def _at_ends(
    program: Program, settings: Mapping[str, float], source: random.Random
) -> Iterator[Run]:
    """Hyperparameters at their bounds, each by itself and all at once; and numbers that are 0."""
    defaults = {h.name: h.default for h in program.hypers} | dict(settings)
    ends = {h.name: _ends(h) for h in program.hypers if h.name not in settings}
    simplexes = {name for s in program.simplexes for name in s.hypers}
    free = [name for name, found in ends.items() if found and name not in simplexes]
    chosen = [{name: end} for name in free for end in ends[name]]
    chosen += [{name: ends[name][i] for name in free} for i in (0, -1)]
    for simplex in program.simplexes:
        if not set(simplex.hypers) & set(settings):
            chosen += [{h: float(h == one) for h in simplex.hypers} for one in simplex.hypers]
    for values in ({}, *chosen):
        hypers = defaults | values
        # Elements that have no gradient at first, that have one, and that are zero themselves.
        run = _run(hypers, source, [1.0] * 3, 3, zero=True)
        yield Run(run.hypers, (*run.theta[:2], 0.0), run.gradients)
        yield Run(run.hypers, (0.0,), ((1e-20,), (-1e-20,)))
    # Elements whose sum is zero.
    balanced = ((1.0, -1.0), (-2.0, 2.0), (0.5, -0.5))
    yield Run(tuple(defaults.items()), (1.0, 2.0), balanced)
    yield Run(tuple(defaults.items()), (1.5, -1.5), ((1.0, 2.0),))


def _near(
    program: Program,
    settings: Mapping[str, float],
    source: random.Random,
    numbers: tuple[float, ...],
) -> Iterator[Run]:
    """Parameters, gradients and hyperparameters on both sides of some numbers, and at them."""
    defaults = {h.name: h.default for h in program.hypers} | dict(settings)
    for size in dict.fromkeys(s for n in numbers for s in (n, math.sqrt(n))):
        sides = (size, 2 * size, 0.5 * size, -size, -2 * size, -0.5 * size)
        gradients = (sides, tuple(reversed(sides)), (2 * size,) * 6, (-2 * size,) * 6)
        yield Run(tuple(defaults.items()), tuple(_drawn(source, 1.0) for _ in sides), gradients)
        yield Run(tuple(defaults.items()), sides, gradients)
        for beside in sides:
            moved = {h.name: beside for h in program.hypers if beside in h.domain}
            moved = {name: x for name, x in moved.items() if program.simplex_of(name) is None}
            if moved.keys() - settings.keys():
                values = defaults | moved | dict(settings)
                yield Run(tuple(values.items()), (1.0, 2 * size), ((1.0, size), (-0.5, -size)))


def _run(
    hypers: Mapping[str, float],
    source: random.Random,
    scales: list[float],
    elements: int,
    zero: bool = False,
) -> Run:
    theta = tuple(_drawn(source, 1.0) for _ in range(elements))
    gradients: tuple[Tensor, ...] = tuple(
        tuple(_drawn(source, scale) for _ in range(elements)) for scale in scales
    )
    if zero:  # an element that has no gradient at first
        gradients = ((0.0, *gradients[0][1:]), *gradients[1:])
    return Run(tuple(hypers.items()), theta, gradients)


def _drawn(source: random.Random, scale: float) -> float:
    """A number with few digits, for readers."""
    return float(f"{source.gauss(0, scale):.2g}")


def _ends(hyper: Hyper) -> list[float]:
    if isinstance(hyper.domain, Choice):
        return list(hyper.domain.values)
    bounds = (hyper.domain.lower, hyper.domain.upper)
    return [x for x in bounds if x in hyper.domain and math.isfinite(x)]


def _hypers(program: Program, source: random.Random, drawn: bool) -> dict[str, float]:
    found = {h.name: _random(h, source) if drawn else h.default for h in program.hypers}
    for simplex in program.simplexes if drawn else ():
        weights = [source.expovariate(1) for _ in simplex.hypers]
        found |= {h: w / sum(weights) for h, w in zip(simplex.hypers, weights, strict=True)}
    return found


def _random(hyper: Hyper, source: random.Random) -> float:
    domain: Domain = hyper.domain
    if isinstance(domain, Choice):
        return source.choice(domain.values)
    bounds = hull(domain)
    if math.isinf(bounds.upper - bounds.lower):
        drawn = (hyper.default or 0.1) * source.uniform(0.3, 3)
        return drawn if drawn in domain else hyper.default
    width = bounds.upper - bounds.lower
    drawn = bounds.lower + width * source.uniform(0.02, 0.98)
    # With few digits, for readers, where few are enough.
    shortened = (float(f"{drawn:.{digits}g}") for digits in range(2, 18))
    close = (x for x in shortened if x in domain and abs(x - drawn) < 0.02 * width)
    return next(close, hyper.default)


def branches(program: Program) -> dict[Value, Operation]:
    """The conditions of a program, by their values."""
    needed = program.needed(program.carried_values)
    found = {v: program.operations[v] for v in needed}
    return {v: o for v, o in found.items() if o.opcode in COMPARE}
