"""Programs on Python floats mean what they mean to the interpreter."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import example, given, strategies as st

from optdsl.ir import evaluate
from optdsl.ir.builder import Builder
from optdsl.ir.evaluate import number
from optdsl.ir.laws import Stage
from optdsl.ir.ops import DRAWS, OF_MATRICES, TABLE
from optdsl.ir.program import Program, Value
from optdsl.ir.trajectories import Run, rounded, trajectory
from optdsl.ir.types import Type
from tests.oracles import every_operation, problems
from tests.oracles.rounding import INEXACT
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import Interpreter, read_spec, read_text
from tests.sampling import examples

EVERY_OPERATION = "every_operation"
PROGRAMS = (*ELEMENTWISE, EVERY_OPERATION)


@functools.cache
def program(name: str) -> Program:
    return read_text(every_operation.TEXT) if name == EVERY_OPERATION else read_spec(name)


def tensor(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def interpreted(program: Program, run: Run) -> list[torch.Tensor]:
    """The same run by the interpreter."""
    interpreter, hypers = Interpreter(program), dict(run.hypers)
    theta = tensor(run.theta)
    state = interpreter.start(theta, tensor(run.gradients[0]), hypers)
    found = []
    for t, g in enumerate(run.gradients, start=1):
        result = interpreter.step(theta, tensor(g), state, hypers, t)
        theta, state = result.parameter, result.state
        found.append(theta)
    return found


def test_every_operation_is_known() -> None:
    with_arguments = {opcode for opcode, row in TABLE.items() if not row.leaf}
    assert evaluate.spellings() == with_arguments - OF_MATRICES - DRAWS


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", PROGRAMS)
def test_runs_are_those_of_the_interpreter(name: str, seed: int) -> None:
    generator = problems.seeded(seed)
    hypers = problems.interior_hypers(program(name), generator)
    elements = (1, 3, 7, 2)[seed]
    theta, *gradients = problems.randn(generator, 13, elements).tolist()
    gradients[2][0] = 0.0
    run = Run(tuple(hypers.items()), tuple(theta), tuple(map(tuple, gradients)))
    found = trajectory(program(name), run)
    assert len(found) == len(gradients)
    for ours, theirs in zip(found, interpreted(program(name), run), strict=True):
        assert all(type(x) is float for x in ours)
        assert torch.isfinite(theirs).all()
        torch.testing.assert_close(tensor(ours), theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", [0.0, 1.0, 2.0])
def test_the_rule_with_every_operation_is_what_a_person_reads(mode: float) -> None:
    """The third opinion, so that both of the others are not wrong alike."""
    every = program(EVERY_OPERATION)
    hypers = {h.name: h.default for h in every.hypers} | {"mode": mode}
    generator = problems.seeded(11)
    start, *gradients = (problems.randn(generator, 4) for _ in range(7))
    run = Run(
        tuple(hypers.items()), tuple(start.tolist()), tuple(tuple(g.tolist()) for g in gradients)
    )
    theta = start
    state = {
        "m": torch.zeros(4, dtype=torch.float64),
        "start": theta / 2,
        "k": tensor([0.0])[0],
        "peak": (gradients[0] ** 2).sum().sqrt() * hypers["rate"],
    }
    for t, (g, found) in enumerate(zip(gradients, trajectory(every, run), strict=True), start=1):
        theta, state = every_operation.step_by_hand(theta, g, state, hypers, t)
        torch.testing.assert_close(tensor(found), theta, rtol=1e-12, atol=1e-12)


# --- single operations on hard numbers ------------------------------------------------------------

HARD = [0.0, -0.0, 1.0, -1.0, 0.5, -2.0, 3.0, 5e-324, -5e-324, 1e-300, 1e300, -1e300, 710.0, -750.0,
        math.inf, -math.inf, math.nan]  # fmt: skip
# Vectorized code may round these otherwise than the C library.
ROUNDED = {*INEXACT, "mix"}
ELEMENTWISE = sorted(
    opcode
    for opcode, row in TABLE.items()
    if row.arity in (1, 2) and row.stage is Stage.ELEMENTWISE
)


def applied(opcode: str, arity: int) -> Program:
    """theta' is the operation on the gradient and the parameter."""
    b = Builder()
    g, theta = b.emit("gradient"), b.emit("parameter")
    arguments: list[Value] = [g, theta][:arity]
    attribute = "name" if opcode == "define" else None
    value = b.emit(opcode, *arguments, attribute=attribute)
    if b[value].type.condition:
        value = b.emit("where", value, b.constant(1.0), b.constant(0.0))
    return Program("A", (), (), (), b.operations, (), value)


def alike(ours: float, theirs: float, units: float) -> bool:
    if math.isnan(ours) or math.isnan(theirs):
        return math.isnan(ours) and math.isnan(theirs)
    return ours == theirs or abs(ours - theirs) <= units * math.ulp(theirs)


@pytest.mark.parametrize("opcode", ELEMENTWISE)
def test_an_operation_on_hard_numbers(opcode: str) -> None:
    """To the bit where IEEE 754 has one answer; within two units elsewhere."""
    arity = TABLE[opcode].arity
    single = applied(opcode, arity)
    others = HARD if arity == 2 else [1.0]
    pairs = [(x, y) for x in HARD for y in others]
    run = Run((), tuple(y for _, y in pairs), (tuple(x for x, _ in pairs),))
    (found,) = trajectory(single, run)
    (expected,) = interpreted(single, run)
    units = 2.0 if opcode in ROUNDED else 0.0
    for pair, ours, theirs in zip(pairs, found, expected.tolist(), strict=True):
        assert alike(ours, theirs, units), (pair, ours, theirs)


def three(opcode: str, first: float) -> Program:
    b = Builder()
    g, theta = b.emit("gradient"), b.emit("parameter")
    weight = b.constant(first)
    if opcode == "where":
        condition = b.emit("lt", g, weight)
        value = b.emit("where", condition, g, theta)
    else:
        value = b.emit("mix", weight, g, b.constant(1 - first), theta)
    return Program("A", (), (), (), b.operations, (), value)


@pytest.mark.parametrize("opcode", ["where", "mix"])
@pytest.mark.parametrize("first", [0.0, 0.25, 1.0])
def test_choices_and_means_of_hard_numbers(opcode: str, first: float) -> None:
    chosen = three(opcode, first)
    pairs = [(x, y) for x in HARD for y in HARD]
    run = Run((), tuple(y for _, y in pairs), (tuple(x for x, _ in pairs),))
    (found,) = trajectory(chosen, run)
    (expected,) = interpreted(chosen, run)
    for pair, ours, theirs in zip(pairs, found, expected.tolist(), strict=True):
        assert alike(ours, theirs, 0.0), (pair, ours, theirs)
    if opcode == "mix" and first in (0.0, 1.0):
        # All the weight is one part's: that part, to the bit, whatever the other one is.
        for (x, y), ours in zip(pairs, found, strict=True):
            assert alike(ours, x if first else y, 0.0)


REDUCED = st.lists(
    st.floats(-1e3, 1e3) | st.sampled_from([math.inf, -math.inf, math.nan, 1e308, -1e308, 1e-300]),
    min_size=1,
    max_size=6,
)


@examples(150)
@example("sum", [-1e308, -1e308, math.inf])
@given(st.sampled_from(["sum", "mean"]), REDUCED)
def test_reductions(opcode: str, values: list[float]) -> None:
    """Sums that overflow, too: infinite, or by another order a number or none, but no exception."""
    reduced = applied(opcode, 1)
    run = Run((), (0.0,) * len(values), (tuple(values),))
    (found,) = trajectory(reduced, run)
    assert found == (found[0],) * len(values) or math.isnan(found[0])
    (expected,) = interpreted(reduced, run)
    scale = math.fsum(abs(x) / len(values) for x in values)
    finite = [x for x in values if math.isfinite(x)]
    if math.isfinite(scale * len(values)):
        bound = 1e-15 * len(values) * max(1.0, scale * len(values))
        assert abs(found[0] - expected[0].item()) <= bound
    elif math.isfinite(math.fsum(abs(x) / len(values) for x in finite) * len(values)):
        assert alike(found[0], expected[0].item(), 0.0)


def test_states_have_their_own_extent() -> None:
    """A scalar state is one number, and a number that starts a tensor state is one per element."""
    text = (
        "optimizer A\nhyper lr = 0.5 in [0, 1]\nstate k : scalar = norm(g)\nstate m = lr\n"
        "k' = k + t\nm' = where(t == 1, 2, m + g)\ntheta' = theta - lr * k' * m'\n"
    )
    read = read_text(text)
    run = Run((("lr", 0.5),), (1.0, -1.0), ((3.0, 4.0), (1.0, 2.0)))
    assert read.states[0].type == Type(read.states[0].type.extent)
    first = (1.0 - 0.5 * 6.0 * 2.0, -1.0 - 0.5 * 6.0 * 2.0)
    second = (first[0] - 0.5 * 8.0 * 3.0, first[1] - 0.5 * 8.0 * 4.0)
    assert trajectory(read, run) == [first, second]


def test_a_uniform_value_by_itself() -> None:
    """What a claim binds a hyperparameter to, at the first step."""
    read = read_text(
        "optimizer A\nhyper lr = 0.5 in [0, 1]\nh = 0.1 * lr / t\ntheta' = theta - h * g\n"
    )
    (value,) = (Value(i) for i, o in enumerate(read.operations) if o.opcode == "define"
                and o.attribute == "h")  # fmt: skip
    assert number(read, value, {"lr": 0.25}) == 0.1 * 0.25


def test_an_error_analysis_tells_zeros_apart_by_their_signs() -> None:
    text = "optimizer A\nhyper h = 0 in (-inf, inf)\ntheta' = theta - sign(1 / h) * g\n"
    for h in (0.0, -0.0):
        run = Run((("h", h),), (1.0,), ((1.0,),))
        ((plain,),) = trajectory(read_text(text), run)
        ((bounded,),) = rounded(read_text(text), run)
        assert bounded.value == plain == 1.0 - math.copysign(1.0, h)


def test_programs_that_differ_in_the_sign_of_a_zero_are_two() -> None:
    runs = {}
    for zero in (0.0, -0.0):
        builder = Builder()
        theta, one = builder.emit("parameter"), builder.constant(1.0)
        sign = builder.emit("sign", builder.emit("div", one, builder.constant(zero)))
        step = builder.emit("mul", sign, builder.emit("gradient"))
        new = builder.emit("sub", theta, step)
        made = Program("A", (), (), (), builder.operations, (), new)
        runs[made] = trajectory(made, Run((), (1.0,), ((1.0,),)))
    assert list(runs.values()) == [[(0.0,)], [(2.0,)]]
