"""At its vertices a blend is its member: bit for bit, whatever is trained and however."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from optdsl.blending.claims import Claim
from optdsl.specifications import library
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
)
from tests.sampling import examples

pytestmark = pytest.mark.broad(8)

BLENDS = [s for s in SPECS if library.open_source(s).text.startswith("blend ")]
VERTICES = [(name, claim.rule) for name in BLENDS for claim in Blend((name,)).claims]
# Where the blend has other equations than the member, equal over the real numbers: there Memory
# adds `0 * theta` to the gradient, and AVGrad to the update.
REWRITTEN = ("memory", "AVGrad")

Same = Callable[[Tensor, Tensor], Tensor]


def agree(blend: Blend, claim: Claim, drawn: Hypers, problem: Problem, same: Same) -> None:
    """The blend at a vertex and the member, with what the blend gives it, take the same steps."""
    values = drawn | dict(claim.settings)
    found = run(blend.optimizer, values, problem)
    expected = run(member(claim), bound(claim, values), problem)
    for step, (ours, theirs) in enumerate(zip(found, expected, strict=True), start=1):
        for x, y in zip(ours, theirs, strict=True):
            assert same(x, y).all(), f"{claim.text}, step {step}: {x} is not {y}"


def test_every_blend_of_the_library_has_vertices() -> None:
    assert set(BLENDS) >= {"adam_avgrad", "adaptivity", "hyperadam", "mada", "memory", "two_speed"}
    assert {name for name, _ in VERTICES} == set(BLENDS)
    assert len([rule for name, rule in VERTICES if name == "mada"]) == 5
    assert REWRITTEN in VERTICES


@pytest.mark.parametrize(("name", "rule"), [v for v in VERTICES if v != REWRITTEN])
@examples(60)
@given(data=st.data())
def test_a_blend_of_the_library_is_its_member(name: str, rule: str, data: st.DataObject) -> None:
    blend = Blend((name,))
    drawn = data.draw(hypers(blend.program))
    agree(blend, blend.claim(rule), drawn, data.draw(problems()), same_bits)


@examples(60)
@given(data=st.data())
def test_where_the_equations_differ_so_does_the_sign_of_zero_at_most(data: st.DataObject) -> None:
    name, rule = REWRITTEN
    blend = Blend((name,))
    drawn = data.draw(hypers(blend.program))
    agree(blend, blend.claim(rule), drawn, data.draw(problems()), same_numbers)


@examples(80)
@given(data=st.data())
@pytest.mark.exhaustive
def test_a_mixture_of_any_rules_is_each_of_them(data: st.DataObject) -> None:
    blend = data.draw(mixtures())
    rule = data.draw(st.sampled_from([c.rule for c in blend.claims]))
    drawn = data.draw(hypers(blend.program))
    agree(blend, blend.claim(rule), drawn, data.draw(problems()), same_bits)


# --- the authors' own MADA ------------------------------------------------------------------------
#
# Its equations are written without regard for what is switched off: a coefficient of 0 multiplies,
# so that `0 * inf` would be NaN. Nothing overflows here, then, and a zero may have either sign. All
# else is exact, for a product with 1 and a sum with 0 are.

LEGACY = Blend(("mada_legacy",))


def moderate(dtype: torch.dtype) -> st.SearchStrategy[float]:
    """Zeros, denormals, and numbers whose squares, and sums of a few of these, are finite."""
    largest = min(torch.finfo(dtype).max, torch.finfo(torch.float32).max ** 0.5 / 8)
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    some = st.sampled_from([0.0, 1.0, -1.0, -0.0, least, -7 * least, largest, -largest / 2])
    return some | ordinary(dtype)


@pytest.mark.parametrize("rule", ["AdamW", "AVGrad", "Yogi"])
@examples(80)
@given(data=st.data())
def test_mada_legacy_is_its_adaptive_members(rule: str, data: st.DataObject) -> None:
    drawn = data.draw(hypers(LEGACY.program))
    problem = data.draw(problems(kinds=[moderate]))
    agree(LEGACY, LEGACY.claim(rule), drawn, problem, same_numbers)


@examples(80)
@given(data=st.data())
def test_mada_legacy_is_a_lion(data: st.DataObject) -> None:
    """Lion's sign is of `0.95 * (0.98 * m + 0.02 * g) + 0.05 * g` here, of `0.931 * m + 0.069 * g`
    there. Where rounding may decide about it, and after that, nothing is said about an element.
    """
    # The adaptive step must be a number, for all that it is multiplied with 0.
    positive = st.just(1e-6) | st.floats(1e-8, 1)
    drawn = data.draw(hypers(LEGACY.program, eps=positive))
    problem = data.draw(problems(kinds=[moderate]))
    claim = LEGACY.claim("Lion")
    values = drawn | dict(claim.settings)
    found = run(LEGACY.optimizer, values, problem)
    expected = run(member(claim), bound(claim, values), problem)
    for index in range(len(problem.theta)):
        stream = [step[index] for step in problem.gradients]
        if all(g is None for g in stream):
            continue
        clear = clear_signs(stream)
        for ours, theirs, known in zip(found, expected, clear, strict=True):
            same = same_numbers(ours[index], theirs[index])
            assert (same.reshape(-1) | ~known).all(), f"{ours[index]} is not {theirs[index]}"


def clear_signs(gradients: list[Tensor | None]) -> list[Tensor]:
    """Elements, flattened, whose sign was beyond doubt in this step and all before.

    The exact sum is further from zero than rounding of its terms reaches, or all terms are zero.
    """
    given = next(g for g in gradients if g is not None)
    info = torch.finfo(torch.float64 if given.dtype is torch.float64 else torch.float32)
    unit, least = Fraction(info.eps), Fraction(info.smallest_normal)
    m, size = ([Fraction(0)] * given.numel() for _ in range(2))
    clear = [True] * given.numel()
    steps = []
    for gradient in gradients:
        if gradient is not None:
            for i, g in enumerate(map(Fraction, gradient.double().reshape(-1).tolist())):
                total = Fraction("0.931") * m[i] + Fraction("0.069") * g
                terms = Fraction("0.931") * size[i] + Fraction("0.069") * abs(g)
                # Ten steps of a few roundings each, of terms that only shrink from then on.
                clear[i] &= terms == 0 or abs(total) > 64 * (unit * terms + least)
                m[i] = Fraction("0.98") * m[i] + Fraction("0.02") * g
                size[i] = Fraction("0.98") * size[i] + Fraction("0.02") * abs(g)
        steps.append(clear.copy())
    return [torch.tensor(s, dtype=torch.bool) for s in steps]
