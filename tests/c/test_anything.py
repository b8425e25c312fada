"""Random blends on random problems: C in double precision is the interpreter, to rounding."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor, nn

from tests.blending import draws
from tests.blending.draws import Blend
from tests.oracles.by_interpreter import ByInterpreter
from tests.oracles.rounding32 import DOUBLE, SINGLE, Near
from tests.sampling import examples

from . import rules

pytestmark = pytest.mark.broad(2)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

# Every text is compiled, so blends are drawn once, and problems many times.
_CHOICE = random.Random(4)
_RULES = [name for name in draws.SPECS if not name.startswith("mada")]
BLENDS = [
    Blend(("mada",)),
    *(Blend(tuple(_CHOICE.sample(_RULES, count))) for count in (2, 2, 3, 3)),
]


def loaded(blend: Blend) -> type[CompiledOptimizer]:
    if len(blend.rules) == 1:
        return rules.load(*blend.rules, backend="c", learn=False)
    return rules.optdsl.blend(*blend.rules, backend="c", learn=False)


def disagreement(ours: Tensor, theirs: Near) -> bool:
    """Whether a result is further off than rounding may have carried it.

    A radius that is not finite says that rounding decides between a number and none.
    """
    value, radius = theirs.value, theirs.radius
    same = (ours == value) | (ours.isnan() & value.isnan())
    near = ((ours.double() - value).abs() <= radius) | ~radius.isfinite()
    return not bool((same | near).all())


def check(
    cls: type[CompiledOptimizer],
    blend: Blend,
    hypers: draws.Hypers,
    problem: draws.Problem,
    off: float = 1.0,
) -> list[str]:
    """Where an optimizer and the interpreter disagree; the optimizer's gradients may be off."""
    held = [nn.Parameter(x.clone()) for x in problem.theta]
    optimizer = cls(held, **hypers)
    unit = DOUBLE if problem.dtype is torch.float64 else SINGLE
    reference = ByInterpreter(blend.program, [x.double() for x in problem.theta], unit)
    found = []
    for t, gradients in enumerate(problem.gradients):
        for parameter, gradient in zip(held, gradients, strict=True):
            parameter.grad = None if gradient is None else off * gradient
        optimizer.step()
        reference.step(gradients, [hypers] * len(held))
        for k, (parameter, expected) in enumerate(zip(held, reference.parameters, strict=True)):
            pairs = {"theta": (parameter.detach(), expected.theta)}
            for name, value in expected.state.items():
                pairs[name] = (optimizer.state[parameter][name], value)
            found += [f"{name} of {k} at {t}" for name, p in pairs.items() if disagreement(*p)]
    return found


@pytest.mark.parametrize("blend", BLENDS, ids=str)
@examples(20)
@given(data=st.data())
def test_random_blends_are_the_interpreters(blend: Blend, data: st.DataObject) -> None:
    problem = data.draw(draws.problems(dtypes=[torch.float64], steps=(1, 4)))
    hypers = data.draw(draws.hypers(blend.program))
    assert check(loaded(blend), blend, hypers, problem) == []


@pytest.mark.parametrize("blend", BLENDS[:3], ids=str)
@examples(20)
@given(data=st.data())
def test_in_single_precision_within_its_own_rounding(blend: Blend, data: st.DataObject) -> None:
    problem = data.draw(
        draws.problems(dtypes=[torch.float32], kinds=[draws.ordinary], steps=(1, 4))
    )
    hypers = data.draw(draws.hypers(blend.program))
    assert check(loaded(blend), blend, hypers, problem) == []


@pytest.mark.parametrize("blend", BLENDS, ids=str)
def test_another_gradient_is_a_disagreement(blend: Blend) -> None:
    """One part in a million is more than rounding in double precision does."""
    generator = rules.problems.seeded(1)
    theta = [rules.problems.randn(generator, 3)]
    gradients: list[list[Tensor | None]] = [[rules.problems.randn(generator, 3)] for _ in range(3)]
    hypers = rules.problems.interior_hypers(blend.program, generator)
    problem = draws.Problem(torch.float64, theta, gradients)
    assert check(loaded(blend), blend, hypers, problem) == []
    assert check(loaded(blend), blend, hypers, problem, off=1 + 1e-6)
