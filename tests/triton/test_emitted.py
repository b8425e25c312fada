"""Names, texts and numbers of a specification that mean something in Triton or in Python."""

from __future__ import annotations

import builtins
import keyword
from collections.abc import Callable, Sequence

import pytest
import torch

import optdsl
from optdsl.backends.triton.expressions import HELPERS, RESERVED
from tests.c import rules, test_hostile as hostile, test_not_numbers as special
from tests.oracles import problems

pytestmark = pytest.mark.broad(8)

pytest.importorskip("triton")

OURS = """
tl triton c table tensors tensor holders begins firsts begin size place blocks first uniforms
scalars sums partials dots rows given memory sources later count width start stop i inside u s q n k
x y p FAST SPAN BLOCK THREADS OPTIONS WIDTHS SUM0 SUM1 ADDRESSES gradient GRADIENT THETA T STATE0
m_ g_ theta_ v_1 v_2 v_1_PER x_SHARE1 x_MEAN1 taken now learn_all step_block0 step_loop0
step_uniforms constexpr float64 load store where full math self cls True None print exec eval
__name__ __import__ λ ü
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


# Each result is kept by itself, where nothing larger hides it.
LITERALS = (
    "1e300",
    "0.12345678901234568",
    "1e-300",
    "1e-45",
    "4.9e-324",
    "0.1",
    "16777217",
    "1e22",
    "inf",
)
FORMS = {
    "product": "g * {n}",
    "product_from_left": "{n} * g",
    "quotient": "g / {n}",
    "quotient_from_left": "{n} / g",
    "total_of_two": "g + {n}",
    "difference": "{n} - g",
    "smaller_of_two": "min(g, {n})",
    "larger_of_two": "max(g, {n})",
    "chosen_number": "where(g > 0, {n}, g)",
    "chosen_of_numbers": "where(g > 0, {n}, 0.7)",
    "compared": "where(g * {n} > {n}, 1, g)",
    "of_a_tensor": "norm(g) * {n} + g",
    "of_all": "own * {n} + g",
    "a_power": "abs(g)^{n}",
}


def results(text: str, backend: str, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The states after two steps; they are those of the first where they are replayed."""
    generator = problems.seeded(0)
    parameter = torch.nn.Parameter(problems.randn(generator, 19).to(dtype))
    optimizer = optdsl.compile(text, backend=backend, learn=False)([parameter])
    parameter.grad = problems.randn(generator, 19).to(dtype)
    for _ in range(2):
        optimizer.step()
    return {k: x for k, x in optimizer.state[parameter].items() if k != "step"}


def check_numbers(text: str, dtype: torch.dtype, tolerance: float) -> dict[str, torch.Tensor]:
    """Both backends find the same, however small it is."""
    ours, theirs = (results(text, backend, dtype) for backend in ("triton", "eager"))
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        torch.testing.assert_close(
            ours[name].to(expected.dtype), expected, rtol=tolerance, atol=0.0, equal_nan=True,
            msg=lambda told, name=name: f"{name}: {told}",
        )  # fmt: skip
    return ours


@pytest.mark.parametrize("number", LITERALS)
def test_numbers_are_what_they_say(number: str) -> None:
    lines = ["optimizer Numbers", "hyper own = 0.3 in [0, 1]"]
    for form, expression in FORMS.items():
        lines.append(f"state {form} = 0")
        lines.append(f"{form}' = {expression.format(n=number)}")
    text = "\n".join([*lines, "theta' = theta - g", ""])
    found = check_numbers(text, torch.float64, 1e-12)
    assert set(found) == set(FORMS)
    # Not one by one nothing but zeros, infinities or NaN.
    assert any(bool((x.isfinite() & (x != 0)).all()) for x in found.values())


@pytest.mark.parametrize("number", ["1e-30", "0.1", "16777217", "1e22", "inf"])
def test_numbers_are_what_they_say_in_single_precision(number: str) -> None:
    lines = ["optimizer Numbers", "hyper own = 0.3 in [0, 1]"]
    for form, expression in FORMS.items():
        if form not in {"a_power", "of_a_tensor"}:
            lines.append(f"state {form} = 0")
            lines.append(f"{form}' = {expression.format(n=number)}")
    text = "\n".join([*lines, "theta' = theta - g", ""])
    check_numbers(text, torch.float32, 4 * torch.finfo(torch.float32).eps)


@pytest.mark.parametrize("number", ["1e300", "4.9e-324", "0.12345678901234568", "16777217"])
def test_states_and_hyperparameters_start_at_such_numbers(number: str) -> None:
    text = f"""\
optimizer Starts
hyper own = {number} in [0, inf)
state element = {number}
state single : scalar = {number}
element' = element
single' = single
state used = 0
used' = own + 0 * g
theta' = theta - g
"""
    found = check_numbers(text, torch.float64, 0.0)
    for name in ("element", "single", "used"):
        assert bool((found[name].to(torch.float64) == float(number)).all()), name


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
@pytest.mark.exhaustive
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
