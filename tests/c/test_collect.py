"""Collected factors: the same function of finite numbers, with fewer operations on tensors."""

from __future__ import annotations

import functools
from collections import Counter

import pytest
import torch
from torch import Tensor

from optdsl import compiler, compose, interpret
from optdsl.backends.c.collect import collect
from optdsl.ir.program import Program
from optdsl.ir.types import TENSOR
from optdsl.ir.verify import verify
from optdsl.passes.pipeline import run_passes
from optdsl.plan import plans
from optdsl.plan.keys import pending
from tests.oracles import every_operation, problems
from tests.oracles.running import read_spec, read_text
from tests.test_plans import CASES, program

pytestmark = pytest.mark.broad(8)

SHAPE = (4, 5)
BOTH = pytest.mark.parametrize("case", CASES, ids=" ".join)


def operations(of: Program) -> Counter[str]:
    """How often which operation is done on tensors of numbers."""
    steps = of.needed(of.step_values)
    return Counter(of.operations[v].opcode for v in steps if of.type(v) == TENSOR)


@functools.cache
def programs(case: tuple[str, str]) -> tuple[Program, ...]:
    """All that the plans of a rule hold."""
    found = [
        p
        for plan in plans(program(*case), False)
        for p in (plan.advance, plan.complete, plan.fused)
    ]
    return tuple(p for p in found if p is not None)


def both(of: Program, collected: Program, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Everything that a program and its collected form make of the same numbers."""
    generator = problems.seeded(seed)
    hypers = problems.interior_hypers(of, generator) | {pending("t"): 3.0}
    theta, gradient = (problems.randn(generator, *SHAPE) for _ in range(2))
    state = {
        s.name: problems.randn(generator, *(SHAPE if s.type == TENSOR else ())).abs() + 0.1
        for s in of.states
    }
    left, right = (interpret.step(p, theta, gradient, state, hypers, 4) for p in (of, collected))
    pairs = [(left.parameter, right.parameter)]
    pairs += [(left.state[k], right.state[k]) for k in left.state]
    return pairs + [(left.tangents[k], right.tangents[k]) for k in left.tangents]


@BOTH
def test_the_collected_program_is_the_same_function(case: tuple[str, str]) -> None:
    for of in programs(case):
        collected = verify(collect(of))
        for seed in range(3):
            for expected, found in both(of, collected, seed):
                # What cancels in one of them may leave the rounding of larger numbers.
                size = max(float(expected.abs().max()), 1.0)
                torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-13 * size)


def test_every_operation_is_the_same_function() -> None:
    of = run_passes(read_text(every_operation.TEXT))
    for seed in range(3):
        for expected, found in both(of, collect(of), seed):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def test_a_blend_has_no_means_left_and_fewer_operations() -> None:
    for of in programs(("mada", "as it says")):
        before, after = operations(of), operations(collect(of))
        assert before["mix"] == 0 or after["mix"] == 0
        assert after.total() <= before.total()
    step = run_passes(compiler.derive(compose.blend_source(["adam", "lion", "yogi"]), False))
    assert operations(step)["mix"] > 0
    assert operations(collect(step))["mix"] == 0


def lines(text: str, *declared: str) -> Counter[str]:
    """The operations of a rule with these declarations and this update, collected."""
    body = "\n".join(["optimizer Rule", *declared, f"theta' = {text}", ""])
    return operations(collect(run_passes(read_text(body))))


HYPERS = ("hyper a = 0.5 in [0, 1]", "hyper b = 0.5 in [0, 1]", "state m = 0", "m' = g")


def test_factors_of_factors_are_one() -> None:
    assert lines("theta - a * (b * (g / a))", *HYPERS)["mul"] == 1


def test_what_cancels_is_gone() -> None:
    found = lines("theta - (m + a * g - m)", *HYPERS)
    assert found["mul"] == 1
    assert found["state"] == 0


def test_products_with_a_common_factor_are_added_up_first() -> None:
    # g * (a m + b g): one product of tensors, two with coefficients.
    assert lines("theta - (a * (m * g) + b * (theta * g))", *HYPERS)["mul"] == 3


def test_two_divisions_by_one_tensor_are_one() -> None:
    assert lines("theta - m / (abs(g) + 1) - theta / (abs(g) + 1)", *HYPERS)["div"] == 1


def test_a_difference_of_leaves_stays_exact() -> None:
    """a * g - a * m would round twice before it cancels."""
    of = run_passes(read_text("\n".join(["optimizer Rule", *HYPERS, "theta' = a * (g - m)", ""])))
    collected = collect(of)
    near = torch.tensor([1.0 + 2.0**-52], dtype=torch.float64)
    one = torch.ones_like(near)
    hypers = {"a": 1 / 3, "b": 0.5}
    found = interpret.step(collected, one, near, {"m": one}, hypers, 1).parameter
    assert torch.equal(found, torch.tensor([2.0**-52 / 3], dtype=torch.float64))


def test_a_rule_that_is_no_blend_stays_what_it_was() -> None:
    of = run_passes(read_spec("adam"))
    assert operations(collect(of)).total() <= operations(of).total()
