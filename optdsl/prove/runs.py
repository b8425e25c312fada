"""The runs in which two programs are compared.

They have parameters, gradients and hyperparameters of many scales, on both sides of the constants
that the programs compare with. The runs are the same every time, and simple ones come first.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from optdsl.ir.arrays import Shape
from optdsl.ir.domain import Choice, hull
from optdsl.ir.evaluate import Tensor, Uniforms
from optdsl.ir.laws import Stage
from optdsl.ir.ops import DRAWS, TABLE, laws_of
from optdsl.ir.program import Hyper, Program, State, Value, depending, upstream
from optdsl.ir.sections import WIDE, is_stacked, of_matrices
from optdsl.ir.trajectories import Run
from optdsl.ir.types import Extent
from optdsl.passes.totals import required_inputs

RUNS = 24
STEPS = 10
# One in so many of the plain runs, and of the work, is enough where there is a proof.
_FEW = 8
_LESS = 5
# At most so many constants are considered, and a run takes at most so many steps to pass one.
_MAX_LANDMARKS = 12
MAX_STEPS = 2_000
# Divided by the size of a program, this is how many of its branches are searched for steps at which
# they change.
_MAX_TURNS = 16_000
# The cost of an operation on matrices, relative to one on as many numbers.
MATRICES = 3
# How many numbers are read as which matrices, in turn.
_SHAPES: dict[int, tuple[Shape, ...]] = {
    1: ((1, 1, 1),),
    2: ((1, 1, 2), (1, 2, 1)),
    3: ((1, 3, 1), (1, 1, 3)),
    4: ((1, 2, 2),),
    6: ((1, 2, 3), (1, 3, 2)),
    12: ((2, 2, 3), (2, 3, 2)),
}


@dataclass(frozen=True)
class Landmarks:
    """Where a program may change what it does.

    Attributes:
        numbers: the constants with which it compares.
        steps: the last steps before the result of a branch that depends on the step alone changes,
            sorted.
        count: the largest number up to `MAX_STEPS` with which a state is compared, since the state
            may count steps; 0 where there is none.
        far: the smallest whole number beyond `MAX_STEPS` with which a state is compared, if any.
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
    """The landmarks of some programs at given values of all hyperparameters."""
    numbers: dict[float, None] = {}
    steps: set[int] = set()
    count, far = 0, list[int]()
    for program in programs:
        needed = program.needed((*program.carried_values, *program.points))
        branching = [v for v in needed if laws_of(program.operations[v]).compares]
        compared = [a for v in branching for a in _arguments(program, v)]
        numbers |= dict.fromkeys(_numbers(program, compared, hypers))
        of_step = _of_step(program, needed)
        # A draw differs at every counter; what the counter is made of may turn.
        own = ((v, program.operations[v]) for v in needed)
        jumping = [v for v, o in own if laws_of(o).jumps and o.opcode not in DRAWS]
        turning = dict.fromkeys([*branching, *jumping])
        stepwise = [v for v in turning if of_step.issuperset(_arguments(program, v))]
        for value in stepwise[: max(1, _MAX_TURNS // len(program.operations))]:
            steps.update(_turns(program, value, hypers))
        steps.update(_met(program, needed, of_step, hypers))
        of_state = depending(program.operations, "state")
        beside = [a for v in branching if of_state[v] for a in _arguments(program, v)]
        counts = [n for n in _numbers(program, beside, hypers) if n + 1 >= STEPS]
        count = max([count, *(math.ceil(n) for n in counts if n <= MAX_STEPS)])
        far += (int(n) for n in counts if n > MAX_STEPS and n.is_integer())
    return Landmarks(
        tuple(numbers)[:_MAX_LANDMARKS], tuple(sorted(steps)), count, min(far, default=None)
    )


def _numbers(
    program: Program, values: Sequence[Value], hypers: Mapping[str, float]
) -> Iterator[float]:
    """The absolute values of the literals and hyperparameters that some values depend on."""
    for value in upstream(program.operations, values):
        operation = program.operations[value]
        known = {"constant": operation.attribute, "hyper": hypers.get(str(operation.attribute))}
        found = known.get(operation.opcode)
        if isinstance(found, float) and math.isfinite(found) and found:
            yield abs(found)


def _met(
    program: Program, needed: Sequence[Value], of_step: set[Value], hypers: Mapping[str, float]
) -> Iterator[int]:
    """The steps at which the sum of the step and a number is zero, and the steps before those."""
    sums = [v for v in needed if v in of_step and laws_of(program.operations[v]).additive]
    arguments = (_arguments(program, v) for v in sums)
    met = [x for x in arguments if any(program.operations[a].opcode == "step" for a in x)]
    for x in met[:_MAX_LANDMARKS]:
        for number in _numbers(program, x, hypers):
            if STEPS <= number < MAX_STEPS:
                yield from (math.ceil(number) - 1, math.floor(number))


def _arguments(program: Program, value: Value) -> tuple[Value, ...]:
    return program.operations[value].arguments


def _of_step(program: Program, needed: Sequence[Value]) -> set[Value]:
    """The values that depend on the step and on hyperparameters, and on nothing else."""
    found: set[Value] = set()
    for value in needed:
        operation = program.operations[value]
        stage = TABLE[operation.opcode].stage
        made = operation.arguments and found.issuperset(operation.arguments)
        if stage in {Stage.LITERAL, Stage.HOST} or (made and stage is not Stage.DRAW):
            found.add(value)
    return found


def _turns(program: Program, value: Value, hypers: Mapping[str, float]) -> Iterator[int]:
    """The last steps before a branch changes, as far as sampling and bisection find them."""
    row = TABLE[program.operations[value].opcode]
    x = Uniforms(program, _arguments(program, value))
    if x.steady:
        return

    def way(t: int) -> object:
        found = x.at(hypers, t)
        assert row.apply is not None
        return row.apply(*found) if row.laws.jumps else found[0] > found[1]

    # The numbers that the branch depends on are sampled too: it may differ at a single step.
    near = [n for n in _numbers(program, (value,), hypers) if n < 2**40]
    beside = {int(n) + d for n in near[:_MAX_LANDMARKS] for d in (-1, 0, 1, 2)}
    known = sorted({*range(1, 17), *(2**k for k in range(5, 41)), *(b for b in beside if b > 0)})
    ways = [way(t) for t in known]
    for low, high, old, new in zip(known, known[1:], ways, ways[1:], strict=False):
        if old != new:
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if way(middle) == old else (low, middle)
            yield low


def runs(
    programs: Sequence[Program], settings: Mapping[str, float], work: int, proved: bool = False
) -> Iterator[Run]:
    """The runs, as many as an amount of work allows.

    Args:
        programs: the programs to compare; the runs have the hyperparameters of the first one.
        settings: fixed values of some hyperparameters.
        work: about how many operations may be computed.
        proved: whether the programs are known to be equal over the reals. Then runs need only show
            where computed numbers are not: at ends, and where something overflows or cancels.
    """
    size = sum(len(p.operations) for p in programs)
    if of_matrices(programs[0].kind):
        work //= MATRICES
    if proved:
        work //= _LESS
    draws = Draws(programs, settings)
    known = landmarks(programs, draws.defaults)
    for number, run in enumerate(
        (*draws.plain(_FEW if proved else 1), *draws.at_ends(), *draws.near(known.numbers))
    ):
        work -= size * len(run.gradients) * len(run.theta)
        if work < 0 and len(run.gradients) > 1:
            if not number:  # Programs that are too large for a whole run take two steps.
                yield draws.read(replace(run, gradients=run.gradients[:2]))
            return
        yield draws.read(run)
    reached = [s for s in known.all_steps if STEPS <= s + 1 <= MAX_STEPS + 1]
    for length in dict.fromkeys(s + 2 for s in (*reached[:2], *reached[-2:])):
        work -= size * length
        if work < 0:
            return
        # A counterexample with one gradient, repeated, is short to write down.
        yield draws.read(draws.default_run((draws.number(1.0),), ((1.0,),) * length))


class Draws:
    """Draws runs of a program at random, with some hyperparameters fixed by `settings`.

    Attributes:
        defaults: the values of all hyperparameters, by default or fixed.
        inputs: the inputs of the programs, and whether every step needs them.
    """

    def __init__(self, programs: Sequence[Program], settings: Mapping[str, float]) -> None:
        program = programs[0]
        self._program, self._settings, self._source = program, settings, random.Random(0)
        self.defaults = program.defaults | dict(settings)
        self._stacks, self._read = is_stacked(program.kind), 0
        self._several = any(
            TABLE[p.operations[v].opcode].stage is Stage.TOTAL
            for p in programs
            for v in p.needed(p.carried_values)
        )
        self.inputs: dict[State, bool] = {}
        for p in programs:
            for state in (s for s in p.states if s.input):
                one = State(state.name, state.type, Value(0), Value(0), input=True)
                own = state.name in required_inputs(p)
                self.inputs[one] = own or self.inputs.get(one, False)

    def read(self, run: Run) -> Run:
        """A run with its numbers read as the programs take them.

        That is as matrices, or as several tensors where programs sum over all of them; and with
        inputs.
        """
        count = len(run.theta)
        if self._several:
            run = replace(run, tensors=next((n for n in (2, 3) if count % n == 0), 1))
        if of_matrices(self._program.kind):
            shapes = _SHAPES[count // run.tensors]
            if WIDE in self._program.kind.split():
                shapes = tuple(s for s in shapes if s[1] <= s[2])
            self._read += 1
            run = replace(run, shape=shapes[self._read % len(shapes)])
        return self.with_inputs(run)

    def with_inputs(self, run: Run) -> Run:
        """A run with what its steps are given."""
        return replace(run, inputs=tuple(self._given(run))) if self.inputs else run

    def _given(self, run: Run) -> Iterator[tuple[str, tuple[Tensor | None, ...]]]:
        """What is given to the steps of a run; some go without what they do not need."""
        for place, (state, needed) in enumerate(self.inputs.items()):
            like = run.theta if state.type.extent is Extent.TENSOR else (0.0,)
            values: list[Tensor | None] = []
            for step in range(len(run.gradients)):
                drawn = tuple(self.number(1.0) for _ in like)
                values.append(drawn if needed or (step + place) % 3 != 1 else None)
            yield state.name, tuple(values)

    def plain(self, every: int = 1) -> Iterator[Run]:
        """Runs at the defaults, then at random hyperparameters, with gradients of many scales.

        They are one in so many, from the first one on.
        """
        for index in range(0, RUNS, every):
            hypers = self.hypers() if index >= 2 else self.defaults
            elements = self._elements(index)
            scale = (1.0, 1.0, 1e-4, 1e3)[index % 4]
            yield self._run(hypers, [scale] * STEPS, elements, zero=index % 4 == 3)

    def _elements(self, index: int) -> int:
        if not of_matrices(self._program.kind):
            several = 4 if self._several else 3
            return 1 if index < RUNS // 3 else several
        sizes = (6, 12, 1, 4, 6) if self._stacks else (6, 1, 6, 4)
        return sizes[index % len(sizes)]

    def at_ends(self) -> Iterator[Run]:
        """Hyperparameters at their bounds, each alone and all at once, and numbers that are 0."""
        program = self._program
        ends = {h.name: _ends(h) for h in program.hypers if h.name not in self._settings}
        free = [name for name, x in ends.items() if x and program.simplex_of(name) is None]
        chosen = [{name: end} for name in free for end in ends[name]]
        chosen += [{name: ends[name][i] for name in free} for i in (0, -1)]
        for simplex in program.simplexes:
            if not set(simplex.hypers) & set(self._settings):
                chosen += [{h: float(h == one) for h in simplex.hypers} for one in simplex.hypers]
        for values in ({}, *chosen):
            # One element has no gradient at first, one always has one, one starts at zero.
            run = self._run(self.defaults | values, [1.0] * 3, 3, zero=True)
            yield Run(run.hypers, (*run.theta[:2], 0.0), run.gradients)
            yield Run(run.hypers, (0.0,), ((1e-20,), (-1e-20,)))
        # The elements of these gradients, and of this parameter, sum to zero.
        yield self.default_run((1.0, 2.0), ((1.0, -1.0), (-2.0, 2.0), (0.5, -0.5)))
        yield self.default_run((1.5, -1.5), ((1.0, 2.0),))

    def near(self, numbers: tuple[float, ...]) -> Iterator[Run]:
        """Parameters, gradients and hyperparameters at some numbers and on both sides of them."""
        program = self._program
        for size in dict.fromkeys(s for n in numbers for s in (n, math.sqrt(n))):
            sides = (size, 2 * size, 0.5 * size, -size, -2 * size, -0.5 * size)
            gradients = (sides, tuple(reversed(sides)), (2 * size,) * 6, (-2 * size,) * 6)
            yield self.default_run(tuple(self.number(1.0) for _ in sides), gradients)
            yield self.default_run(sides, gradients)
            for beside in sides:
                inside = [h.name for h in program.hypers if beside in h.domain]
                moved = {name: beside for name in inside if program.simplex_of(name) is None}
                if moved.keys() - self._settings.keys():
                    values = self.defaults | moved | dict(self._settings)
                    yield Run(tuple(values.items()), (1.0, 2 * size), ((1.0, size), (-0.5, -size)))

    def default_run(self, theta: Tensor, gradients: tuple[Tensor, ...]) -> Run:
        """A run at the defaults of all hyperparameters that are not fixed."""
        return Run(tuple(self.defaults.items()), theta, gradients)

    def number(self, scale: float) -> float:
        """A normally distributed number, with few digits so that it is easy to read."""
        return float(f"{self._source.gauss(0, scale):.2g}")

    def _run(
        self, hypers: Mapping[str, float], scales: list[float], elements: int, zero: bool
    ) -> Run:
        """A random run; with `zero`, the first element has no gradient in the first step."""
        theta = tuple(self.number(1.0) for _ in range(elements))
        first, *others = (tuple(self.number(s) for _ in range(elements)) for s in scales)
        first = (0.0, *first[1:]) if zero else first
        return Run(tuple(hypers.items()), theta, (first, *others))

    def hypers(self) -> dict[str, float]:
        """Random values of all hyperparameters that are not fixed."""
        found = {h.name: self._hyper(h) for h in self._program.hypers}
        for simplex in self._program.simplexes:
            weights = [self._source.expovariate(1) for _ in simplex.hypers]
            found |= {h: w / sum(weights) for h, w in zip(simplex.hypers, weights, strict=True)}
        return found | dict(self._settings)

    def _hyper(self, hyper: Hyper) -> float:
        if isinstance(hyper.domain, Choice):
            return self._source.choice(hyper.domain.values)
        bounds = hull(hyper.domain)
        width = bounds.upper - bounds.lower
        if bounds.whole:
            # Small ones, which may be numbers of steps.
            most = min(bounds.upper, bounds.lower + STEPS)
            return float(self._source.randint(int(bounds.lower), int(most)))
        if math.isinf(width):
            drawn = (hyper.default or 0.1) * self._source.uniform(0.3, 3)
            return drawn if drawn in hyper.domain else hyper.default
        drawn = bounds.lower + width * self._source.uniform(0.02, 0.98)
        # The fewest digits that come close are the easiest to read.
        shortened = (float(f"{drawn:.{digits}g}") for digits in range(2, 18))
        close = (x for x in shortened if x in hyper.domain and abs(x - drawn) < 0.02 * width)
        return next(close, hyper.default)


def _ends(hyper: Hyper) -> list[float]:
    if isinstance(hyper.domain, Choice):
        return list(hyper.domain.values)
    bounds = (hyper.domain.lower, hyper.domain.upper)
    return [x for x in bounds if x in hyper.domain and math.isfinite(x)]
