"""What may be no number is not calculated with: `x / x` is not 1 where x may be 0."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

import optdsl
from optdsl import SpecError
from optdsl.algebra.facts import facts
from optdsl.algebra.fix import fix
from optdsl.diagnostics import Source
from optdsl.ir.program import Program
from optdsl.prove import Settlement, Verdict, settle
from optdsl.prove.equality import equal
from optdsl.specifications import library
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import Interpreter, read_text
from tests.sampling import examples

HEAD = "optimizer Mine\nhyper lr = 0.1 in [0, inf)\n"
CLAIM = "recovers SGD(momentum = 0, nesterov = 0, dampening = 0, weight_decay = 0)\n"
DOWN, UP = "theta - lr * g", "theta + lr * g"
UNIT = "hyper h = 1 in [0, 1]\n"


def settled(update: str, before: str = "", claim: str = CLAIM) -> Settlement:
    text = f"{HEAD}{before}theta' = {update}\n{claim}"
    found = library.specification(Source("mine.opt", text), verify=False)
    return settle(found.program, found.claims[0])


FALSE = [
    (f"where((t - 1) / (t - 1) > 0.5, {DOWN}, {UP})", ""),
    (f"where(h / h > 0.5, {DOWN}, {UP})", UNIT),
    (f"where(1/h - 1/h == 0, {DOWN}, {UP})", UNIT),
    (f"where(h^-1 * h > 0, {DOWN}, {UP})", UNIT),
    (f"where(0^(h - 1) - 0^(h - 1) == 0, {DOWN}, {UP})", UNIT),
    (f"where(sqrt(h - 1) <= sqrt(h - 1), {DOWN}, {UP})", UNIT),
    (f"where(log(h) - log(h) == 0, {DOWN}, {UP})", UNIT),
    (f"where(g/0 - g/0 == 0, {DOWN}, {UP})", ""),
    (f"where(log(-1) - log(-1) == 0, {DOWN}, {UP})", ""),
    (f"where(0 * (inf * g) == 0, {DOWN}, {UP})", ""),
    (f"where(debias(g, b) - debias(g, b) == 0, {DOWN}, {UP})", "hyper b = 0.5 in [0, 1]\n"),
    (f"where(s + 1 == s, {UP}, {DOWN})", "state s = inf\ns' = s\n"),
    (f"where(s - s == 0, {DOWN}, {UP})", "state s = g\ns' = g / (g - g)\n"),
    (f"where(max(1 / h, 2) == 1 / h - 1, {UP}, {DOWN})", "hyper h = 0 in [0, 0.1]\n"),
    (f"where(1 / (0 * h) > 0, {DOWN}, {UP}) + 0 * (1 / (0 * -h))", UNIT),
    (f"{DOWN} + 0 * debias(g, 1)", ""),
    (f"{DOWN} + 0 * log(-1)", ""),
    (f"{DOWN} + 0 * (1 / h)", UNIT),
    (f"{DOWN} + 0 / h", UNIT),
    (f"{DOWN} * h / h", UNIT),
    (f"{DOWN} * (1e300 * 1e300 / 1e300 / 1e300)", ""),
]


@pytest.mark.parametrize(("update", "before"), FALSE)
def test_what_is_undefined_proves_nothing(update: str, before: str) -> None:
    assert settled(update, before).verdict is Verdict.REFUTED
    misses = CLAIM.replace("recovers", "misses")
    assert settled(update, before, misses).verdict is Verdict.PROVED
    mine = read_text(f"{HEAD}{before}theta' = {update}\n")
    assert not equal(fix(mine, {}), read_text(f"{HEAD}theta' = {DOWN}\n"))


TRUE = [
    ("theta - lr * g * h / h", "hyper h = 1 in (0, 1]\n"),
    ("theta - lr * g * ((1 + t) / (t + 1))", ""),
    ("theta - lr * g * ((1 + g^2) / (g^2 + 1))", ""),
    (
        "theta - lr * g * where(sqrt(v) - sqrt(v) == 0, 1, 2)",
        "state v = 0\nv' = ema(v, g^2, 0.9)\n",
    ),
    (f"where(log(1 + g^2) * 0 == 0, {DOWN}, {UP})", ""),
    (f"where(h^t - h^t == 0, {DOWN}, {UP})", "hyper h = 0 in [-1, 1]\n"),
]


@pytest.mark.parametrize(("update", "before"), TRUE)
def test_what_is_defined_cancels(update: str, before: str) -> None:
    assert settled(update, before).verdict is Verdict.PROVED


ALIKE = [
    ("g / (sqrt(v') + eps)", "(g * 2) / (2 * eps + sqrt(v') * 2)"),
    ("-(g / eps)", "-1 * g / eps"),
    ("g / eps - theta / eps", "-(theta / eps) + g / eps"),
    ("eps * (1 / eps) * g", "g * (eps / eps)"),
    ("log(eps) + log(eps)", "2 * log(eps)"),
    ("1 / (eps * eps)", "eps^-2"),
]  # fmt: skip


# At eps = 0, one is infinite and the other one no number.
UNALIKE = [
    ("(g + theta) / eps", "g / eps + theta / eps"),
    ("-(g / eps)", "g / eps - 2 * g / eps"),
    ("(1 - eps) / eps * g", "g / eps - g"),
]


@pytest.mark.parametrize(
    ("left", "right", "same"), [*((*p, True) for p in ALIKE), *((*p, False) for p in UNALIKE)]
)
def test_what_is_undefined_alike_is_equal(left: str, right: str, same: bool) -> None:
    head = f"{HEAD}hyper eps = 1 in [0, inf)\nstate v = 0\nv' = ema(v, g^2, 0.9)\n"
    first, second = (read_text(f"{head}theta' = theta - ({x})\n") for x in (left, right))
    assert equal(first, second) is same
    assert equal(second, first) is same


def test_quotients_by_zeros_of_unknown_sign_are_equal_as_they_are_written() -> None:
    def program(*lines: str) -> Program:
        return read_text("\n".join([f"{HEAD}state m = 0", *lines, "theta' = theta - g / m'", ""]))

    assert equal(program("m' = ema(m, g, 0.9)"), program("m' = ema(m, g, 0.9)"))
    assert equal(program("m' = ema(m, g, 0.9)"), program("m' = (1 - 0.9) * g + 0.9 * m"))
    # Of -0 and 0, one is the sum of zeros and the other its negation.
    assert not equal(program("m' = ema(m, g, 0.9)"), program("m' = -((1 - 0.9) * -g - 0.9 * m)"))


# --- overflow and rounding ------------------------------------------------------------------------

WIDE = "hyper h = 1 in [0, inf)\n"
DOUBLING = "state s = 1\ns' = 2 * s\n"
OVERFLOWING = [
    (f"where(exp(h) - exp(h) == 0, {DOWN}, {UP})", WIDE),
    ("theta - lr * g * where(s - s == 0, 1, -1)", DOUBLING),
    ("theta - lr * g * where(s' - s' == 0, 1, -1)", "state s = 1\ns' = s + 0.01 * s\n"),
    (f"{DOWN} + 0 * 2^t", ""),
    (f"{DOWN} + 0 * exp(exp(h))", WIDE),
    (f"{DOWN} + 0 * exp(h)", WIDE),
    (f"{DOWN} + 0 * h^h", WIDE),
    (f"{DOWN} + 0 * s", DOUBLING),
    (f"{DOWN} + 0 * s", "state s = 2\ns' = s^2\n"),
    (f"{DOWN} + 0 * s", "state s = 0\ns' = h * s + g\n" + WIDE),
    (f"{DOWN} + 0 * s", "state s = 1\nstate u = 1\ns' = s + u\nu' = s + u\n"),
    (f"{DOWN} + 0 * exp(t)", ""),
    (f"{DOWN} + 0 * exp(theta)", ""),
    (f"{DOWN} + 0 * (1 / (1 + h)^-20)", WIDE),
    (f"{DOWN} + 0 * (1 / h^20)", "hyper h = 1 in (0, 1]\n"),
    ("theta - lr * g * where((g^8)^8 - (g^8)^8 == 0, 1, -1)", ""),
    ("theta - lr * g * where(sum(g^8 * h^8) * 0 == 0, 1, -1)", WIDE),
]
ROUNDING = [
    (f"{DOWN} + where(x == 0, 0, 100)", "x = g * 3 - g - g - g\n"),
    (f"{DOWN} + where(theta * 0.1 * 10 == theta, 0, 1)", ""),
    (f"{DOWN} + 1e-3 * sign(theta * 0.1 * 10 - theta)", ""),
    (f"{DOWN} + where(g + 1 > g, 0, 1)", ""),
    (f"{DOWN} + where(0.1 + 0.2 == 0.3, 0, 1)", ""),
    (f"{DOWN} + where(h * 3 - h - h - h == 0, 0, 1)", WIDE),
    (f"{DOWN} + where(c / 10 + t / 10 == c / 5 + 0.1, 0, 1)", "state c = 0\nc' = c + 1\n"),
]


@pytest.mark.parametrize(("update", "before"), [*OVERFLOWING, *ROUNDING])
def test_what_may_overflow_or_is_decided_by_rounding_proves_nothing(
    update: str, before: str
) -> None:
    assert settled(update, before).verdict is not Verdict.PROVED
    mine = read_text(f"{HEAD}{before}theta' = {update}\n")
    assert not equal(fix(mine, {}), read_text(f"{HEAD}theta' = {DOWN}\n"))


BOUNDED = [
    (f"{DOWN} + 0 * exp(-h)", WIDE),
    (f"{DOWN} + 0 * exp(min(h, 1))", WIDE),
    (f"{DOWN} + 0 * exp(tanh(g)) * g^2 * h^2", WIDE),
    (f"{DOWN} + 0 * s", "state s = 0\ns' = s + g^2\n"),
    (f"{DOWN} + 0 * s", "state s = 0\ns' = (g^2 + (t - 1) * s) / t\n"),
    (f"{DOWN} + 0 * s", "state s = 0\ns' = h * max(s, g) + (1 - h) * s\n" + UNIT),
    (f"{DOWN} + 0 * s", "state s = 2\ns' = min(s^2, 9)\n"),
    (f"{DOWN} + 0 * u", "state s = 0\nstate u = 0\ns' = ema(s, g, 0.9)\nu' = s - g\n"),
    (f"{DOWN} + 0 * (1 / h)", "hyper h = 1 in (0, 1]\n"),
    (f"where(c' - c == 1, {DOWN}, {UP})", "state c = 0\nc' = c + 1\n"),
    (f"where(2 * h / 4 == h * 0.5, {DOWN}, {UP})", WIDE),
    (f"where(t + 1 > t, {DOWN}, {UP})", ""),
    (f"where(g * 3 - h == g * 3 - h, {DOWN}, {UP})", WIDE),
    (f"where(0.5 * h + 1 > h / 2, {DOWN}, {UP})", UNIT),
]


@pytest.mark.parametrize(("update", "before"), BOUNDED)
def test_what_stays_bounded_or_is_exact_is_proved(update: str, before: str) -> None:
    assert settled(update, before).verdict is Verdict.PROVED


# --- random programs ------------------------------------------------------------------------------

LEAVES = ("g", "theta", "m", "t", "h", "k", "0", "1", "2", "0.5", "inf", "-1", "1e3")
BINARY = ("+", "-", "*", "/", "^", "max", "min")
UNARY = ("sqrt", "log", "exp", "abs", "sign", "-")
VALUES = (0.0, 0.5, 1.0)
HYPERS = "hyper h = 1 in [0, 1]\nhyper k = 0.5 in (0, 1]\n"


def spelled(source: random.Random, depth: int) -> str:
    if depth == 0 or source.random() < 0.2:
        return source.choice(LEAVES)
    x, y = spelled(source, depth - 1), spelled(source, depth - 1)
    kind = source.random()
    if kind < 0.25:
        head = source.choice(UNARY)
        return f"(-({x}))" if head == "-" else f"{head}({x})"
    if kind < 0.35:
        condition = f"{x} {source.choice(('<', '<=', '==', '!='))} {y}"
        return f"where({condition}, {spelled(source, depth - 1)}, {source.choice(LEAVES)})"
    head = source.choice(BINARY)
    return f"{head}({x}, {y})" if head in {"max", "min"} else f"({x} {head} {y})"


def otherwise(source: random.Random, x: str, y: str) -> tuple[str, str]:
    """Two expressions that are equal wherever everything is a number."""
    pairs = [
        (f"({x} - {x})", "0"), (f"({x} / {x})", "1"), (f"(0 * {x})", "0"),
        (f"({x} + {y})", f"({y} + {x})"), (f"({x} * ({y} + 1))", f"({x} * {y} + {x})"),
        (f"(({x} + {y}) - {y})", x), (f"({x} * {y} / {y})", x), (f"where({x} == {x}, 1, 2)", "1"),
        (f"where({x} <= {x} + 1, {y}, 2)", y), (f"(2 * {x} - {x})", x),
        (f"({x}^2)", f"({x} * {x})"),
        (f"(1 / ({x} * {y}))", f"(1 / {x} / {y})"), (f"min({x}, {x} + 1)", x), (f"({x}^0)", "1"),
        (f"(-({x} / {y}))", f"({x} / (-({y})))"),
    ]  # fmt: skip
    return source.choice(pairs)


def ends(program: Program, hypers: dict[str, float], seed: int) -> torch.Tensor:
    """The parameter after each of some steps, among numbers that are zero or whole."""
    theta = torch.tensor([0.0, 1.0, -2.0, 0.5], dtype=torch.float64)
    generator = torch.Generator().manual_seed(seed)
    runner, found = Interpreter(program), []
    state: dict[str, torch.Tensor] = {}
    for t in range(1, 4):
        choices = torch.tensor([0.0, 1.0, -1.0, 0.25, 3.0], dtype=torch.float64)
        g = choices[torch.randint(len(choices), (4,), generator=generator)]
        state = state or runner.start(theta, g, hypers)
        result = runner.step(theta, g, state, hypers, t)
        theta, state = result.parameter, result.state
        found.append(theta)
        if not theta.isfinite().all():
            break
    return torch.stack([*found, *[found[-1]] * (3 - len(found))])


@examples(150)
@given(st.integers(0, 2**32))
def test_what_is_proved_is_so_at_zeros_infinities_and_bounds(seed: int) -> None:
    """Programs that are equal but for what is undefined; those that are proved equal are equal."""
    source = random.Random(seed)
    pair = otherwise(source, spelled(source, 2), spelled(source, 1))
    context = source.choice(
        ["{}", "where({} > 0, 1, 2)", "where({} == 0, 1, g)", "1 / ({})", "{} * g"]
    )
    head = f"optimizer A\n{HYPERS}state m = {source.choice(('0', 'g', 'h', '1 / h'))}\nm' = {{}}\n"
    inside = source.choice(("g", "ema(m, g, 0.5)", "m / h", "{}"))
    try:
        left, right = (
            read_text(head.format(inside.format(x)) + f"theta' = theta - {context.format(x)}\n")
            for x in pair
        )
    except SpecError:
        return
    if not equal(fix(left, {}), fix(right, {})):
        return
    for h in VALUES:
        for k in VALUES[1:]:
            x, y = (ends(p, {"h": h, "k": k}, seed % 97) for p in (left, right))
            finite = x.isfinite() & (x.abs() < 1e100)
            assert bool((x.isfinite() == y.isfinite()).all()) or not finite.any(), (pair, inside)
            torch.testing.assert_close(
                x[finite], y[finite], rtol=1e-9, atol=1e-9, msg=f"{pair} {context} {inside} {h} {k}"
            )


@examples(100)
@given(st.integers(0, 2**32))
def test_what_is_known_of_values_is_so(seed: int) -> None:
    """A value that is said to be a number is one, within the range that is said."""
    source = random.Random(seed)
    text = f"optimizer A\n{HYPERS}state m = {source.choice(('0', 'g', 'h'))}\n"
    text += f"m' = {spelled(source, 2)}\nx = {spelled(source, 3)}\ntheta' = x\n"
    try:
        program = read_text(text)
    except SpecError:
        return
    fact = facts(program)[program.parameter]
    for h in VALUES:
        x = ends(program, {"h": h, "k": 1.0}, seed % 97)[0]
        moderate = bool((x.abs() < 1e100).all())
        if fact.defined and moderate:
            # Functions of the library round as they like.
            near = [float(e) + d * (1 + abs(float(e))) for e in x for d in (-1e-12, 1e-12)]
            lower, upper = fact.range.lower, fact.range.upper
            assert all(lower <= e for e in near[1::2]), text
            assert all(e <= upper for e in near[0::2]), text
        if fact.defined and "exp" not in text:
            assert bool(x.isfinite().all()), text


# --- what is said of it ---------------------------------------------------------------------------


def test_a_claim_that_was_only_tested_is_remarked_on(tmp_path: Path) -> None:
    update = "theta - lr * abs(g) * sign(g) * where(t > 1e6, 2, 1)"
    found = library.specification(Source("m.opt", f"{HEAD}theta' = {update}\n{CLAIM}"))
    (remark,) = found.remarks
    assert remark.code == "tested"
    assert "what changes after step 1,000,000 was not reached" in remark.label
    path = tmp_path / "mine.opt"
    path.write_text(f"{HEAD}theta' = {update}\n{CLAIM}")
    with pytest.warns(optdsl.SpecWarning, match="was tested, and not proved"):
        optdsl.load(path)


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_nothing_is_remarked_on_in_the_library(name: str) -> None:
    assert library.specification(library.open_source(name)).remarks == ()


HIDDEN = [
    ("theta - lr * g * where(t > 30, 1 - a, 1)", "hyper a = 1 in [0, 1]\n", " at a = 1"),
    ("theta - lr * g * where(2 * t > 90, 0.9, 1)", "", ""),
    ("theta - lr * g * where(t > w, 0.9, 1)", "hyper w = 60 in [0, inf)\n", ""),
    ("theta - lr * min(g, 1e7)", "", ""),
    ("theta - lr * g * where(abs(g) > 1e-12, 1, 2)", "", ""),
    ("theta - lr * g * where(theta == 0.3, 2, 1)", "", ""),
    ("theta - lr * g * where(lr == 7, 2, 1)", "", ""),
    ("theta - lr * g + 1e-11 * tanh(g)", "", ""),
    ("theta - lr * (1 + 1e-13) * g", "", ""),
]


@pytest.mark.parametrize(("update", "before", "at"), HIDDEN)
def test_a_small_or_late_difference_is_found(update: str, before: str, at: str) -> None:
    assert settled(update, before, CLAIM.strip() + at + "\n").verdict is Verdict.REFUTED


ROUNDED = [
    "theta - lr * (g + 1e10 - 1e10)",
    "theta - (lr * 3) * (g / 3)",
    "theta - lr * sqrt(g^2) * sign(g)",
    "theta - lr * exp(log(abs(g) + 1)) * g / (abs(g) + 1)",
]


@pytest.mark.parametrize("update", ROUNDED)
def test_what_rounding_explains_is_no_difference(update: str) -> None:
    assert settled(update).verdict in {Verdict.PROVED, Verdict.TESTED}
