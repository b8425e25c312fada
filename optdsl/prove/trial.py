"""Runs of two programs side by side, in double precision, in search of a difference."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from optdsl.ir.bounded import Bounded
from optdsl.ir.evaluate import Run, Tensor, Watch, rounded, trajectory
from optdsl.ir.program import Program, Value
from optdsl.prove.runs import RUNS, STEPS, branches, landmarks, runs

__all__ = ["RUNS", "STEPS", "Counterexample", "Trial", "trial"]

# By how much of what rounding explains two results must differ to be different.
_MARGIN = 4.0
# What an error analysis costs, in operations that are computed plainly.
_ANALYSIS = 3
# The operations that the runs of a claim may compute.
MAX_WORK = 500_000
# Rounding that may move results by more than this, in proportion, explains nothing.
_EXPLAINED = 1e-3
# Rounding that may move them by less has decided no condition that matters.
_ROUNDED = 1e-9
# What a reader is shown as the tolerance, at most.
_TOLERANCE = 1e-9

Valid = Callable[[Mapping[str, float], int], bool]


@dataclass(frozen=True)
class Counterexample:
    """A run after which two programs differ.

    Attributes:
        run: the run, as short as it can be.
        left: the parameter that the specification ends with.
        right: the parameter that the rule ends with.
    """

    run: Run
    left: Tensor
    right: Tensor

    @property
    def tolerance(self) -> float:
        """An absolute and relative tolerance that both exceed by far."""
        gaps = [
            abs(x - y) / (1 + max(abs(x), abs(y)))
            for x, y in zip(self.left, self.right, strict=True)
            if math.isfinite(x) and math.isfinite(y)
        ]
        finite = all(map(math.isfinite, (*self.left, *self.right)))
        gap = max(gaps, default=1.0) if finite else 1.0
        return min(_TOLERANCE, 10.0 ** math.floor(math.log10(gap) - 0.5)) if gap else _TOLERANCE


@dataclass
class Trial:
    """What runs of two programs show.

    Attributes:
        found: a run in which they differ by more than rounding explains.
        runs: how many runs were made.
        steps: the most steps of a run.
        parted: in how many runs they differ by much, or by what rounding decided in a condition.
        unexplained: in how many runs they differ and rounding was too large, or too much work to
            follow, to explain anything.
        unseen: how many of their conditions held in no run, or in every one.
        far: a number that a state is compared with, and that no count of steps reached, if there
            is one.
        beyond: the step after which a condition changes that no run reached, if there is one.
    """

    found: Counterexample | None = None
    runs: int = 0
    steps: int = 0
    parted: int = 0
    unexplained: int = 0
    unseen: int = 0
    far: int | None = None
    beyond: int | None = None


def trial(
    left: Program,
    right: Program,
    settings: Mapping[str, float],
    valid: Valid = lambda hypers, t: True,
    work: int = MAX_WORK,
) -> Trial:
    """Run two programs side by side until they part by more than rounding explains.

    A number and NaN, or a number and an infinity, are different; finite numbers are when they
    differ by more than a running error analysis allows. A run ends where the parameters of both
    are no longer finite.

    Args:
        left: a program.
        right: another one over the same hyperparameters.
        settings: those that have a given value; others are as by default at first, then at their
            bounds, near constants that the programs compare with, and random.
        valid: whether hyperparameters are ones that both programs may have at a step.
        work: how many operations may be computed, roughly.
    """
    done = Trial()
    seen = _Seen((left, right))
    looked = _Rounding(left, right, work, done)
    for run in runs((left, right), settings, work):
        hypers = dict(run.hypers)
        allowed = 0
        while allowed < len(run.gradients) and valid(hypers, allowed + 1):
            allowed += 1
        if not allowed:
            continue
        run = Run(run.hypers, run.theta, run.gradients[:allowed])
        done.runs += 1
        done.steps = max(done.steps, allowed)
        done.found = _compared(left, right, run, seen, looked)
        if done.found is not None:
            return done
    done.unseen = seen.unseen
    defaults = {h.name: h.default for h in left.hypers} | dict(settings)
    known = landmarks((left, right), defaults)
    done.far = known.far
    later = [s for s in known.all_steps if s >= done.steps]
    done.beyond = min(later, default=None)
    return done


def _compared(
    left: Program, right: Program, run: Run, seen: _Seen, looked: _Rounding
) -> Counterexample | None:
    first, second = trajectory(left, run, seen.watch(0)), trajectory(right, run, seen.watch(1))
    looked.begin(run)
    for step, (x, y) in enumerate(zip(first, second, strict=True), start=1):
        if not all(map(_same, x, y)) and looked.apart(step - 1, x, y):
            return Counterexample(Run(run.hypers, run.theta, run.gradients[:step]), x, y)
        if not all(map(math.isfinite, (*x, *y))):
            break  # nothing that comes after tells anything
    looked.end()
    return None


class _Rounding:
    """What rounding explains of the differences in runs."""

    def __init__(self, left: Program, right: Program, work: int, done: Trial) -> None:
        self._programs, self._work, self._done = (left, right), work, done
        self._size = sum(len(p.operations) for p in self._programs)

    def begin(self, run: Run) -> None:
        """A run begins."""
        self._run, self._parted, self._unexplained = run, False, False
        self._found: dict[bool, list[tuple[tuple[Bounded, ...], ...]]] = {}

    def end(self) -> None:
        """It is over; what was seen is counted."""
        self._done.parted += self._parted
        self._done.unexplained += self._unexplained

    def apart(self, step: int, x: Tensor, y: Tensor) -> bool:
        """Whether results that are not the same differ by more than rounding explains."""
        scale = max(map(abs, (*self._run.theta, *x, *y)))
        if not all(map(math.isfinite, (*x, *y))):
            scale = math.inf
        elif any(abs(a - b) > _EXPLAINED * scale for a, b in zip(x, y, strict=True)):
            self._parted = True
        errors = self._errors(step, trusting=False)
        if errors is None:
            self._unexplained = True
            # Without an analysis, only what is a number here and none there is certain.
            return any(math.isfinite(a) != math.isfinite(b) for a, b in zip(x, y, strict=True))
        if any(map(_apart, *errors)):
            return True
        if _largest(errors) > _ROUNDED * scale:
            trusted = self._errors(step, trusting=True)
            if trusted is None or _largest(trusted) > _EXPLAINED * scale:
                self._unexplained = True
            elif any(map(_apart, *trusted)):
                self._parted = True
        return False

    def _errors(self, step: int, trusting: bool) -> tuple[tuple[Bounded, ...], ...] | None:
        if trusting not in self._found:
            self._work -= _ANALYSIS * self._size * len(self._run.gradients) * len(self._run.theta)
            if self._work < 0:
                return None
            both = (rounded(p, self._run, trusting) for p in self._programs)
            self._found[trusting] = list(zip(*both, strict=True))
        return self._found[trusting][step]


def _largest(errors: tuple[tuple[Bounded, ...], ...]) -> float:
    """By how much rounding may move results."""
    return _MARGIN * max(b.error for side in errors for b in side)


def _same(x: float, y: float) -> bool:
    return x == y or (x != x and y != y)


def _apart(x: Bounded, y: Bounded) -> bool:
    if not (math.isfinite(x.value) and math.isfinite(y.value)):
        return not _same(x.value, y.value)
    return abs(x.value - y.value) > _MARGIN * (x.error + y.error)


@dataclass
class _Seen:
    """Which way the conditions of two programs went."""

    programs: tuple[Program, Program]
    ways: dict[tuple[int, Value], set[bool]] = field(init=False)

    def __post_init__(self) -> None:
        self.ways = {(i, v): set() for i, p in enumerate(self.programs) for v in branches(p)}

    def watch(self, side: int) -> Watch | None:
        """What looks at the conditions of one of them; None where there are none."""
        if not any(i == side for i, _ in self.ways):
            return None

        def look(value: Value, found: object) -> None:
            if (side, value) in self.ways:
                several = found if isinstance(found, tuple) else (found,)
                self.ways[side, value].update(bool(x) for x in several)

        return look

    @property
    def unseen(self) -> int:
        """How many conditions went one way only."""
        return sum(len(ways) < 2 for ways in self.ways.values())
