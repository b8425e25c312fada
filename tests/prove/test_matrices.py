"""Claims of rules with sections: what is proved, what is refuted, and what is left open."""

from __future__ import annotations

import contextlib
import random

import pytest
import torch

import optdsl
from optdsl.algebra.facts import facts
from optdsl.algebra.fix import fix
from optdsl.algebra.normal_form import Algebra
from optdsl.compose import blend_source
from optdsl.diagnostics import Source
from optdsl.ir.arrays import Array, elements
from optdsl.ir.builder import Builder
from optdsl.ir.evaluate import MATRICES, Code, Point
from optdsl.ir.numbering import alike
from optdsl.ir.program import Program, Value
from optdsl.ir.trajectories import Run, trajectory
from optdsl.ir.types import TENSOR, TypeMismatch, along
from optdsl.passes.specialize import in_kind
from optdsl.prove import Settlement, Verdict, settle, snippet
from optdsl.specifications import library

ELSEWHERE = "otherwise\n\ntheta' = theta - lr * g\n"


def rule(name: str, body: str, states: str = "", kind: str = "matrices") -> str:
    """A rule for matrices, with gradient descent for other tensors."""
    return f"""
optimizer {name}
  "no paper: a test"

hyper lr = 0.1 in [0, 1]
hyper b  = 0.5 in [0, 1]

for {kind}

{states}
theta' = theta - lr * ({body})

{ELSEWHERE}
"""


def settled(text: str, other: str, claim: str) -> tuple[Program, Settlement]:
    """How a claim about another rule is settled."""
    rules = (("Other", Source("other.opt", other)),)
    found = library.specification(Source("<text>", text + claim, None, rules), verify=False)
    return found.program, settle(found.program, found.claims[0])


ROWS = "state r : rows = 1\nr' = r\n"
# A body, states, another body, and whether the two are equal at b = 0.
CASES = [
    # What is simplified extends along fewer axes, and a sum of it has fewer terms.
    ("sum(r + b * g)", ROWS, "sum(r)", Verdict.REFUTED),
    ("sum(r + b * g)", ROWS, "cols * sum(r)", Verdict.TESTED),
    ("sum(r + b * g over rows)", ROWS, "sum(r over rows)", Verdict.TESTED),
    ("sum(r + b * g over cols)", ROWS, "r", Verdict.REFUTED),
    ("mean(r + b * g over rows)", ROWS, "mean(r over rows)", Verdict.TESTED),
    # Products do not commute, and are associative: no proof of that, and no difference.
    ("g @ transpose(g) @ g", "", "(g @ transpose(g)) @ g + b * g", Verdict.PROVED),
    ("g @ (transpose(g) @ g)", "", "(g @ transpose(g)) @ g + b * g", Verdict.TESTED),
    ("transpose(transpose(g))", "", "g + b", Verdict.TESTED),
    ("(identity(rows) + g @ transpose(g)) @ g", "", "g + g @ transpose(g) @ g", Verdict.TESTED),
    # Rows and columns.
    ("sum(g over cols)", "", "sum(g over rows)", Verdict.REFUTED),
    ("rows * g", "", "cols * g", Verdict.REFUTED),
    ("sum(diagonal(identity(rows)))", "", "sum(diagonal(identity(cols)))", Verdict.REFUTED),
    ("sum(identity(rows))", "", "rows", Verdict.TESTED),
    ("qr(g @ transpose(g), sum(g over cols)) @ g", "",
     "qr(g @ transpose(g), -sum(g over cols)) @ g", Verdict.REFUTED),
    ("inverse_root(g @ transpose(g) + identity(rows), 2) @ g", "",
     "inverse_root(g @ transpose(g) + identity(rows), 4) @ g", Verdict.REFUTED),
    ("bfloat16(g + g)", "", "bfloat16(2 * g) + b * g", Verdict.PROVED),
]  # fmt: skip


@pytest.mark.parametrize(("body", "states", "other", "verdict"), CASES)
def test_a_claim_about_matrices(body: str, states: str, other: str, verdict: Verdict) -> None:
    claim = "\nrecovers Other(b = b, lr = lr) at b = 0\n"
    _, found = settled(rule("Mine", body, states), rule("Other", other, states), claim)
    assert found.verdict is verdict, found.reason


def test_misses_is_the_opposite() -> None:
    claim = "\nmisses Other(lr = lr) at b = 0\n"
    for other, matrices in (("sum(g over cols)", "sum(g over rows)"), ("g", "g + 0 * theta")):
        _, found = settled(rule("Mine", matrices), rule("Other", other), claim)
        assert found.verdict is Verdict.REFUTED, found.reason
        assert "otherwise" in found.reason or other == "g"


def test_what_rounding_decides_is_no_difference() -> None:
    mine = "sign(sin(0.1 * g)^2 + cos(0.1 * g)^2 - 1)"
    _, found = settled(rule("Mine", mine), rule("Other", "0 * g"), "\nrecovers Other(lr = lr)\n")
    assert found.verdict is Verdict.TESTED
    assert "rounding may have decided" in found.reason


def test_a_claim_of_a_rule_without_sections_is_settled_for_each_kind() -> None:
    for kind in ("matrices", "stacked matrices", "flattened matrices"):
        plain = 'optimizer Other\n  "x"\nhyper lr = 0.1 in [0, 1]\n'
        plain += "theta' = theta - lr * (g / max(1, norm(g)))\n"
        text = rule("Mine", "g / max(1, norm(g over tensor))", kind=kind).partition("otherwise")[0]
        text += "otherwise\n\ntheta' = theta - lr * (g / max(1, norm(g)))\n"
        _, found = settled(text, plain, "\nrecovers Other(lr = lr)\n")
        assert found.verdict is Verdict.PROVED, found.reason


def test_a_norm_of_each_matrix_is_not_that_of_the_stack() -> None:
    plain = 'optimizer Other\n  "x"\nhyper lr = 0.1 in [0, 1]\n'
    plain += "theta' = theta - lr * g / max(1, norm(g))\n"
    text = rule("Mine", "g / max(1, norm(g))", kind="stacked matrices").partition("otherwise")[0]
    text += "otherwise\n\ntheta' = theta - lr * g / max(1, norm(g))\n"
    _, found = settled(text, plain, "\nrecovers Other(lr = lr)\n")
    assert found.verdict is Verdict.REFUTED
    assert found.difference is not None
    assert found.difference.run.shape is not None
    assert found.difference.run.shape[0] > 1


def test_a_wrong_claim_is_refuted_by_a_run_that_anyone_can_repeat(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = blend_source(("muon", "normuon")).text.partition("recovers")[0]
    source = Source(f"{tmp_path}/mine.opt", text + "recovers Muon at w = uniform\n", str(tmp_path))
    with open(source.name, "w") as file:
        file.write(source.text)
    found = library.specification(source, verify=False)
    wrong = settle(found.program, found.claims[0])
    assert wrong.verdict is Verdict.REFUTED
    assert wrong.kind == "matrices"
    assert wrong.difference is not None
    scope: dict[str, torch.Tensor] = {}
    lines = "\n".join(snippet(found.program, wrong))
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        exec(compile(lines, "<snippet>", "exec"), scope)
    for name, numbers in (("x", wrong.difference.left), ("y", wrong.difference.right)):
        expected = torch.tensor(numbers, dtype=torch.float64)
        torch.testing.assert_close(scope[name], expected, rtol=1e-9, atol=1e-9)


# --- parts of the proof ---------------------------------------------------------------------------


def test_identity_matrices_of_different_axes_are_not_one_value() -> None:
    builder = Builder()
    for axis in ("rows", "cols"):
        builder.emit("identity", type=along((axis, axis)))
    first, second = alike(builder.operations, {})
    assert first != second


@pytest.mark.parametrize("name", ["muon", "normuon", "adafactor"])
def test_fixing_hyperparameters_changes_no_run(name: str) -> None:
    program = library.read(library.open_source(name))
    for number, kind in enumerate(program.sections):
        alone = in_kind(program, program.sections, number)
        shape = None if kind == "otherwise" else (1, 2, 3)
        numbers = (0.5, -1.0, 2.0, 0.25, -3.0, 1.0)
        for fixed in ({}, {"weight_decay": 0.0}, {"lr": 0.0}, {"momentum": 0.0, "d": 1.0}):
            settings = {n: x for n, x in fixed.items() if n in program.defaults}
            hypers = tuple((program.defaults | settings).items())
            run = Run(hypers, numbers, (numbers[::-1], numbers), shape)
            found, expected = trajectory(fix(alone, settings), run), trajectory(alone, run)
            for x, y in zip(found, expected, strict=True):
                assert x == pytest.approx(y, rel=1e-12, abs=1e-14)


def test_what_is_fixed_keeps_its_axes() -> None:
    builder = Builder()
    r, g = builder.emit("state", attribute="r", type=along(("rows",))), builder.emit("gradient")
    product = builder.emit("mul", builder.emit("hyper", attribute="b"), g)
    total = builder.emit("sum_cols", builder.emit("add", r, product))
    new = builder.emit("sub", builder.emit("parameter"), total)
    program = library.read(Source("<text>", rule("Mine", "sum(r)", ROWS)))
    state = next(s for s in program.states if s.name == "r")
    zero = builder.constant(0.0)
    alone = Program(
        "Mine",
        (),
        program.hypers,
        (),
        builder.operations,
        (type(state)("r", state.type, zero, Value(r)),),
        new,
        kind="matrices",
    )
    found = fix(alone, {"b": 0.0})
    assert any(o.opcode == "spread" for o in found.operations)


@pytest.mark.parametrize(("mine", "verdict"), [("s", Verdict.PROVED), ("s + 0 * g", None)])
def test_a_sum_over_all_tensors_counts_elements(mine: str, verdict: Verdict | None) -> None:
    """A number of each tensor is one term of the sum, and a tensor of such numbers is many."""
    head = "hyper lr = 0.1 in [0, 1]\nstate s : scalar = 1\ns' = s + 1\n"
    text = 'optimizer {}\n  "x"\n' + head + "theta' = theta - lr * g * sum({} over all)\n"
    _, found = settled(
        text.format("Mine", mine), text.format("Other", "s"), "\nrecovers Other(lr = lr)\n"
    )
    assert found.verdict is (verdict or Verdict.REFUTED), found.reason
    one, b = "hyper b = 1 in [0, 1]\n", "s + b * g"
    other = text.format("Mine", b).replace("state", one + "state")
    _, found = settled(other, text.format("Other", "s"), "\nrecovers Other(lr = lr) at b = 0\n")
    assert found.verdict is Verdict.REFUTED, found.reason


# --- random programs ------------------------------------------------------------------------------

UNARY = (
    "neg", "sqrt", "abs", "sign", "sum", "mean", "sum_rows", "sum_cols", "mean_rows", "mean_cols",
    "sum_tensor", "mean_tensor", "transpose", "diagonal_rows", "diagonal_cols", "sum_all", "define",
)  # fmt: skip
BINARY = ("add", "sub", "mul", "div", "max", "matmul", "spread", "add", "sub", "mul")


def drawn(seed: int) -> Program:
    """A program of one random step after the other, with many equal values."""
    source, builder = random.Random(seed), Builder()
    values = [builder.emit(leaf) for leaf in ("gradient", "parameter", "size")]
    values += [builder.emit("length", attribute=axis) for axis in ("rows", "cols")]
    values += [builder.emit("identity", type=along((a, a))) for a in ("rows", "cols")]
    values += [builder.constant(x) for x in (0.0, 1.0, 2.0)]
    nothing = builder.emit("mul", builder.constant(0.0), values[0])
    values += [builder.emit("add", nothing, x) for x in values[1:5]]
    for number in range(60):
        opcode = source.choice((*UNARY, *BINARY, *BINARY))
        x = [source.choice(values) for _ in range(1 if opcode in UNARY else 2)]
        with contextlib.suppress(TypeMismatch):
            name = f"v{number}" if opcode == "define" else None
            values.append(builder.emit(opcode, *x, attribute=name))
            # The same numbers, at each index of a matrix.
            values.append(builder.emit("add", nothing, values[-1]))
    for value in values[:]:
        for opcode in ("sum", "sum_tensor", "mean_tensor", "sum_all", "transpose"):
            with contextlib.suppress(TypeMismatch):
                values.append(builder.emit(opcode, value))
    kept = builder.emit("add", builder.emit("parameter"), builder.constant(0.0))
    return Program("Drawn", (), (), (), builder.operations, (), kept, kind="stacked matrices")


@pytest.mark.parametrize("seed", range(25))
def test_values_with_one_form_are_equal(seed: int) -> None:
    """As tensors: what a form says of a matrix does not depend on how far a value extends."""
    program = drawn(seed)
    values = [Value(v) for v in range(len(program.operations))]
    forms = Algebra(10**7).forms(program, values, facts=facts(program), written=None)
    numbers: dict[object, list[tuple[float, ...]]] = {}
    draw = random.Random(seed)
    for shape in ((1, 2, 3), (2, 3, 2)):
        count = shape[0] * shape[1] * shape[2]
        theta, g = (Array(shape, tuple(draw.gauss(0, 1) for _ in range(count))) for _ in range(2))
        at = Point(theta, g, {}, {}, 1, MATRICES)
        found = Code(program, values, MATRICES).evaluated(at)
        for value in values:
            kind = program.type(value)
            if kind.condition:
                continue
            key = (shape, forms[value], len(kind.axes) == 2 and str(kind))
            whole = found[value] if len(kind.axes) == 2 else at.extended(found[value], TENSOR)
            numbers.setdefault(key, []).append(elements(whole))
    several = [same for same in numbers.values() if len(same) > 1]
    assert len(several) > 10
    for first, *others in several:
        for other in others:
            assert other == pytest.approx(first, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("modifier", ["radial_brake", "ema_nesterov"])
def test_infinities_of_which_a_factor_of_zero_makes_nan_refute_no_claim(modifier: str) -> None:
    """Muon's coefficients may be such that its matrices overflow."""
    optdsl.load(f"muon with {modifier}")


@pytest.mark.parametrize("length", ["rows - 1", "rows / 2", "20", "10^6", "10^12"])
def test_axes_that_small_matrices_lack_are_told_and_not_run(length: str) -> None:
    """Such lengths are legal, of the matrices of a model; and no length may exhaust the memory."""
    declared = f"axis k = {length}\nstate P : rows * k = 0\nP' = P + sum(g over cols)\n"
    mine = rule("Mine", "g + 0 * sum(P')", declared)
    _, found = settled(mine, rule("Other", "g", ""), "recovers Other")
    assert found.verdict is Verdict.TESTED
    assert "left out, whose small matrices lack an axis that a rule declares" in found.reason
    if length == "rows / 2":
        _, found = settled(mine, rule("Other", "2 * g", ""), "recovers Other")
        assert found.verdict is Verdict.REFUTED
