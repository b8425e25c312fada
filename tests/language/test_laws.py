"""The laws that the table states, against what the operations do on numbers."""

import dataclasses
import itertools
import math
from collections.abc import Iterator

import pytest

from optdsl.algebra.magnitudes import magnitudes
from optdsl.ir import signatures
from optdsl.ir.bounded import FUNCTIONS as BOUNDED, Bounded
from optdsl.ir.builder import Builder
from optdsl.ir.domain import ANYTHING
from optdsl.ir.evaluate import number as evaluated
from optdsl.ir.laws import Laws, Stage
from optdsl.ir.ops import TABLE, Row
from optdsl.ir.program import Program, Value

COMPUTED = [row for row in TABLE.values() if row.stage is Stage.ELEMENTWISE]
NUMBERS = (-3.0, -0.75, 0.25, 0.5, 1.0, 2.5)
# The operations that a new row is most likely to be one of.
ELEMENTWISE = [r for r in COMPUTED if r.infer is signatures.elementwise and r.arity in (1, 2)]
STRANGE = (math.inf, -math.inf, math.nan)


def applied(row: Row, x: tuple[float, ...]) -> float:
    assert row.apply is not None
    return float(row.apply(*x))


def arguments(row: Row) -> Iterator[tuple[float, ...]]:
    """Finite arguments; the weights of a mean sum to one, and a condition is 0 or 1."""
    if row.opcode == "mix":
        for share, x, y in itertools.product((0.25, 0.5), NUMBERS, NUMBERS):
            yield share, x, 1 - share, y
    elif row.opcode == "where":
        yield from itertools.product((0.0, 1.0), NUMBERS, NUMBERS)
    else:
        yield from itertools.product(NUMBERS, repeat=row.arity)


def by_opcode(row: Row) -> str:
    return row.opcode


def test_a_law_has_no_default() -> None:
    """So that a row that leaves one out cannot be imported."""
    assert all(f.default is dataclasses.MISSING for f in dataclasses.fields(Laws))
    with pytest.raises(TypeError, match="laws"):
        Row("atan", 1, TABLE["tanh"].infer, TABLE["tanh"].derivative, TABLE["tanh"].interval,
            math.atan, meaning="arc tangent")  # type: ignore[call-arg]  # fmt: skip


def test_leaves_and_only_leaves_are_given() -> None:
    assert {r.opcode for r in TABLE.values() if r.stage.given} == {
        r.opcode for r in TABLE.values() if r.leaf
    }
    without = {r.opcode for r in TABLE.values() if r.apply is None}
    assert without == {
        r.opcode for r in TABLE.values() if r.leaf or r.stage.of_matrices or r.stage is Stage.DRAW
    }


def test_only_states_and_the_step_are_not_there_before_the_first_step() -> None:
    assert {r.opcode for r in TABLE.values() if not r.laws.initial} == {
        "state",
        "step",
        "given",
    }


@pytest.mark.parametrize("row", COMPUTED, ids=by_opcode)
def test_an_alias_and_nothing_else_is_its_argument(row: Row) -> None:
    same = row.arity == 1 and all(applied(row, x) == x[0] for x in arguments(row))
    assert row.laws.alias == same


@pytest.mark.parametrize("row", [r for r in COMPUTED if r.arity == 2], ids=by_opcode)
def test_the_order_of_arguments_matters_unless_the_law_says_otherwise(row: Row) -> None:
    assert row.laws.commutative == all(applied(row, x) == applied(row, x[::-1])
                                       for x in arguments(row))  # fmt: skip


@pytest.mark.parametrize("row", COMPUTED, ids=by_opcode)
def test_an_affine_operation_has_one_slope(row: Row) -> None:
    for x in arguments(row):
        for varies in itertools.product((False, True), repeat=len(x)):
            if not row.laws.affine(varies):
                continue
            for steps in ((1.0, 2.0), (-0.5, 4.0)):
                at = [applied(row, tuple(a + s * v for a, v in zip(x, varies, strict=True)))
                      for s in (0.0, *steps)]  # fmt: skip
                slopes = [(y - at[0]) / s for y, s in zip(at[1:], steps, strict=True)]
                assert slopes[0] == pytest.approx(slopes[1], rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("row", COMPUTED, ids=by_opcode)
@pytest.mark.parametrize("strange", STRANGE)
def test_what_shows_is_seen_in_the_result(row: Row, strange: float) -> None:
    for x in arguments(row):
        for literals in {tuple(None for _ in x), tuple(x)}:
            for position in row.laws.shows(literals):
                changed = (*x[:position], strange, *x[position + 1 :])
                assert not math.isfinite(applied(row, changed)), (row.opcode, changed)


@pytest.mark.parametrize("row", COMPUTED, ids=by_opcode)
def test_a_bounded_operation_is_finite_where_its_arguments_are(row: Row) -> None:
    for x in arguments(row):
        if row.laws.bounded((False,) * len(x)):
            for position, value in itertools.product(range(len(x)), (1e300, -1e300)):
                changed = (*x[:position], value, *x[position + 1 :])
                assert math.isfinite(applied(row, changed)), (row.opcode, changed)


@pytest.mark.parametrize("row", COMPUTED, ids=by_opcode)
def test_a_selection_and_nothing_else_gives_an_argument_or_its_negation(row: Row) -> None:
    numbers = [(x, applied(row, x)) for x in arguments(row)]
    assert row.laws.selects == all(abs(y) in map(abs, x) for x, y in numbers)


@pytest.mark.parametrize("row", COMPUTED, ids=by_opcode)
def test_an_integral_operation_gives_whole_numbers_of_whole_numbers(row: Row) -> None:
    """All arguments are whole here, the weights of a mean included."""
    whole = [x for x in arguments(row) if all(a.is_integer() for a in x)]
    whole += [tuple(4.0 * a for a in x) for x in arguments(row) if row.opcode != "where"]
    assert row.laws.integral == all(applied(row, x).is_integer() for x in whole)


@pytest.mark.parametrize("row", [r for r in COMPUTED if r.arity == 2], ids=by_opcode)
def test_a_comparison_depends_on_the_order_of_its_arguments_alone(row: Row) -> None:
    """Its result is the truth of the order, or one of the arguments."""
    assert row.apply is not None
    results = [(x, row.apply(*x)) for x in arguments(row)]
    assert row.laws.compares == all(isinstance(y, bool) or y in x for x, y in results)


@pytest.mark.parametrize("row", [r for r in COMPUTED if r.arity in (1, 2)], ids=by_opcode)
def test_what_jumps_moves_by_one_where_arguments_hardly_move(row: Row) -> None:
    """A function of one number jumps at a multiple of 1/2, one of two where they are equal."""
    places = [(0.0,), (0.5,), (1.0,)] if row.arity == 1 else [(x, x) for x in NUMBERS if x > 0]
    moves = [0.0]
    for place in places:
        near = itertools.product(*((x - 1e-9, x, x + 1e-9) for x in place))
        results = [y for x in near if math.isfinite(y := applied(row, x))]
        moves.append(max(results) - min(results))
    assert row.laws.jumps == (max(moves) >= 1)


@pytest.mark.parametrize("row", ELEMENTWISE, ids=by_opcode)
def test_a_derivative_is_a_central_difference(row: Row) -> None:
    b = Builder()
    names = ("x", "y")[: row.arity]
    x = tuple(b.emit("hyper", attribute=name) for name in names)
    y, one = b.emit(row.opcode, *x), b.constant(1.0)
    tangents = [
        row.derivative(b, y, x, tuple(one if n == moving else None for n in range(row.arity)))
        for moving in range(row.arity)
    ]
    program = Program("A", (), (), (), b.operations, (), y)
    compared = 0
    for at in itertools.product((-0.75, 0.25, 0.5, 2.25), repeat=row.arity):
        for n, tangent in enumerate(tangents):
            near = ((*at[:n], at[n] + step, *at[n + 1 :]) for step in (1e-6, -1e-6))
            high, low = (applied(row, point) for point in near)
            # Where two arguments are equal, a maximum has no derivative.
            if math.isfinite(high - low) and len(set(at)) == row.arity:
                point = dict(zip(names, at, strict=True))
                slope = 0.0 if tangent is None else evaluated(program, tangent, point)
                assert slope == pytest.approx((high - low) / 2e-6, rel=1e-6, abs=1e-6), (at, n)
                compared += 1
    assert compared


@pytest.mark.parametrize("row", ELEMENTWISE, ids=by_opcode)
def test_the_prover_does_not_underestimate_a_result(row: Row) -> None:
    """Neither its size, without help of its range, nor what an error of an argument makes of it."""
    for at in itertools.product((-2e9, -0.75, 1e-7, 0.25, 1.0, 3.0, 1e30), repeat=row.arity):
        b = Builder()
        result = Value(b.emit(row.opcode, *map(b.constant, at)))
        program = Program("A", (), (), (), b.operations, (), result)
        found = magnitudes(program, [ANYTHING] * len(b.operations), {}).values[result]
        exact = applied(row, at)
        if math.isfinite(exact) and exact and not found.large:
            assert found.least - 1e-9 <= math.log10(abs(exact)) <= found.size + 1e-9, at
        for error in (1e-12, 0.3):
            bound = BOUNDED[row.opcode](*(Bounded(a, error * abs(a)) for a in at)).error
            for moves in itertools.product((-error, error), repeat=row.arity):
                moved = applied(row, tuple(a + m * abs(a) for a, m in zip(at, moves, strict=True)))
                gap = abs(moved - exact)
                # The perturbed arguments, and this difference, are rounded too.
                assert not gap > 1.001 * bound + 1e-15 * abs(exact), (at, error)


@pytest.mark.parametrize("row", [r for r in TABLE.values() if r.stage is Stage.REDUCTION],
                         ids=by_opcode)  # fmt: skip
def test_a_reduction_of_equal_numbers_is_what_the_row_says(row: Row) -> None:
    assert row.apply is not None
    assert row.of_equal is not None
    for number, count in itertools.product(NUMBERS, (1, 4, 8)):
        direct = row.apply((number,) * count)
        named = TABLE[row.of_equal].apply if row.of_equal else None
        assert direct == (number if named is None else named(float(count), number))
        assert count > 1 or direct == number
