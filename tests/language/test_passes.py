"""Passes change the text of a program and no bit of what it computes."""

from collections.abc import Callable

import pytest
import torch

from optdsl.diagnostics import Source
from optdsl.differentiate import differentiate, reverse
from optdsl.interpret import Step, initial_state, step
from optdsl.ir.domain import Interval
from optdsl.ir.program import Program
from optdsl.ir.types import UNIFORM
from optdsl.ir.verify import verify
from optdsl.passes.eliminate_dead import eliminate_dead
from optdsl.passes.fold_constants import fold_constants
from optdsl.passes.forward_names import forward_names
from optdsl.passes.pipeline import PIPELINE, run_passes
from optdsl.passes.scalarize import scalarize
from optdsl.passes.simplify import simplify
from optdsl.specifications import library
from tests.oracles import problems
from tests.oracles.rules import ELEMENTWISE

SPECS = ELEMENTWISE
HARD = [0.0, -0.0, 1.0, -1.0, 5e-324, 1e-300, 1e300, float("inf"), float("-inf"), float("nan")]


def derived(name: str) -> Program:
    lowered = library.read(library.open_source(name))
    smooth = [h.name for h in lowered.hypers if isinstance(h.domain, Interval)]
    return differentiate(lowered, smooth)


def from_text(equations: str) -> Program:
    return library.read(
        Source("t.opt", f"optimizer A\nhyper x = 0.3 in (-inf, inf)\n{equations}\n")
    )


def run(program: Program) -> list[Step]:
    """Three steps on numbers among which are all the hard ones."""
    generator = torch.Generator().manual_seed(0)
    hard = torch.tensor(HARD, dtype=torch.float64)
    theta = torch.randn(len(HARD), generator=generator, dtype=torch.float64)
    hypers = {h.name: h.default for h in program.hypers}
    steps: list[Step] = []
    state = initial_state(program, theta, hard.roll(1), hypers)
    for t in range(1, 4):
        steps.append(step(program, theta, hard.roll(t), state, hypers, t))
        theta, state = steps[-1].parameter, steps[-1].state
    return steps


def assert_same_bits(before: Program, after: Program) -> None:
    for x, y in zip(run(before), run(after), strict=True):
        pairs = [(x.parameter, y.parameter)]
        pairs += [(x.state[k], y.state[k]) for k in x.state]
        pairs += [(x.tangents[k], y.tangents[k]) for k in x.tangents]
        for a, b in pairs:
            assert torch.equal(a.isnan(), b.isnan())
            known = ~a.isnan()
            assert torch.equal(a[known].view(torch.int64), b[known].view(torch.int64))


@pytest.mark.parametrize("name", SPECS)
def test_the_pipeline_preserves_every_bit(name: str) -> None:
    program = derived(name)
    after = run_passes(program)
    assert len(after.operations) < len(program.operations)
    assert_same_bits(program, after)


@pytest.mark.parametrize("name", SPECS)
def test_the_pipeline_has_nothing_left_to_do(name: str) -> None:
    once = run_passes(derived(name))
    assert run_passes(once) == once


@pytest.mark.parametrize("rewrite", PIPELINE, ids=lambda p: p.__name__)
@pytest.mark.parametrize("name", SPECS)
def test_each_pass_alone_preserves_every_bit(
    name: str, rewrite: Callable[[Program], Program]
) -> None:
    assert_same_bits(derived(name), verify(rewrite(derived(name))))


def opcodes(program: Program) -> list[str]:
    return [o.opcode for o in program.operations]


def test_identities_that_hold_for_every_bit_are_used() -> None:
    program = from_text("theta' = --(1 * (g / 1)^1 - 0) * (-theta) + (-1) * g")
    after = eliminate_dead(simplify(forward_names(program)))
    assert sorted(opcodes(after)) == ["gradient", "mul", "neg", "parameter", "sub"]
    assert_same_bits(program, after)


@pytest.mark.parametrize(
    "kept", ["g + 0", "0 * g", "g - g", "g / g", "(theta + g) - g", "theta + (-1) * theta"]
)
def test_identities_of_the_reals_are_not_used(kept: str) -> None:
    program = from_text(f"theta' = {kept}")
    after = run_passes(program)
    assert set(opcodes(after)) & {"add", "sub", "mul", "div"}
    assert_same_bits(program, after)


def test_constants_fold_in_double_precision_and_never_over_tensors() -> None:
    program = run_passes(from_text("theta' = theta - (1 / 3 + 2^0.5) * g * 2 * 3"))
    constants = [o.attribute for o in program.operations if o.opcode == "constant"]
    assert sorted(map(float, constants)) == [1 / 3 + 2**0.5, 2.0, 3.0]
    undefined = fold_constants(from_text("theta' = theta - 0 / 0 * g"))
    assert "div" in opcodes(undefined)


def test_equal_operations_are_one() -> None:
    program = run_passes(from_text("a = g * x\nb = g * x\ntheta' = a + b"))
    assert opcodes(program).count("mul") == 1


@pytest.mark.parametrize("name", SPECS)
def test_scalarized_rule_is_the_rule_on_one_element(name: str) -> None:
    rule = library.read(library.open_source(name))
    scalar = run_passes(scalarize(rule))
    assert all(o.type.extent is UNIFORM.extent for o in scalar.operations)
    hypers = {h.name: h.default for h in rule.hypers}
    theta = {
        True: torch.tensor(0.3, dtype=torch.float64),
        False: torch.tensor([0.3], dtype=torch.float64),
    }
    state: dict[bool, dict[str, torch.Tensor]] = {}
    for t in range(1, 6):
        g = torch.tensor(0.7 - 0.4 * t, dtype=torch.float64)
        for is_scalar, program in ((True, scalar), (False, rule)):
            gradient = g if is_scalar else g.reshape(1)
            if t == 1:
                state[is_scalar] = initial_state(program, theta[is_scalar], gradient, hypers)
            after = step(program, theta[is_scalar], gradient, state[is_scalar], hypers, t)
            theta[is_scalar], state[is_scalar] = after.parameter, after.state
        assert theta[True].item() == theta[False].item()


def test_scalarized_reductions_are_those_of_one_element() -> None:
    rule = from_text("theta' = theta - norm(g) * mean(theta) + sum(g) + rms(g)")
    hypers = {"x": 0.3}
    g, theta = torch.tensor([-0.5]).double(), torch.tensor([2.0]).double()
    expected = step(rule, theta, g, {}, hypers, 1).parameter
    got = step(scalarize(rule), theta.squeeze(), g.squeeze(), {}, hypers, 1).parameter
    assert got.item() == pytest.approx(expected.item(), rel=1e-15)


@pytest.mark.parametrize("name", SPECS)
def test_reverse_accumulation_agrees_with_forward_mode(name: str) -> None:
    """Both read the same table; the order of their products is all that may differ."""
    lowered = library.read(library.open_source(name))
    smooth = [h.name for h in lowered.hypers if isinstance(h.domain, Interval)]
    if not reverse.applies(lowered, smooth):
        assert name in {
            "adaptivity",
            "amsgrad",
            "lamb",
            "lars",
            "memory",
            "schedule_free_adamw",
            "sgd",
        }
        return
    together, found = run_smoothly(differentiate(lowered, smooth)), {}
    for hyper in smooth:
        found |= run_smoothly(differentiate(lowered, [hyper]))
    for hyper, tangent in together.items():
        scale = float(found[hyper].abs().max()) + 1e-300
        torch.testing.assert_close(tangent, found[hyper], rtol=1e-9, atol=1e-12 * scale)


def run_smoothly(program: Program) -> dict[str, torch.Tensor]:
    """The tangents after two steps, at hyperparameters inside their domains."""
    generator = torch.Generator().manual_seed(0)
    theta, *gradients = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    hypers = problems.interior_hypers(program, generator)
    state = initial_state(program, theta, gradients[0], hypers)
    after = step(program, theta, gradients[0], state, hypers, 1)
    return step(program, after.parameter, gradients[1], after.state, hypers, 2).tangents
