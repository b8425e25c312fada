"""Two programs are run side by side, in double precision, in search of a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Literal

from optdsl.ir.arrays import elements
from optdsl.ir.bounded import Bounded
from optdsl.ir.evaluate import BOUNDED, FLOATS, MATRICES, TRUSTING, Tensor, Watch
from optdsl.ir.lengths import own_lengths
from optdsl.ir.ops import COMPARE
from optdsl.ir.program import Program, Value
from optdsl.ir.sections import unread
from optdsl.ir.trajectories import Followed, Run
from optdsl.prove.mixed import mixed, spans_tensors
from optdsl.prove.runs import landmarks, runs
from optdsl.prove.shaken import ALIKE, shaken

# Two results are different if they differ by more than so many times what rounding explains.
_MARGIN = 4.0
# The cost of an error analysis, relative to plain evaluation.
_ANALYSIS = 3
# How many operations the runs of a claim may compute.
MAX_WORK = 500_000
# Runs of tensors that are not alike may take one in so many of these.
_MIXED = 3
# If rounding may move results by more than this, relative to their size, the analysis is too
# coarse to show that they are equal.
_EXPLAINED = 1e-3
# If rounding may move them by less than this, it has not decided a condition that matters.
_ROUNDED = 1e-9
# A few roundings of a parameter, relative to its size.
_STORED = 2.0**-48
# The longest axis that a rule declares, in a run, whose matrices are small.
_LONGEST = 16
# The largest tolerance that a reader is shown.
_TOLERANCE = 1e-9

_ARITHMETICS = {
    "floats": FLOATS,
    "matrices": MATRICES,
    "bounded": BOUNDED,
    "trusting": TRUSTING,
}

Valid = Callable[[Mapping[str, float], int], bool]
Doubt = Literal["parted", "unexplained"]


@dataclass(frozen=True)
class Counterexample:
    """A run after which two programs differ.

    Attributes:
        run: the run, up to the first step after which they differ.
        left: the last parameter of the specification.
        right: the last parameter of the rule.
        evaluated: whether `left` and `right` are the points at which the model is evaluated there.
    """

    run: Run
    left: Tensor
    right: Tensor
    evaluated: bool = False

    @property
    def tolerance(self) -> float:
        """An absolute and relative tolerance that the difference exceeds by far."""
        pairs, gap = zip(self.left, self.right, strict=True), 1.0
        if all(map(math.isfinite, (*self.left, *self.right))):
            gap = max(abs(x - y) / (1 + max(abs(x), abs(y))) for x, y in pairs)
        return min(_TOLERANCE, 10.0 ** math.floor(math.log10(gap) - 0.5)) if gap else _TOLERANCE


@dataclass
class Trial:
    """What runs of two programs show.

    Attributes:
        found: a run in which they differ by more than rounding explains.
        runs: the number of runs.
        steps: the number of steps of the longest run.
        parted: the number of runs in which they differ by much, or in which rounding decided a
            condition and they differ.
        unexplained: the number of runs in which they differ, and rounding was too large, or too
            expensive to analyse, to explain it.
        unseen: how many of their conditions held in no run, or in every run.
        far: a number with which a state is compared, and which no count of steps reached, if any.
        beyond: the step after which a condition changes, which no run reached, if any.
        unread: the number of runs whose matrices have not the axes that a program declares, or axes
            that are too long to be tried.
    """

    found: Counterexample | None = None
    runs: int = 0
    steps: int = 0
    parted: int = 0
    unexplained: int = 0
    unseen: int = 0
    far: int | None = None
    beyond: int | None = None
    unread: int = 0


def trial(
    left: Program | Sequence[Program],
    right: Program | Sequence[Program],
    settings: Mapping[str, float],
    valid: Valid = lambda hypers, t: True,
    work: int = MAX_WORK,
    proved: bool = False,
) -> Trial:
    """Run two programs side by side until they differ by more than rounding explains.

    A number and NaN, or a number and an infinity, are different; finite numbers are different if
    they differ by more than a running error analysis allows. A run ends where the parameter of
    either program is no longer finite.

    Of matrices there is no error analysis. There, finite numbers are different if they differ by
    more than `optdsl.prove.shaken.ALIKE`, relative to the change of the parameter, and by more than
    changes in the last places of what is computed explain; see `optdsl.prove.shaken`.

    Args:
        left: a program, or one for each kind of tensors; those are run together.
        right: another one over the same hyperparameters, or one for each kind.
        settings: fixed values of some hyperparameters; the others have their defaults at first,
            then their bounds, values near constants that the programs compare with, and random
            values.
        valid: whether both programs may have some hyperparameters at a step.
        work: about how many operations may be computed.
        proved: whether the programs are known to be equal over the reals. Then finite numbers that
            differ without an error analysis are a doubt, and no difference.
    """
    done = Trial()
    both = [(p,) if isinstance(p, Program) else tuple(p) for p in (left, right)]
    comparison = _Comparison(both, work, proved)
    tried: Iterable[Run] = mixed(both, settings, work // _MIXED)
    if isinstance(left, Program) and isinstance(right, Program):
        several = not left.kind and spans_tensors((left, right))
        tried = chain(runs((left, right), settings, work, proved), tried if several else ())
    for run in tried:
        allowed = _allowed(run, valid)
        if not allowed:
            continue
        if not all(_has_axes(programs, run) for programs in both):
            done.unread += 1
            continue
        done.runs += 1
        done.steps = max(done.steps, allowed)
        done.found = comparison.difference(replace(run, gradients=run.gradients[:allowed]))
        if done.found is not None:
            return done
        done.parted += "parted" in comparison.doubts
        done.unexplained += "unexplained" in comparison.doubts
    done.unseen = comparison.unseen
    known = landmarks([p for own in both for p in own], both[0][0].defaults | dict(settings))
    done.far = known.far
    done.beyond = min((s for s in known.all_steps if s >= done.steps), default=None)
    return done


def _allowed(run: Run, valid: Valid) -> int:
    """For how many steps both programs may have the hyperparameters of a run."""
    groups = [dict(run.hypers) | dict(own) for own in {part.hypers: None for part in run.parts}]
    allowed = 0
    while allowed < len(run.gradients) and all(valid(own, allowed + 1) for own in groups):
        allowed += 1
    return allowed


def _has_axes(programs: Sequence[Program], run: Run) -> bool:
    """Whether the matrices of a run have the axes that programs declare, none of them long."""
    for part in run.parts:
        if part.shape is None:
            continue
        hypers = dict(run.hypers) | dict(part.hypers)
        try:
            program = programs[part.section]
            lengths = own_lengths(program, unread(program.kind, part.shape), hypers)
        except ValueError:
            return False
        if any(length > _LONGEST for length in lengths.values()):
            return False
    return True


# The numbers of all parameters after a step, and where the model is then evaluated.
_After = tuple[tuple[Any, ...], tuple[Any, ...]]


class _Comparison:
    """Compares two rules in one run after the other.

    Attributes:
        doubts: what makes the latest run, which showed no difference, say less; see `Trial`.
    """

    def __init__(self, both: Sequence[Sequence[Program]], work: int, proved: bool) -> None:
        self._both, self._work, self._proved = both, work, proved
        self._size = sum(len(p.operations) for programs in both for p in programs)
        self._points = any(p.points for programs in both for p in programs)
        self._prepared: dict[tuple[int, str], Followed] = {}
        # For each condition of each program, the results that it had.
        self._results: list[dict[Value, set[bool]]] = [
            {v: set() for v in needed if p.operations[v].opcode in COMPARE}
            for p, *_ in both
            for needed in (p.needed((*p.carried_values, *p.points)),)
        ]

    def difference(self, run: Run) -> Counterexample | None:
        """A step at which the programs differ by more than rounding explains, or None."""
        self._run, self.doubts = run, set[Doubt]()
        self._analyses: dict[bool, list[tuple[_After, ...]]] = {}
        plain = "matrices" if run.of_matrices else "floats"
        both = (self._followed(i, plain, self._watch(i)) for i in (0, 1))
        for step, after in enumerate(zip(*both, strict=True), start=1):
            for what, (x, y) in enumerate(zip(*after, strict=True)):
                if not all(map(_same, x, y)) and self._differ(step - 1, after, what):
                    cut = replace(run, gradients=run.gradients[:step])
                    return Counterexample(cut, x, y, evaluated=bool(what))
            if not all(map(math.isfinite, (*after[0][0], *after[1][0]))):
                break  # the steps that follow show nothing
        return None

    def _followed(self, side: int, arithmetic: str, watch: Watch | None = None) -> Iterator[_After]:
        """The run of one side."""
        key = (side, arithmetic)
        if key not in self._prepared:
            self._prepared[key] = Followed(self._both[side], _ARITHMETICS[arithmetic])
        return self._prepared[key].followed(self._run, watch, self._points)

    @property
    def unseen(self) -> int:
        """How many conditions held in no run, or in every run."""
        return sum(len(seen) < 2 for results in self._results for seen in results.values())

    def _watch(self, side: int) -> Watch | None:
        """What collects the results of one program's conditions, until each has had both."""
        results = self._results[side]

        def look(value: Value, found: object) -> None:
            if value in results:
                results[value].update(map(bool, elements(found)))

        return look if any(len(seen) < 2 for seen in results.values()) else None

    def _differ(self, step: int, after: tuple[_After, _After], what: int) -> bool:
        """Whether results that are not the same differ by more than rounding explains.

        They are those of a step: the parameters (0), or the points of evaluation (1).
        """
        if self._run.of_matrices:
            return self._matrices_differ(step, after, what)
        x, y = (side[what] for side in after)
        scale = max(map(abs, (*self._run.theta, *x, *y)))
        if not all(map(math.isfinite, (*x, *y))):
            scale = math.inf
        elif any(abs(a - b) > _EXPLAINED * scale for a, b in zip(x, y, strict=True)):
            self.doubts.add("parted")
        errors = self._errors(step, what, trusting=False)
        if errors is None:
            self.doubts.add("unexplained")
            # Without an analysis, only a number on one side and none on the other is certain.
            return any(math.isfinite(a) != math.isfinite(b) for a, b in zip(x, y, strict=True))
        if any(map(_apart, *errors)):
            return True
        if _largest(errors) > _ROUNDED * scale:
            trusted = self._errors(step, what, trusting=True)
            if trusted is None or _largest(trusted) > _EXPLAINED * scale:
                self.doubts.add("unexplained")
            elif any(map(_apart, *trusted)):
                self.doubts.add("parted")
        return False

    def _matrices_differ(self, step: int, after: tuple[_After, _After], what: int) -> bool:
        """The same for matrices, of which there is no error analysis."""
        run = replace(self._run, gradients=self._run.gradients[: step + 1])
        x, y = (side[what] for side in after)
        finite, gap = all(map(math.isfinite, (*x, *y))), math.inf
        if finite:
            moved = max(abs(a - b) for z in (x, y) for a, b in zip(z, run.theta, strict=True))
            gap = max(abs(a - b) for a, b in zip(x, y, strict=True))
            if gap <= ALIKE * moved + _STORED * max(map(abs, (*run.theta, *x, *y))):
                return False
        elif all(math.isfinite(a) == math.isfinite(b) for a, b in zip(x, y, strict=True)):
            # Where numbers have overflowed, a factor of zero makes NaN of an infinity.
            self.doubts.add("parted")
            return False
        self._work -= 4 * self._size * len(run.gradients) * len(run.theta)
        if self._work < 0:
            self.doubts.add("unexplained")
            return False
        both = zip(self._both, after, strict=True)
        away = max(shaken(own, run, z, gap / _MARGIN) for own, z in both)
        if away >= math.inf or (finite and (self._proved or gap <= _MARGIN * away)):
            self.doubts.add("parted")
            return False
        return True

    def _errors(
        self, step: int, what: int, trusting: bool
    ) -> tuple[tuple[Bounded, ...], ...] | None:
        """Results of a step, with bounds on their errors; None beyond the work allowed.

        With `trusting`, the analysis takes conditions to be what they are computed to be.
        """
        if trusting not in self._analyses:
            self._work -= _ANALYSIS * self._size * len(self._run.gradients) * len(self._run.theta)
            if self._work < 0:
                return None
            arithmetic = "trusting" if trusting else "bounded"
            both = (self._followed(i, arithmetic) for i in (0, 1))
            self._analyses[trusting] = list(zip(*both, strict=True))
        left, right = self._analyses[trusting][step]
        return left[what], right[what]


def _largest(errors: tuple[tuple[Bounded, ...], ...]) -> float:
    """By how much rounding may move results."""
    return _MARGIN * max(b.error for side in errors for b in side)


def _same(x: float, y: float) -> bool:
    return x == y or (x != x and y != y)


def _apart(x: Bounded, y: Bounded) -> bool:
    if not (math.isfinite(x.value) and math.isfinite(y.value)):
        return not _same(x.value, y.value)
    return abs(x.value - y.value) > _MARGIN * (x.error + y.error)
