"""What a specification means once its names, types and bounds are known."""

import math
import random

import pytest
import torch
from hypothesis import given, strategies as st

from optdsl.diagnostics import Source, SpecError
from optdsl.interpret import initial_state, step
from optdsl.ir.domain import Choice, Interval
from optdsl.ir.program import Learned, Program
from optdsl.ir.types import SCALAR, TENSOR, UNIFORM
from optdsl.specifications import library


def read(text: str) -> Program:
    return library.read(Source("t.opt", f"optimizer A\n{text}\n"))


def evaluate(expression: str, g: float = 3.0, theta: float = 2.0, t: int = 1) -> float:
    """An expression of g, theta and t, as the new parameter."""
    program = read(f"theta' = 0 * theta + ({expression})")
    gradient, parameter = (torch.tensor([x], dtype=torch.float64) for x in (g, theta))
    return step(program, parameter, gradient, {}, {}, t).parameter.item()


def kind(expression: str) -> object:
    """The type of an expression."""
    text = f"hyper x = 1\nstate m = 0\nstate k : scalar = 0\nm' = g\nk' = sum(g)\ny = {expression}"
    program = read(f"{text}\ntheta' = theta - where(t > 0, 1, 0)")
    return next(o.type for o in program.operations if o.attribute == "y")


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("2 + 3 * 4 - 6 / 3", 12.0),
        ("2^3^2", 512.0),
        ("-2^2", -4.0),
        ("(-2)^2", 4.0),
        ("2^-1", 0.5),
        ("10 - 4 - 3", 3.0),
        ("16 / 4 / 2", 2.0),
        ("g * theta^2", 12.0),
        ("ema(g, theta, 0.25)", 0.25 * 3 + 0.75 * 2),
        ("debias(g, 0.5)", 6.0),
        ("clip(g, -1, 1)", 1.0),
        ("clip(-g, -1, 1)", -1.0),
        ("where(g > theta, 1, 2)", 1.0),
        ("where(g <= theta, 1, 2)", 2.0),
        ("where(g != 3, 1, where(t == 1, 7, 8))", 7.0),
        ("where(2 <= g < 3, 1, 2) + where(2 < g <= 3, 10, 20) + where(3 != g < 9, 0, 100)", 112.0),
        (
            "where(1 < t <= 5, 1, 2) + where(theta < g == 3, 10, 20) + where(g > theta > 1, 0, 9)",
            12.0,
        ),
        ("sign(g) + sign(0 * g) + sign(-g)", 0.0),
        ("max(g, theta) - min(g, theta)", 1.0),
        ("abs(-g) + sqrt(g + 1) + exp(0 * g) + log(g / 3) + tanh(0 * g)", 6.0),
        ("norm(g) + rms(theta) + dot(g, theta) + sum(g) + mean(theta)", 16.0),
        ("stop_gradient(g)", 3.0),
        ("(1 - inf) * g", -math.inf),
        ("floor(g / 2) + floor(-g / 2) + cos(pi) + sin(pi / 2)", -1.0),
        ("mod(g + 5, 3) + 10 * mod(-g, 2)", 12.0),
    ],
)
def test_meaning(expression: str, expected: float) -> None:
    assert evaluate(expression) == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("x * t + 1", UNIFORM),
        ("k + x", SCALAR),
        ("sum(g)", SCALAR),
        ("norm(g) * x", SCALAR),
        ("g * x", TENSOR),
        ("m + k", TENSOR),
        ("where(x > 0, g, 1)", TENSOR),
        ("where(g > 0, 1, 2)", TENSOR),
        ("k'", SCALAR),
    ],
)
def test_extents_widen_by_themselves(expression: str, expected: object) -> None:
    assert kind(expression) == expected


def test_domains() -> None:
    program = read(
        "hyper a = 1\nhyper b = 0 in [-1, inf)\nhyper c = 1 in {0, 1}\nhyper d = 1/4 in (0, 2^-1]\n"
        "theta' = theta - a * b * c * d * g"
    )
    domains = {h.name: h.domain for h in program.hypers}
    assert domains == {
        "a": Interval(-math.inf, math.inf, True, True),
        "b": Interval(-1.0, math.inf, False, True),
        "c": Choice((0.0, 1.0)),
        "d": Interval(0.0, 0.5, True, False),
    }
    assert program.hyper("d").default == 0.25
    with pytest.raises(KeyError):
        program.hyper("e")


def test_learn_statements() -> None:
    program = read(
        "hyper a = 0.5 in [0, 1]\nhyper b = 0.5 in [0, 1)\nhyper lr = 0.1 in [0, inf)\n"
        "theta' = theta - lr * a * b * g\n"
        "learn a by sgd(lr = 1/2, momentum = 0.9, clip = 10) after 3\n"
        "learn b in [0.1, 0.9] by Adam\nlearn lr by MADA_Legacy\nlearn after 50"
    )
    assert program.learned == (
        Learned("a", "sgd", (("lr", 0.5), ("momentum", 0.9)), 10.0, Interval(0.0, 1.0), 3),
        Learned("b", "adam", (), None, Interval(0.1, 0.9), 50),
        Learned("lr", "mada_legacy", (), None, Interval(0.0, math.inf, False, True), 50),
    )


EQUATIONS = [
    "hyper lr = 0.1 in [0, 1]",
    "hyper beta = 0.9 in [0, 1)",
    "state m = 0",
    "state v = g^2",
    "h = g + theta",
    "m' = ema(m, h, beta)",
    "v' = ema(v, h^2, beta)",
    "update = debias(m', beta) / (sqrt(v') + 1e-8)",
    "theta' = theta - lr * update",
    "def twice(x) = 2 * x",
]


@given(st.permutations(EQUATIONS))
def test_the_order_of_statements_does_not_matter(order: list[str]) -> None:
    programs = [read("\n".join(EQUATIONS)), read("\n".join(order))]
    g = torch.tensor([0.3, -2.0], dtype=torch.float64)
    hypers = {"lr": 0.1, "beta": 0.9}
    results = []
    for program in programs:
        state = initial_state(program, g, g, hypers)
        results.append(step(program, g, g, state, hypers, 2))
    assert torch.equal(results[0].parameter, results[1].parameter)
    assert all(torch.equal(results[0].state[s], results[1].state[s]) for s in "mv")


OPTIONAL = ("#", "eval", "learn", "recovers", "misses", "otherwise", " ")


def test_every_statement_of_the_library_matters() -> None:
    """Leaving out any one statement is noticed, except options that only add."""
    chosen = random.Random(0)
    for name in library.list_specs():
        lines = library.open_source(name).text.splitlines()
        defining = [
            i for i, line in enumerate(lines)
            if " = " in line and not line.startswith(OPTIONAL)
        ]  # fmt: skip
        if lines[0].startswith("blend") or " = " in lines[0]:
            continue  # what a blend or a combination leaves unsaid is its members'
        for index in chosen.sample(defining, 5):
            text = "\n".join([*lines[:index], *lines[index + 1 :]])
            with pytest.raises(SpecError):
                library.read(Source(name, text))
