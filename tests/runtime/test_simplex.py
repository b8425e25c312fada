"""Where a weight vector lands: the nearest point of its simplex, or the exponentiated gradient."""

import functools
import math
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction

import mpmath
import pytest
from hypothesis import assume, given, strategies as st

from optdsl.ir.builder import Builder
from optdsl.ir.domain import EVERYTHING
from optdsl.ir.evaluate import number
from optdsl.ir.program import Hyper, Program, Value
from optdsl.ir.types import UNIFORM
from optdsl.learning import simplex
from optdsl.learning.arithmetic import Arithmetic
from optdsl.learning.simplex import FLOOR

from .weights import nearest

pytestmark = pytest.mark.broad(8)

# The spacing of floats from one on; what a result may be off by is a few of these.
ULP = sys.float_info.epsilon

moderate = st.floats(-3, 3, allow_nan=False)
ties = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 1 / 3, 0.5, 1.0, 2.0])
huge = st.floats(allow_nan=False, allow_infinity=False)
points = st.one_of(*(st.lists(x, min_size=1, max_size=7) for x in (moderate, ties, huge)))


Written = Callable[[Arithmetic, Sequence[Value]], list[Value]]


@functools.cache
def written(function: Written, count: int) -> tuple[Program, list[Value]]:
    """A function of numbers as a program, whose hyperparameters are the numbers."""
    builder = Builder()
    names = [f"x{n}" for n in range(count)]
    found = function(Arithmetic(builder), [builder.emit("hyper", attribute=n) for n in names])
    parameter = builder.emit("parameter", type=UNIFORM)
    hypers = tuple(Hyper(n, 0.0, EVERYTHING) for n in names)
    return Program("X", (), hypers, (), builder.operations, (), parameter), found


def applied(function: Written, x: Sequence[float]) -> list[float]:
    program, found = written(function, len(x))
    return [number(program, value, {f"x{n}": y for n, y in enumerate(x)}) for value in found]


def project(point: Sequence[float]) -> list[float]:
    return applied(simplex.project, point)


def logarithms(weights: Sequence[float]) -> list[float]:
    return applied(simplex.logarithms, weights)


def softmax(logits: Sequence[float]) -> list[float]:
    return applied(simplex.softmax, logits)


def on_simplex(weights: Sequence[float]) -> bool:
    total = sum(map(Fraction, weights))
    return all(0 <= w <= 1 for w in weights) and abs(total - 1) <= 2 * ULP * len(weights)


def distance(x: Sequence[float], y: Sequence[float]) -> Fraction:
    """The square of the Euclidean distance, without rounding."""
    return sum(((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(x, y, strict=True)), Fraction(0))


# --- Euclidean projection -----------------------------------------------------------------------


@given(points)
def test_it_is_the_nearest_point(point: list[float]) -> None:
    found = project(point)
    errors = [abs(a - Fraction(b)) for a, b in zip(nearest(point), found, strict=True)]
    assert max(errors) <= 2 * ULP * len(point)
    assert on_simplex(found)


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ([0.3], [1.0]),
        ([-1e300], [1.0]),
        ([1.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([2.0, 0.0, 0.0], [1.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]),
        ([-5.0, -5.0], [0.5, 0.5]),
        ([1.0, 1.0, 0.0], [0.5, 0.5, 0.0]),
        ([1.5, 1.0], [0.75, 0.25]),
        ([0.5, -0.5, 0.5], [0.5, 0.0, 0.5]),
        ([1.0, 0.5, -4.0], [0.75, 0.25, 0.0]),
        ([1e16, 1e16], [0.5, 0.5]),
        ([1e308, 1e308, -1e308], [0.5, 0.5, 0.0]),
        ([1e-320, 0.0], [0.5, 0.5]),
    ],
)
def test_points_whose_projection_is_known(point: list[float], expected: list[float]) -> None:
    assert project(point) == expected


@pytest.mark.parametrize(
    "point", [[0.1, 0.2, 0.7], [1 / 3] * 3, [0.9, 0.1], [1 / 7] * 7, [0.0, 1.0], [1e-300, 1.0]]
)
def test_a_point_of_the_simplex_stays_to_the_bit(point: list[float]) -> None:
    assert project(point) == point


@given(points)
def test_projecting_twice_is_projecting_once(point: list[float]) -> None:
    once = project(point)
    assert project(once) == pytest.approx(once, rel=0, abs=2 * ULP * len(point))


@given(st.lists(moderate, min_size=2, max_size=7), st.floats(-1e3, 1e3))
def test_a_constant_added_to_all_changes_nothing(point: list[float], constant: float) -> None:
    moved = [x + constant for x in point]
    rounding = ULP * (abs(constant) + 4) * (len(point) + 1)
    assert project(moved) == pytest.approx(project(point), rel=0, abs=rounding)


@given(st.lists(moderate, min_size=2, max_size=6), st.data())
def test_no_point_of_the_simplex_is_nearer(point: list[float], data: st.DataObject) -> None:
    raw = data.draw(st.lists(st.integers(0, 9), min_size=len(point), max_size=len(point)))
    assume(any(raw))
    other = [x / sum(raw) for x in raw]
    assert distance(point, project(point)) <= distance(point, other) + Fraction(1, 10**13)


@given(st.lists(st.one_of(moderate, ties), min_size=2, max_size=6), st.data())
def test_the_order_of_the_weights_does_not_matter(point: list[float], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(point))))
    found = project(point)
    assert project([point[i] for i in order]) == [found[i] for i in order]


# --- Exponentiated gradient ---------------------------------------------------------------------


def weights(size: int) -> st.SearchStrategy[list[float]]:
    """Vectors that sum to one, none of them below the floor."""
    raw = st.lists(st.floats(0.01, 1), min_size=size, max_size=size)
    return raw.map(lambda x: [v / sum(x) for v in x])


@given(st.integers(2, 6).flatmap(lambda n: st.tuples(weights(n), weights(n))), st.floats(-60, 60))
def test_a_step_of_the_logarithms_is_the_exponentiated_gradient(
    case: tuple[list[float], list[float]], scale: float
) -> None:
    """w exp(-lr h) / Z, to fifty digits."""
    start, slopes = case
    found = softmax([z - scale * h for z, h in zip(logarithms(start), slopes, strict=True)])
    with mpmath.workdps(50):
        powers = [
            mpmath.mpf(w) * mpmath.exp(-mpmath.mpf(scale) * mpmath.mpf(h))
            for w, h in zip(start, slopes, strict=True)
        ]
        expected = [float(p / mpmath.fsum(powers)) for p in powers]
    # A logarithm is off by its spacing, which the power turns into a relative error.
    assert found == pytest.approx(expected, rel=200 * ULP, abs=0)
    assert on_simplex(found)


@given(st.lists(huge, min_size=1, max_size=7))
def test_numbers_of_any_size_make_weights(logits: list[float]) -> None:
    found = softmax(logits)
    assert on_simplex(found)
    assert found[logits.index(max(logits))] == max(found)


def test_powers_that_overflow_or_vanish() -> None:
    assert softmax([1000.0, 1000.0]) == [0.5, 0.5]
    assert softmax([-1000.0, -1000.0]) == [0.5, 0.5]
    assert softmax([1e308, -1e308]) == [1.0, 0.0]
    assert softmax([0.0, math.log(3)]) == pytest.approx([0.25, 0.75], rel=4 * ULP)
    assert softmax([-5.0]) == [1.0]


def test_the_floor_is_where_logarithms_end() -> None:
    assert logarithms([1.0, 0.5]) == [0.0, math.log(0.5)]
    assert logarithms([FLOOR, FLOOR / 2, 1e-300, 0.0]) == [math.log(1e-4)] * 4
    assert logarithms([2 * FLOOR]) == [math.log(2e-4)]
    lifted = softmax(logarithms([1.0, 0.0, 0.0]))
    assert lifted == pytest.approx([1 / 1.0002, 1e-4 / 1.0002, 1e-4 / 1.0002], rel=8 * ULP)
