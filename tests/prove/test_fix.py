"""A program with hyperparameters fixed computes the same, and keeps the states that matter."""

from __future__ import annotations

import functools
import math
import random
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import pytest
import sympy
import torch
from torch import Tensor

from optdsl.algebra.fix import fix, live_states
from optdsl.algebra.polynomial import decimal
from optdsl.ir.domain import Choice
from optdsl.ir.program import Hyper, Program
from optdsl.ir.verify import verify
from optdsl.specifications import library
from tests.oracles import every_operation, problems
from tests.oracles.rules import ELEMENTWISE
from tests.oracles.running import Interpreter, read_spec, read_text

pytestmark = pytest.mark.broad(8)

EVERY_OPERATION = "every_operation"
PROGRAMS = (*ELEMENTWISE, EVERY_OPERATION)


@functools.cache
def program(name: str) -> Program:
    return read_text(every_operation.TEXT) if name == EVERY_OPERATION else read_spec(name)


def from_text(*lines: str) -> Program:
    return read_text("\n".join(["optimizer A", "hyper x = 0.3 in (-inf, inf)", *lines, ""]))


def states(program: Program) -> set[str]:
    return {s.name for s in program.states}


def run(program: Program, hypers: Mapping[str, float], seed: int) -> list[dict[str, Tensor]]:
    """Parameter and states after each of six steps from a random start."""
    generator = problems.seeded(seed)
    interpreter = Interpreter(program)
    theta = problems.randn(generator, 5)
    gradients = [problems.randn(generator, 5) for _ in range(6)]
    state = interpreter.start(theta, gradients[0], hypers)
    found = []
    for t, g in enumerate(gradients, start=1):
        result = interpreter.step(theta, g, state, hypers, t)
        theta, state = result.parameter, result.state
        found.append({"theta'": theta, **state})
    return found


# --- the same steps -------------------------------------------------------------------------------


def drawn(hyper: Hyper, source: random.Random) -> float:
    """An end of its bounds, its default, or anything inside."""
    if isinstance(hyper.domain, Choice):
        return source.choice(hyper.domain.values)
    ends = [x for x in (hyper.domain.lower, hyper.domain.upper) if x in hyper.domain]
    inside = problems._interior(hyper.domain, source.random())
    return source.choice([*(x for x in ends if math.isfinite(x)), hyper.default, inside, inside])


def random_settings(program: Program, source: random.Random) -> dict[str, float]:
    """Values for some of the hyperparameters; a weight vector is set as a whole."""
    single = [h for h in program.hypers if program.simplex_of(h.name) is None]
    chosen = source.sample(single, source.randint(1, len(single)))
    found = {h.name: drawn(h, source) for h in chosen}
    for simplex in program.simplexes:
        corner = source.choice(simplex.hypers)
        weights = [source.expovariate(1) for _ in simplex.hypers]
        if source.random() < 0.5:
            found |= {h: float(h == corner) for h in simplex.hypers}
        elif source.random() < 0.5:
            found |= {h: w / sum(weights) for h, w in zip(simplex.hypers, weights, strict=True)}
    return found


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", PROGRAMS)
def test_the_fixed_program_takes_the_same_steps(name: str, seed: int) -> None:
    source = random.Random(f"{name} {seed}")
    values = random_settings(program(name), source)
    fixed = verify(fix(program(name), values))
    read = {o.attribute for o in fixed.operations if o.opcode == "hyper"}
    assert not read & values.keys()
    assert states(fixed) <= states(program(name))
    others = problems.interior_hypers(program(name), problems.seeded(seed))
    expected = run(program(name), others | values, seed)
    # What is fixed plays no part any more, whatever a caller says it is.
    found = run(fixed, others | dict.fromkeys(values, math.nan), seed)
    for ours, theirs in zip(found, expected, strict=True):
        for key, value in ours.items():
            scale = max(1.0, float(theirs[key].abs().max()))
            assert torch.isfinite(theirs[key]).all()
            torch.testing.assert_close(value, theirs[key], rtol=0.0, atol=1e-12 * scale)


@pytest.mark.parametrize("name", PROGRAMS)
def test_nothing_fixed_takes_the_same_steps_and_fixing_twice_changes_nothing(name: str) -> None:
    fixed = fix(program(name), {})
    assert fix(fixed, {}) == fixed
    others = problems.interior_hypers(program(name), problems.seeded(9))
    for ours, theirs in zip(run(fixed, others, 9), run(program(name), others, 9), strict=True):
        for key, value in ours.items():
            torch.testing.assert_close(value, theirs[key], rtol=1e-13, atol=1e-13)


# --- states ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values", "kept"),
    [
        ("mada", {"gamma": 0}, {"m_lion"}),
        ("mada", {"gamma": 1}, {"m", "v", "V", "n", "g_prev"}),
        ("mada", {"gamma": 1, "kappa": 0}, {"m", "v", "V"}),
        ("mada", {"gamma": 1, "kappa": 0, "rho": 1}, {"m", "v"}),
        ("mada", {"gamma": 1, "kappa": 1, "rho": 1}, {"m", "v", "n", "g_prev"}),
        ("mada", {"kappa": 0, "rho": 1}, {"m", "v", "m_lion"}),
        ("mada", {"c": 0}, {"m", "v", "V", "n", "g_prev", "m_lion"}),
        # What is multiplied with 0 must be a number to be gone: with eps = 0 it may be 0 / 0.
        ("mada", {"lr": 0}, {"m", "v", "V", "n", "g_prev"}),
        ("mada", {"lr": 0, "eps": 1e-6, "c": 1}, set()),
        ("mada_legacy", {"gamma": 0}, {"m", "v", "V", "n", "g_prev", "m_lion"}),
        ("mada_legacy", {"gamma": 0, "eps": 1e-6, "c": 1}, {"m_lion"}),
        ("mada_legacy", {"gamma": 1, "beta3": 0, "rho": 1}, {"m", "v"}),
        ("mada_legacy", {"gamma": 1, "beta3": 0, "rho": 0}, {"m", "v", "V"}),
        ("mada_legacy", {"gamma": 1, "difference": 0}, {"m", "v", "V", "n"}),
        ("memory", {"w_adam": 1, "w_avgrad": 0, "w_amsgrad": 0}, {"m", "v"}),
        ("memory", {"w_adam": 0, "w_avgrad": 0, "w_amsgrad": 1}, {"m", "v", "vmax"}),
        ("memory", {"w_adam": 0.5, "w_avgrad": 0.5, "w_amsgrad": 0}, {"m", "v", "V"}),
        ("adaptivity", {"w_sgd": 1, "w_adamw": 0, "w_lion": 0}, {"buf"}),
        ("adaptivity", {"w_sgd": 0, "w_adamw": 0, "w_lion": 1}, {"m_lion"}),
        ("two_speed", {"slow": 0}, {"m_fast", "v"}),
        ("two_speed", {"slow": 1}, {"m_slow", "v"}),
        ("two_speed", {"slow": 0.5}, {"m_fast", "m_slow", "v"}),
        ("sgd", {"momentum": 0}, set()),
        ("sgd", {"momentum": 0.9}, {"buf"}),
        ("adam", {"lr": 0}, {"m", "v"}),
        ("adam", {"lr": 0, "eps": 1e-6}, set()),
        ("adam", {"beta1": 0, "beta2": 0}, set()),
        ("adan", {"beta2": 0}, {"m", "v"}),
        ("lion", {"beta1": 0}, set()),
    ],
)
def test_states_that_no_longer_matter_are_gone(
    name: str, values: dict[str, float], kept: set[str]
) -> None:
    assert states(fix(program(name), values)) == kept


CORNERS = [
    (name, claim.settings)
    for name in ELEMENTWISE
    for claim in library.specification(library.open_source(name)).claims
]


@pytest.mark.parametrize(("name", "values"), [*((n, ()) for n in PROGRAMS), *CORNERS])
def test_states_that_are_kept_matter(name: str, values: tuple[tuple[str, float], ...]) -> None:
    """Each of them, when it is moved, moves the parameter after that step or a later one."""
    fixed = fix(program(name), dict(values))
    generator = problems.seeded(4)
    # Where a momentum or a last gradient is there, so that it is used.
    chosen = {"nesterov": 1.0, "mode": 2.0, "difference": 1.0}
    hypers = problems.interior_hypers(fixed, generator) | chosen
    interpreter = Interpreter(fixed)

    def ending(moved: str | None) -> Tensor:
        generator = problems.seeded(5)
        theta, gradients = problems.randn(generator, 9), problems.randn(generator, 5, 9)
        state = interpreter.start(theta, gradients[0], hypers)
        for t, g in enumerate(gradients, start=1):
            if t == 2 and moved is not None:
                like = state[moved]
                state = {**state, moved: like + (3 * problems.randn(generator, *like.shape)).abs()}
            result = interpreter.step(theta, g, state, hypers, t)
            theta, state = result.parameter, result.state
        return theta

    still = ending(None)
    assert [s.name for s in fixed.states if torch.equal(ending(s.name), still)] == []


def test_states_that_only_feed_each_other_are_dead() -> None:
    lines = ("state a = 0", "state b = g", "state c = 0", "a' = b + g", "b' = a", "c' = c + g")
    dead = from_text(*lines, "theta' = theta - c'")
    assert states(live_states(dead)) == {"c"}
    alive = from_text(*lines, "theta' = theta - c' - a")
    assert states(live_states(alive)) == {"a", "b", "c"}


# --- what is simplified ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "simple"),
    [
        ("x * m", 0.0, "0"),
        ("m * x", 1.0, "m"),
        ("m / x", 1.0, "m"),
        ("x / (1 + m^2)", 0.0, "0"),
        ("m^x", 1.0, "m"),
        ("m + x", 0.0, "m"),
        ("x + m", 0.0, "m"),
        ("m - x", 0.0, "m"),
        ("x - m", 0.0, "-m"),
        ("(1 - x) * m", 1.0, "0"),
        ("(1 - x) * m", 0.98, "0.02 * m"),
        ("(0.1 + x) * m", 0.2, "0.3 * m"),
        ("x * 0.98 * m", 0.95, "0.931 * m"),
        ("where(x == 0, g, m)", 0.0, "g"),
        ("where(x == 0, g, m)", 0.1, "m"),
        ("where(x < 1, g, m)", 0.999, "g"),
        ("where(x >= 1, g, m)", 0.999, "m"),
        ("where(2 * x != 1, g, m)", 0.5, "m"),
        ("where(m > x, g, g)", 0.5, "g"),
        ("sqrt(x) * m", 4.0, "2 * m"),
        ("mean(x + 0 * g) * m", 1.0, "m"),
        ("(x - x) * m + exp(x - x) * g", 0.7, "g"),
    ],
)
def test_simplifications(text: str, value: float, simple: str) -> None:
    lines = ("state m = 0", "m' = ema(m, g, 0.9)")
    fixed = fix(from_text(*lines, f"theta' = {text}"), {"x": value})
    expected = fix(from_text(*lines, f"theta' = {simple}"), {})
    assert parts(fixed) == parts(expected)
    for ours, theirs in zip(run(fixed, {}, 1), run(expected, {}, 1), strict=True):
        torch.testing.assert_close(ours["theta'"], theirs["theta'"], rtol=1e-15, atol=0.0)


def test_a_reduction_of_one_number_is_known_without_its_elements() -> None:
    lines = ("state m = 0", "m' = ema(m, g, 0.9)")
    fixed = fix(from_text(*lines, "theta' = sum(x + 0 * g) * m"), {"x": 2.0})
    assert "sum" not in {o.opcode for o in fixed.operations}
    expected = from_text(*lines, "theta' = 10 * m")
    for ours, theirs in zip(run(fixed, {}, 1), run(expected, {"x": 2.0}, 1), strict=True):
        torch.testing.assert_close(ours["theta'"], theirs["theta'"], rtol=1e-15, atol=0.0)


def parts(program: Program) -> Counter[tuple[str, object]]:
    """The operations, in whatever order."""
    return Counter((o.opcode, o.attribute) for o in program.operations)


def test_a_decided_condition_may_have_a_name() -> None:
    lines = ("state m = 0", "m' = m + g", "chosen = x == 0")
    fixed = fix(from_text(*lines, "theta' = where(chosen, theta - g, m)"), {"x": 0.0})
    assert states(fixed) == set()


def test_a_mean_without_the_parts_that_weigh_nothing() -> None:
    fixed = fix(program("memory"), {"w_adam": 0.25, "w_avgrad": 0, "w_amsgrad": 0.75})
    mixes = [o for o in fixed.operations if o.opcode == "mix"]
    assert [len(o.arguments) for o in mixes] == [4]
    fixed = fix(program("memory"), {"w_adam": 1, "w_avgrad": 0, "w_amsgrad": 0})
    assert not any(o.opcode == "mix" for o in fixed.operations)


EXACT = {
    "sqrt(x)": sympy.sqrt,
    "exp(x)": sympy.exp,
    "log(x)": sympy.log,
    "tanh(x)": sympy.tanh,
    "x^2": lambda x: x**2,
    "x^40": lambda x: x**40,
    "0.1^x": lambda x: sympy.Rational(1, 10) ** x,
    "2^x": lambda x: 2**x,
    "x / 3": lambda x: x / 3,
    "x + 0.1": lambda x: x + sympy.Rational(1, 10),
    "1 - x": lambda x: 1 - x,
    "x * 1e-5": lambda x: x / 10**5,
    "abs(x)": sympy.Abs,
    "sign(x)": sympy.sign,
    "max(x, 2)": lambda x: sympy.Max(x, 2),
    "min(x, 2)": lambda x: sympy.Min(x, 2),
}
NUMBERS = [0, 1, 2, 3, 4, 0.25, 0.3, 20, 50, 400, 1e-17, 1e-200, 1e15, 4.000000000000001,
           2.718281828459045, -1, -0.5, -3]  # fmt: skip


@pytest.mark.parametrize("text", EXACT)
def test_a_number_that_takes_the_place_of_an_operation_is_exact(text: str) -> None:
    """What is folded is the decimal itself; what double precision cannot hold stays as it is."""
    symbol = sympy.Symbol("x", real=True)
    folded = 0
    for number in NUMBERS:
        exact = sympy.Rational(str(decimal(float(number))))
        program = from_text(f"theta' = where(g > {text}, g, theta)")
        fixed = fix(program, {"x": float(number)})
        (comparison,) = (o for o in fixed.operations if o.opcode == "gt")
        compared = fixed.operations[comparison.arguments[1]]
        if compared.opcode == "constant":
            assert isinstance(compared.attribute, float)
            folded += 1
            wanted = EXACT[text](symbol).subs(symbol, exact)
            found = sympy.Rational(str(decimal(compared.attribute)))
            assert sympy.simplify(wanted - found) == 0, number
    assert folded or text not in {"x / 3", "x + 0.1", "1 - x", "x * 1e-5"}


def test_infinities_and_undefined_numbers_are_left_alone() -> None:
    for text in ("1 / (x - x)", "0 / (x - x)", "log(x - x)", "x / 1e-320 / 1e-10", "inf - x"):
        fixed = verify(fix(from_text(f"theta' = ({text}) * g"), {"x": 0.5}))
        assert all(
            math.isfinite(o.attribute) or o.attribute == math.inf
            for o in fixed.operations
            if isinstance(o.attribute, float)
        )
        assert any(o.opcode in {"div", "log", "sub"} for o in fixed.operations)


def test_decimals_are_kept_to_the_last_digit() -> None:
    """0.1 + 0.2 is folded, for 0.3 is a float's decimal; a third is not."""
    fixed = fix(from_text("theta' = (x + 0.1) * g + x / 3 * theta"), {"x": 0.2})
    constants = {o.attribute for o in fixed.operations if o.opcode == "constant"}
    assert constants == {0.3, 0.2, 3.0}
    assert Fraction(repr(0.1 + 0.2)) != Fraction("0.3")
