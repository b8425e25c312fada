"""Names, texts and numbers of a specification that mean something in Triton or in Python."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Sequence

import pytest
import torch

from optdsl.backends.triton.expressions import HELPERS, RESERVED
from tests.c import rules, test_hostile as hostile, test_not_numbers as special

pytest.importorskip("triton")

OURS = """
tl triton c table tensors tensor holders begins firsts begin size place blocks first uniforms
scalars sums partials dots rows given memory sources later count width start stop i inside u s q n k
x y p FAST SPAN BLOCK WARPS WIDTHS SUM0 SUM1 ADDRESSES gradient GRADIENT THETA T STATE0 m_ g_ theta_
v_1 v_2 v_1_PER x_SHARE1 x_MEAN1 taken now learn_all step_block0 step_loop0 step_uniforms constexpr
float64 load store where full math self cls True None print exec eval __name__ __import__ λ ü
"""
NAMES = sorted({*OURS.split(), *RESERVED, *HELPERS, *keyword.kwlist, *keyword.softkwlist,
                *(name for name in dir(builtins) if name.islower())})  # fmt: skip
# Checkpoints have a `step` of their own.
TAKEN = [name for name in NAMES if hostile.accepted(name) and name != "step"]
SIZE = 24
GROUPS = [TAKEN[i : i + SIZE] for i in range(0, len(TAKEN), SIZE)]
ROLES = [hostile.as_hypers, hostile.as_states, hostile.as_definitions]


def test_most_names_are_names() -> None:
    assert {"tl", "table", "size", "begin", "u", "FAST", "float", "x_SHARE1"} <= set(TAKEN)


@pytest.mark.parametrize("number", range(len(GROUPS)))
@pytest.mark.parametrize("role", ROLES)
def test_names_of_triton_are_names_like_any_other(
    role: Callable[[Sequence[str]], str], number: int
) -> None:
    text = f"optimizer Names\n{role(GROUPS[number])}\n"
    (theta, sums), (expected, others) = (hostile.run(text, b) for b in ("triton", "eager"))
    torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-11)
    assert sums == pytest.approx(others, rel=1e-11)
    assert len(sums) == 2


CITATIONS = {
    **hostile.CITATIONS,
    "the end of a docstring": 'three """ quotes',
    "a quote at the end": "a quote'",
    "an escape": "\\\\N{nothing} \\\\x",
}


@pytest.mark.parametrize("kind", CITATIONS)
def test_a_citation_is_only_text(kind: str) -> None:
    citation = CITATIONS[kind].replace('"', "'")
    lines = [f'  "{citation}"', f'  "/ {citation}"', f'  "{citation}"']
    text = "\n".join(["optimizer Cited", *lines, "theta' = theta - g", ""])
    assert torch.equal(hostile.run(text, "triton")[0], hostile.run(text, "eager")[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_numbers_are_what_they_say(dtype: torch.dtype) -> None:
    ours, theirs = (hostile.run(hostile.NUMBERS, b, dtype)[0] for b in ("triton", "eager"))
    assert bool(theirs.isfinite().all())
    torch.testing.assert_close(ours, theirs, rtol=4 * torch.finfo(dtype).eps, atol=0.0)


SOME = ("adam", "lion", "mada", "mada_legacy", "lamb", "every_operation", "blend")


@pytest.mark.parametrize("dtype", special.DTYPES, ids=str)
@pytest.mark.parametrize("rule", SOME)
def test_special_gradients_side_by_side(rule: str, dtype: torch.dtype) -> None:
    """NaN, infinities, subnormal and huge numbers come out where they do in eager code."""
    stream = special.gradients(dtype, list(special.SPECIAL), 613)
    hypers = special.settings(rule, "interior")
    special.compare(rule, dtype, stream, hypers, backends=("eager", "triton"))


@pytest.mark.parametrize("dtype", special.DTYPES, ids=str)
@pytest.mark.parametrize("rule", SOME)
def test_special_parameters(rule: str, dtype: torch.dtype) -> None:
    nan, inf = float("nan"), float("inf")
    start = torch.tensor([nan, inf, -inf, 1e-40, 0.0, -0.0, 1e38]).to(dtype)
    hypers = special.settings(rule, "interior")
    stream = special.gradients(dtype, [], 7)
    special.compare(rule, dtype, stream, hypers, start, backends=("eager", "triton"))


def test_every_rule_has_a_text() -> None:
    from optdsl.compiler import emit

    for name in rules.RULES:
        compile(emit(rules.source(name), "triton").text, name, "exec")
