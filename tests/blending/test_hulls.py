"""Between its vertices a blend stays between its members: slots are weighted means of their parts.

A mean is built part by part, `mean - share * (mean - x)`, with a share of at most one. With the
largest part M, the difference and the product are at most 2M, the sum is at most M, and each is off
by half a unit: a mean may leave the hull by 2.5 units of M for every part after the first.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

import optdsl
from optdsl import interpret
from optdsl.blending.claims import Claim
from optdsl.ir.program import Program, Tangent, Value
from tests.blending.draws import (
    SPECS,
    Blend,
    Hypers,
    Problem,
    bound,
    hypers,
    member,
    mixtures,
    ordinary,
    problems,
    run,
    same_bits,
    same_numbers,
    tiny,
)
from tests.oracles.running import read_spec
from tests.sampling import examples

pytestmark = pytest.mark.broad(8)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

HALVES = {torch.float16, torch.bfloat16}


def assert_within(found: Tensor, parts: Sequence[Tensor], shares: Sequence[Fraction]) -> None:
    """Between the parts that weigh something; what is equal in all of them stays as it is."""
    info = torch.finfo(found.dtype)
    taking = [x for x, share in zip(parts, shares, strict=True) if share]
    stack = torch.stack(taking).double()
    finite = stack.isfinite().all(dim=0)
    lower, upper = stack.amin(dim=0), stack.amax(dim=0)
    largest = torch.maximum(lower.abs(), upper.abs())
    # Half precision rounds once more, in the end, by which a unit becomes one of its own at most.
    units = 1 if found.dtype in HALVES else 3 * (len(taking) - 1)
    slack = units * info.eps * largest + 4 * info.smallest_normal * info.eps
    within = (lower - slack <= found.double()) & (found.double() <= upper + slack)
    # Not NaN, nor so large that rounding may make it infinite.
    judged = finite & (largest < info.max * (1 - 16 * info.eps))
    assert (within | ~judged).all(), f"{found} is not between {lower} and {upper}"
    if found.dtype in HALVES:
        return  # the rounded parts are not what was mixed
    equal = torch.stack([same_bits(x, taking[0]) for x in taking]).all(dim=0)
    assert (same_bits(found, taking[0]) | ~equal).all(), f"{found} is not {taking[0]}"
    if all(share > 1e-6 for share in shares if share):
        # The mean of infinities is infinite, or NaN where their signs differ.
        mean = (stack / len(taking)).sum(dim=0)
        same = same_numbers(found.double(), mean)
        assert (same | finite).all(), f"{found} is not the mean of {taking}"


def assert_mean(found: Tensor, parts: Sequence[Tensor], shares: Sequence[Fraction]) -> None:
    """In double precision: the exact mean, but for rounding.

    A share is rounded, too: once for each weight that is summed, and once when it is divided.
    """
    info = torch.finfo(torch.float64)
    taking = [(x, share) for x, share in zip(parts, shares, strict=True) if share]
    columns = zip(*(x.reshape(-1).tolist() for x, _ in taking), strict=True)
    for ours, column in zip(found.reshape(-1).tolist(), columns, strict=True):
        largest = max(map(abs, column))
        if all(map(math.isfinite, column)) and largest < info.max * (1 - 16 * info.eps):
            pairs = zip(column, taking, strict=True)
            total = sum((share for _, share in taking), start=Fraction(0))
            exact = sum((Fraction(x) * w for x, (_, w) in pairs), start=Fraction(0)) / total
            units = (len(taking) - 1) * (2.5 + len(taking) + 1)
            slack = Fraction(units * info.eps) * Fraction(largest) + Fraction(units * 5e-324)
            assert abs(Fraction(ours) - exact) <= slack, f"{ours} is not {float(exact)}"


# --- the new parameter between the members' own ---------------------------------------------------


def beside(
    blend: Blend, claims: Sequence[Claim], values: Hypers, problem: Problem
) -> Iterator[tuple[Tensor, list[Tensor]]]:
    """Every step of the blend, and what the members' own optimizers make of the same parameter.

    These follow it: they meet the gradients where it does, and so remember the same.
    """
    parameters = [nn.Parameter(x.clone()) for x in problem.theta]
    following = [[nn.Parameter(x.clone()) for x in problem.theta] for _ in claims]
    optimizers = [blend.optimizer(parameters, **values)]
    for claim, copies in zip(claims, following, strict=True):
        optimizers.append(member(claim)(copies, **bound(claim, values)))
    for gradients in problem.gradients:
        for index, gradient in enumerate(gradients):
            for copies in (parameters, *following):
                copies[index].data.copy_(parameters[index].data)
                copies[index].grad = gradient
        for optimizer in optimizers:
            optimizer.step()
        for index, gradient in enumerate(gradients):
            if gradient is not None:
                own = [copies[index].detach().clone() for copies in following]
                yield parameters[index].detach().clone(), own


def assert_between_members(
    blend: Blend, parts: Sequence[tuple[Claim, Fraction]], values: Hypers, problem: Problem
) -> None:
    shares = [share for _, share in parts]
    for found, own in beside(blend, [claim for claim, _ in parts], values, problem):
        assert_within(found, own, shares)
        if found.dtype is torch.float64:
            assert_mean(found, own, shares)


def simplex_parts(blend: Blend, values: Hypers) -> list[tuple[Claim, Fraction]]:
    """The members of a blend on a simplex, with their weights."""
    (simplex,) = (s for s in blend.program.simplexes if "." not in s.name)
    pairs = zip(simplex.labels, simplex.hypers, strict=True)
    return [(blend.claim(label), Fraction(values[hyper])) for label, hyper in pairs]


@examples(60)
@given(data=st.data())
def test_a_mixture_steps_between_its_members(data: st.DataObject) -> None:
    blend = data.draw(mixtures())
    values = data.draw(hypers(blend.program))
    parts = simplex_parts(blend, values)
    assert_between_members(blend, parts, values, data.draw(problems(steps=(1, 5))))


@examples(80)
@given(data=st.data())
def test_adaptivity_steps_between_its_members(data: st.DataObject) -> None:
    blend = Blend(("adaptivity",))
    values = data.draw(hypers(blend.program))
    parts = simplex_parts(blend, values)
    assert_between_members(blend, parts, values, data.draw(problems(steps=(1, 5))))


@pytest.mark.parametrize("rule", ["Adam", "AVGrad", "Yogi", "Adan"])
@examples(60)
@given(data=st.data())
def test_the_outer_gate_of_mada_steps_between_lion_and_another(
    rule: str, data: st.DataObject
) -> None:
    """The inner gates stand where they make the adaptive step this rule's own."""
    blend = Blend(("mada",))
    gamma = data.draw(st.just(0.5) | st.floats(0, 1))
    values = data.draw(hypers(blend.program)) | dict(blend.claim(rule).settings) | {"gamma": gamma}
    shares = Fraction(gamma), 1 - Fraction(gamma)
    parts = list(zip((blend.claim(rule), blend.claim("Lion")), shares, strict=True))
    assert_between_members(blend, parts, values, data.draw(problems(steps=(1, 5))))


# --- every slot between its parts -----------------------------------------------------------------

# The weight of each part, as the files say it, in exact arithmetic.
Weights = Callable[[dict[str, Fraction]], dict[str, Fraction]]
SLOTS: dict[tuple[str, str], Weights] = {
    ("mada", "h"): lambda x: {"Adan.h": x["kappa"], "Adam.h": 1 - x["kappa"]},
    ("mada", "num"): lambda x: {"Adan.num": x["kappa"], "Adam.num": 1 - x["kappa"]},
    ("mada", "s"): lambda x: {"Adam.s": x["c"], "Yogi.s": 1 - x["c"]},
    ("mada", "vhat"): lambda x: {"Adam.vhat": x["rho"], "AVGrad.vhat": 1 - x["rho"]},
    ("mada", "theta'"): lambda x: {
        "Adan.theta'": x["gamma"] * x["kappa"],
        "Adam.theta'": x["gamma"] * (1 - x["kappa"]),
        "Lion.theta'": 1 - x["gamma"],
    },
    ("memory", "s"): lambda x: {"Adam.s": Fraction(1)},
    ("memory", "vhat"): lambda x: {
        "Adam.vhat": x["w_adam"],
        "AVGrad.vhat": x["w_avgrad"],
        "AMSGrad.vhat": x["w_amsgrad"],
    },
    ("memory", "theta'"): lambda x: {"Adam.theta'": Fraction(1)},
    ("adam_avgrad", "vhat"): lambda x: {"Adam.vhat": x["rho"], "AVGrad.vhat": 1 - x["rho"]},
    ("two_speed", "num"): lambda x: {"Slow.num": x["slow"], "Fast.num": 1 - x["slow"]},
    ("adaptivity", "theta'"): lambda x: {
        "SGD.theta'": x["w_sgd"],
        "AdamW.theta'": x["w_adamw"],
        "Lion.theta'": x["w_lion"],
    },
}


def test_every_slot_of_the_library_is_here() -> None:
    found = {(s, c.slot) for s in SPECS for c in Blend((s,)).specification.combinations}
    assert found == set(SLOTS)


def named_values(
    program: Program, theta: Tensor, gradients: Sequence[Tensor], values: Hypers
) -> dict[str, Tensor]:
    """Every named equation in the last of some steps, as the interpreter has it."""
    operations = enumerate(program.operations)
    named = {str(o.attribute): Value(i) for i, o in operations if o.opcode == "define"}
    # A step hands out its tangents by name, whatever they are.
    open_program = replace(program, tangents=tuple(Tangent(n, v) for n, v in named.items()))
    state = interpret.initial_state(program, theta, gradients[0], values)
    for t, g in enumerate(gradients[:-1], start=1):
        after = interpret.step(program, theta, g, state, values, t)
        theta, state = after.parameter, after.state
    return interpret.step(
        open_program, theta, gradients[-1], state, values, len(gradients)
    ).tangents


@pytest.mark.parametrize(("name", "slot"), SLOTS)
@examples(60)
@given(data=st.data())
def test_a_slot_is_the_mean_of_its_parts(name: str, slot: str, data: st.DataObject) -> None:
    blend = Blend((name,))
    values = data.draw(hypers(blend.program))
    problem = data.draw(problems(dtypes=[torch.float64], steps=(1, 5), tensors=1))
    gradients = [g for (g,) in problem.gradients if g is not None]
    if not gradients:
        return
    named = named_values(blend.program, problem.theta[0], gradients, values)
    share = SLOTS[name, slot]({h: Fraction(x) for h, x in values.items()})
    parts = [named[part] for part in share]
    assert_within(named[slot], parts, list(share.values()))
    assert_mean(named[slot], parts, list(share.values()))


# --- members that agree ---------------------------------------------------------------------------

TWINS = """\
blend Twins
use {rule} as One, {rule} as Other
hyper w = 0.5 in [0, 1]
theta' = w * One.theta' + (1 - w) * Other.theta'
"""


@functools.cache
def twins(name: str) -> type[CompiledOptimizer]:
    rule = Blend((name,)).program.name
    return optdsl.compile(TWINS.format(rule=rule), backend="eager")


def assert_the_same(
    found: list[list[Tensor]],
    expected: list[list[Tensor]],
    same: Callable[[Tensor, Tensor], Tensor] = same_bits,
) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for x, y in zip(ours, theirs, strict=True):
            assert same(x, y).all(), f"{x} is not {y}"


# The text of the twins says nothing of where the model is evaluated.
@pytest.mark.parametrize("name", [n for n in SPECS if read_spec(n).evaluation is None])
@examples(20)
@given(data=st.data())
def test_a_rule_mixed_with_itself_is_that_rule(name: str, data: st.DataObject) -> None:
    """Two members with states and hyperparameters of their own, which happen to be equal."""
    rule = Blend((name,))
    values = data.draw(hypers(rule.program))
    both = {f"{twin}_{h}": x for twin in ("one", "other") for h, x in values.items()}
    w = data.draw(st.just(0.5) | st.floats(0, 1))
    problem = data.draw(problems(kinds=[ordinary, tiny], steps=(1, 6)))
    assert_the_same(
        run(twins(name), {"w": w, **both}, problem), run(rule.optimizer, values, problem)
    )


@examples(40)
@given(data=st.data())
def test_two_equal_speeds_are_one(data: st.DataObject) -> None:
    blend = Blend(("two_speed",))
    values = data.draw(hypers(blend.program))
    values["beta1_fast"] = values["beta1_slow"]
    problem = data.draw(problems())
    found = run(blend.optimizer, values, problem)
    claim = blend.claim("Fast")
    assert_the_same(found, run(member(claim), bound(claim, values), problem))


@pytest.mark.parametrize(
    ("name", "fixed"),
    [
        ("adam_avgrad", {}),
        ("memory", {}),
        # Adan divides by its decay, where the others subtract it.
        ("mada", {"gamma": 1.0, "weight_decay": 0.0}),
    ],
)
@examples(60)
@given(data=st.data())
def test_all_memories_begin_alike(name: str, fixed: Hypers, data: st.DataObject) -> None:
    """In the first step every second moment is the square, and no difference is known yet.

    Only the sign of a zero may differ, to which Adan adds its difference.
    """
    blend = Blend((name,))
    values = data.draw(hypers(blend.program)) | fixed
    problem = data.draw(problems(steps=(1, 1)))
    claim = blend.claim("Adam")
    expected = run(member(claim), bound(claim, values), problem)
    assert_the_same(run(blend.optimizer, values, problem), expected, same_numbers)


# --- a learning rate of zero ----------------------------------------------------------------------


def assert_still(blend: Blend, data: st.DataObject) -> None:
    # An update that is not a number moves a parameter at any rate: `0 / 0` is kept out by eps.
    positive = st.just(1e-8) | st.floats(1e-8, 1)
    eps = {h.name: positive for h in blend.program.hypers if h.name.endswith("eps")}
    values = data.draw(hypers(blend.program, **eps)) | {"lr": 0.0}
    problem = data.draw(problems(kinds=[ordinary, tiny]))
    # `-0 - 0 * update` is 0 where the update is negative, in any rule: no zero is negative here.
    problem = replace(problem, theta=[x + 0.0 for x in problem.theta])
    for step in run(blend.optimizer, values, problem):
        for x, start in zip(step, problem.theta, strict=True):
            assert same_bits(x, start).all(), f"{start} moved to {x}"


@pytest.mark.parametrize("name", sorted({name for name, _ in SLOTS}))
@examples(40)
@given(data=st.data())
def test_without_a_learning_rate_nothing_moves(name: str, data: st.DataObject) -> None:
    assert_still(Blend((name,)), data)


@examples(40)
@given(data=st.data())
def test_without_a_learning_rate_no_mixture_moves(data: st.DataObject) -> None:
    assert_still(data.draw(mixtures()), data)


# --- infinite parts, and zeros --------------------------------------------------------------------


def one_step(optimizer: type[CompiledOptimizer], theta: float, g: float, **values: float) -> Tensor:
    """A step in single precision."""
    problem = Problem(torch.float32, [torch.tensor(theta)], [[torch.tensor(g)]])
    return run(optimizer, values, problem)[0][0]


@pytest.mark.parametrize(
    ("name", "fixed"),
    [("adam_avgrad", {"rho": 0.5}), ("mada", {"rho": 0.5}), ("mada", {"c": 0.5}), ("memory", {})],
)
def test_second_moments_that_overflow_stop_a_blend_as_they_stop_its_members(
    name: str, fixed: Hypers
) -> None:
    """The square of 1e20 is infinite in single precision: both members divide by it, and stay."""
    assert one_step(Blend(("adamw",)).optimizer, 1.0, 1e20, weight_decay=0.0) == 1
    assert one_step(Blend(("avgrad",)).optimizer, 1.0, 1e20) == 1
    assert one_step(Blend((name,)).optimizer, 1.0, 1e20, **fixed) == 1


def test_a_member_that_diverges_takes_the_mean_along() -> None:
    blend = Blend(("sgd", "lion")).optimizer
    assert one_step(Blend(("sgd",)).optimizer, 1.0, -1e38, lr=10.0) == math.inf
    assert one_step(blend, 1.0, -1e38, lr=10.0, w_sgd=0.5, w_lion=0.5) == math.inf


def test_equal_parts_are_the_mean_to_the_bit_when_they_are_negative_zeros() -> None:
    for rule in ("adamw", "lion"):
        assert math.copysign(1, one_step(Blend((rule,)).optimizer, -0.0, 1.0, lr=0.0)) == -1
    assert math.copysign(1, one_step(Blend(("adamw", "lion")).optimizer, -0.0, 1.0, lr=0.0)) == -1
