"""A specification is data: whatever it says, it is refused or computes, and never executes."""

import inspect
import math
from pathlib import Path

import pytest
import torch

import optdsl
from optdsl.diagnostics import Source, SpecError
from optdsl.prove.equality import equal
from optdsl.specifications import library

pytestmark = pytest.mark.broad(3)


def stepped(text: str, **hypers: float) -> torch.Tensor:
    """The parameter after one step from 2 with gradient 3."""
    parameter = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    optimizer = optdsl.compile(text)([parameter], **hypers)
    parameter.grad = torch.tensor([3.0], dtype=torch.float64)
    optimizer.step()
    return parameter.detach()


@pytest.mark.parametrize(
    "citation",
    [
        "''' import os '''",
        "\\",
        "\\N{BULLET} \\x41 \\u0041 \\",
        "{0} %s {__import__}",
        "é 漢 \u202e right to left",
        "# no comment",
        "",
    ],
)
def test_a_citation_is_only_text(citation: str) -> None:
    text = f'optimizer A\n  "{citation}"\ntheta\' = theta - g\n'
    assert stepped(text).item() == -1
    assert citation in str(optdsl.compile(text).__doc__)


NAMES = [
    "torch", "math", "Tensor", "sign", "divide", "power", "step", "initialize", "m_next", "_",
    "__import__", "__builtins__", "__debug__", "print", "float", "abs", "t_", "self", "hypers",
    "lambda", "def_", "return", "None", "True", "match", "theta_next", "x", "state", "type",
    "params", "lr", "inspect", "torch_2",
]  # fmt: skip


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"lr", "state"}])
def test_an_equation_may_be_called_anything(name: str) -> None:
    text = (
        f"optimizer A\nhyper lr = 0.5 in [0, 1]\nstate m = 0\nm' = m + sign(g)\n"
        f"{name} = 2 * g + 2 * g^2\ntheta' = theta - lr * {name} - {name} * m'"
    )
    assert stepped(text).item() == 2 - 0.5 * 24 - 24


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"m_next", "lr", "state"}])
def test_a_hyperparameter_works_or_is_refused_by_name(name: str) -> None:
    text = (
        f"optimizer A\nhyper {name} = 0.5 in [0, 1]\nstate m = 0\nm' = m + sign(g)\n"
        f"theta' = theta - {name} * m' - (0.1 / (1 - {name}))"
    )
    try:
        optdsl.compile(text)
    except SpecError as error:
        assert f"`{name}` cannot be defined" in str(error)  # noqa: PT017
        assert name in {"lambda", "return", "None", "True", "params", "__debug__"}
    else:
        assert stepped(text, **{name: 0.25}).item() == pytest.approx(2 - 0.25 - 0.1 / 0.75)


@pytest.mark.exhaustive
def test_what_optimizers_take_and_keep_is_reserved_or_works() -> None:
    """Arguments of every optimizer, keys of every parameter group, and names like these."""
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = optdsl.compile("optimizer A\ntheta' = theta - g")([parameter])
    taken = set(inspect.signature(type(optimizer)).parameters) | set(optimizer.param_groups[0])
    taken |= {"param_names", "initial_lr", "betas", "foreach", "fused", "capturable"}
    for name in taken:
        text = f"optimizer A\nhyper {name} = 0.5 in [0, 1]\ntheta' = theta - {name} * g"
        with pytest.raises(SpecError, match=f"`{name}` cannot be defined"):
            optdsl.compile(text)
        like = text.replace(name, f"{name}_")
        assert stepped(like, **{f"{name}_": 0.25}).item() == 2 - 0.75
    others = {name for name in dir(optimizer) if not name.startswith("_")}
    for name in (others | {"param", "params_1", "group", "closure"}) - taken - {"state", "eval"}:
        text = f"optimizer A\nhyper {name} = 0.5 in [0, 1]\ntheta' = theta - {name} * g"
        assert stepped(text, **{name: 0.25}).item() == 2 - 0.75


@pytest.mark.parametrize("name", [n for n in NAMES if n not in {"lr", "state"}])
def test_a_state_works_or_is_refused_by_name(name: str) -> None:
    text = f"optimizer A\nstate {name} = 0\n{name}' = {name} + sign(g)\ntheta' = theta - {name}'"
    if name == "step":
        with pytest.raises(SpecError, match="`step` cannot be defined"):
            optdsl.compile(text)
    else:
        assert stepped(text).item() == 1


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("1 / 0", math.inf),
        ("-1 / 0", -math.inf),
        ("1 / (0 * -1)", -math.inf),
        ("0 / 0", math.nan),
        ("x / 0", math.inf),
        ("sqrt(-x)", math.nan),
        ("log(0 * x)", -math.inf),
        ("log(-x)", math.nan),
        ("exp(1000 * x)", math.inf),
        ("(-x)^0.5", math.nan),
        ("10^(400 * x)", math.inf),
        ("(-10)^401", -math.inf),
        ("(0 * x)^-1", math.inf),
        ("(0 * -x)^-1", -math.inf),
        ("max(x, 0 / (0 * x))", math.nan),
        ("min(0 / (0 * x), x)", math.nan),
        ("sign(0 / (0 * x))", math.nan),
        ("abs(-x)", 1.0),
        ("tanh(1000 * x)", 1.0),
        ("where(x > 0, 3, 1 / 0)", 3.0),
        ("inf - inf", math.nan),
    ],
)
def test_host_arithmetic_is_ieee_and_never_raises(expression: str, expected: float) -> None:
    text = f"optimizer A\nhyper x = 1 in (-inf, inf)\ntheta' = 0 * theta + ({expression})"
    assert stepped(text).item() == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("hyper", "expression"),
    [
        ("1e-200 in (0, inf)", "1 / (x * x)"),
        ("1e17 in (0, inf)", "1 / (1 - exp(-1 / x))"),
        (f"{1 - 2**-53} in [0, 1)", "1 / (1 - x^0.1)"),
        ("1e-200 in (0, inf)", "-log(x * x)"),
        ("1e200 in (0, inf)", "1 / (1 / (x * x))"),
        ("1e-300 in (0, 1)", "1 / x^2"),
        ("5e-324 in (0, 1)", "1 / (x / 2)"),
    ],
)
def test_what_underflows_or_rounds_to_zero_divides_as_zero(hyper: str, expression: str) -> None:
    """The bounds exclude zero, floating-point arithmetic reaches it."""
    text = f"optimizer A\nhyper x = {hyper}\ntheta' = 0 * theta + ({expression})"
    assert stepped(text).item() == math.inf


def test_bias_correction_holds_next_to_one() -> None:
    text = f"optimizer A\nhyper b = {1 - 2**-53} in [0, 1)\ntheta' = debias(g, b)"
    assert stepped(text).item() == 3 * 2.0**53


@pytest.mark.exhaustive
def test_thousands_of_mistakes_are_a_hundred_diagnostics() -> None:
    text = "optimizer A\n" + "".join(f"e{i} = {' + '.join(['q'] * 20)}\n" for i in range(900))
    with pytest.raises(SpecError) as caught:
        optdsl.compile(text + "theta' = theta")
    assert len(caught.value.diagnostics) == 100


@pytest.mark.parametrize("after", ["1e999", "1.5"])
def test_steps_that_are_no_whole_number(after: str) -> None:
    header = "optimizer A\nhyper lr = 0.1 in [0, 1]\ntheta' = theta - lr * g\n"
    for learn in (f"learn lr by SGD after {after}", f"learn lr by SGD\nlearn after {after}"):
        with pytest.raises(SpecError, match="number"):
            optdsl.compile(header + learn)


def test_text_that_is_no_unicode_and_text_that_steers_a_terminal() -> None:
    with pytest.raises(SpecError, match="not valid Unicode"):
        optdsl.compile('optimizer A\n "\ud800"\ntheta\' = theta - g')
    with pytest.raises(SpecError) as caught:
        optdsl.compile("optimizer A\ntheta' = theta - g \x1b[2J")
    assert "\x1b[2J" not in str(caught.value).split("\n", 1)[1]


def test_infinity_is_no_parameter_of_a_function() -> None:
    with pytest.raises(SpecError, match="`inf` cannot be defined"):
        optdsl.compile("optimizer A\ndef f(inf) = inf + 1\ntheta' = theta - f(g)")


def test_deep_and_wide_texts_are_refused_in_bounded_time() -> None:
    header = "optimizer A\ntheta' = theta - "
    for hostile in (
        "(" * 20_000,
        "-" * 5_000 + "g",
        "g" + " + g" * 5_000,
        "g" + "^g" * 5_000,
    ):
        with pytest.raises(SpecError, match=r"syntax|too-deep"):
            optdsl.compile(header + hostile)
    chain = "optimizer A\n" + "".join(f"x{i} = x{i + 1}\n" for i in range(900))
    assert stepped(chain + "x900 = g\ntheta' = theta - x0").item() == -1
    calls = "".join(f"def f{i + 1}(x) = f{i}(x)\n" for i in range(500))
    with pytest.raises(SpecError, match="too-large"):
        optdsl.compile("optimizer A\ndef f0(x) = x\n" + calls + "theta' = theta - f500(g)")


def test_functions_that_call_each_other_are_refused() -> None:
    text = "optimizer A\ndef f(x) = h(x)\ndef h(x) = f(x)\ntheta' = theta - f(g)"
    with pytest.raises(SpecError, match="calls itself"):
        optdsl.compile(text)


def test_nul_and_control_characters_are_reported() -> None:
    with pytest.raises(SpecError, match="syntax"):
        optdsl.compile("optimizer A\ntheta' = theta \x00 - g")


def test_a_rule_learned_by_itself_is_refused(tmp_path: object) -> None:
    text = "optimizer A\nhyper lr = 1 in [0, 2]\ntheta' = theta - lr * g\nlearn lr by A(lr = 1)"
    with pytest.raises(SpecError, match="unknown rule `A`"):
        optdsl.compile(text)


# --- blends and claims --------------------------------------------------------------------------


def test_too_many_claims_are_refused() -> None:
    text = "optimizer A\nhyper lr = 0.1 in [0, 1]\ntheta' = theta - lr * g\n"
    with pytest.raises(SpecError, match="makes 101 claims"):
        library.read(Source("a.opt", text + "recovers SGD\n" * 101))


def test_expressions_that_explode_when_multiplied_out_are_settled_all_the_same() -> None:
    """(a + b + c + d)^8 has 165 terms, and its square 4,845: products stay products."""
    power = "".join(f"x{i} = (x{i - 1} + {i} * g * theta)^8\n" for i in range(1, 12))
    text = (
        "optimizer A\nhyper lr = 0.1 in [0, 1]\nx0 = g + theta + g * theta + 1\n"
        + power
        + "theta' = theta - lr * tanh(x11 * x10 + x9)\n"
    )
    twin = text.replace("x11 * x10 + x9", "x9 + x10 * x11")
    left, right = (library.read(Source("a.opt", t)) for t in (text, twin))
    assert equal(left, right)
    assert not equal(left, library.read(Source("a.opt", text.replace("+ x9", "- x9"))))


@pytest.mark.exhaustive
def test_a_blend_that_outgrows_the_limit_is_refused(tmp_path: Path) -> None:
    lines = [f"x{i} = tanh(x{i - 1} * {i}.5 + g)" for i in range(1, 480)]
    for name in "ABCDEFGHIJKLMNO":
        text = "\n".join([f"optimizer {name}", "hyper lr = 0.1 in [0, 1]", f"x0 = g * {ord(name)}",
                          *lines, "theta' = theta - lr * x479", ""])  # fmt: skip
        (tmp_path / f"{name}.opt").write_text(text)
    names = ", ".join("ABCDEFGHIJKLMNO")
    mixture = " + ".join(f"w.{n} * {n}.theta'" for n in "ABCDEFGHIJKLMNO")
    path = tmp_path / "all.opt"
    path.write_text(
        f"blend All\nuse {names}\nhyper w = uniform on simplex({names})\ntheta' = {mixture}\n"
    )
    with pytest.raises(SpecError, match="too-large"):
        library.read(library.open_source(path))
