"""Every rule that the batteries of other directories leave out, on every backend.

Steps are those of the interpreter, in float64 and float32; a training that is saved and loaded goes
on to the bit; hyper-gradients are autograd's; and a rule can be modified and blended.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.differentiate import differentiate
from tests.oracles import problems
from tests.oracles.rules import OTHERS, PROGRAMS, SECTIONED, STAGED
from tests.oracles.running import Eager, Interpreter, jacobian, read_spec, warmed_up

pytestmark = pytest.mark.broad(6)

STEPS = 8
BACKENDS = ["eager", "auto"]
SHAPES: list[tuple[int, ...]] = [(3, 4), (5,), ()]
# Rounding of float32, and the same of float64 with a wide margin for sums in another order.
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-4}

# At a bound a derivative is that of either side, and autograd takes the mean of the two.
BOUNDS_FAR_AWAY = {"rprop": {"step_size_min": 1e-9, "step_size_max": 1e9}}


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = problems.seeded(0)
    return [nn.Parameter(problems.randn(generator, *shape).to(dtype)) for shape in SHAPES]


def train(optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    held = [p for group in optimizer.param_groups for p in group["params"]]
    for step in steps:
        generator = problems.seeded(100 + step)
        for p in held:
            p.grad = problems.randn(generator, *p.shape).to(p.dtype)
        optimizer.step()
    return [p.detach() for p in held]


@pytest.mark.parametrize("rule", [*OTHERS, *SECTIONED, *STAGED])
def test_a_first_gradient_of_zero_leaves_numbers(rule: str) -> None:
    """Layers behind weights that start at zero have such gradients."""
    held = parameters(torch.float32)
    optimizer = optdsl.load(rule, backend="eager")(held)
    for scale in (0.0, 1e-12, 1.0):
        for p in held:
            p.grad = torch.full_like(p, scale)
        optimizer.step()
    assert all(p.isfinite().all() for p in held)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", OTHERS)
def test_steps_are_those_of_the_interpreter(rule: str, backend: str, dtype: torch.dtype) -> None:
    hypers = {h.name: h.default for h in PROGRAMS[rule].hypers}
    expected = []
    for p, number in zip(parameters(dtype), range(len(SHAPES)), strict=True):
        gradients = []
        for step in range(STEPS):
            generator = problems.seeded(100 + step)
            drawn = [problems.randn(generator, *shape) for shape in SHAPES]
            gradients.append(drawn[number].to(dtype).double())
        start = p.detach().double()
        expected.append(warmed_up(Interpreter(PROGRAMS[rule]), start, gradients, hypers)[0])
    found = train(optdsl.load(rule, backend=backend)(parameters(dtype)), range(STEPS))
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x.double(), y, rtol=BOUNDS[dtype], atol=BOUNDS[dtype])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", [*OTHERS, *SECTIONED, *STAGED])
def test_a_training_that_is_resumed_goes_on_to_the_bit(rule: str, backend: str) -> None:
    cls = optdsl.load(rule, backend=backend)
    whole = train(cls(parameters(torch.float32)), range(STEPS))
    first = cls(parameters(torch.float32))
    train(first, range(3))
    copied = copy.deepcopy([p for group in first.param_groups for p in group["params"]])
    second = cls(copied)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert all(map(torch.equal, train(second, range(3, STEPS)), whole))


@pytest.mark.parametrize("rule", OTHERS)
def test_hyper_gradients_are_autograds(rule: str) -> None:
    """The derivative of a step by every continuous hyperparameter, where the states are given."""
    program, generator = read_spec(rule), problems.seeded(3)
    hypers = problems.interior_hypers(program, generator) | BOUNDS_FAR_AWAY.get(rule, {})
    theta, g = problems.randn(generator, 2, 3), problems.randn(generator, 2, 3)
    gradients = [problems.randn(generator, 2, 3) for _ in range(6)]
    plain = Interpreter(program)
    theta, state, t = warmed_up(plain, theta, gradients, hypers)
    names = problems.continuous(program)
    differentiated = differentiate(program, names)
    tangents = {
        f"tangent/{name}/{s.name}": torch.zeros_like(state[s.name])
        for name in names
        for s in program.states
    }
    for runner in (Interpreter(differentiated), Eager(differentiated)):
        held = runner.start(theta, g, hypers) | tangents | state
        found = runner.step(theta, g, held, hypers, t + 1).tangents
        for name in names:

            def after(x: Tensor, name: str = name) -> Tensor:
                return plain.step(theta, g, state, {**hypers, name: x}, t + 1).parameter

            expected = jacobian(after, hypers[name])
            torch.testing.assert_close(found[name], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("rule", OTHERS)
def test_a_rule_is_modified_and_blended(rule: str) -> None:
    """With a gradient that nothing clips it is the rule, and so it is at its corner of a blend."""
    plain = optdsl.load(rule, backend="eager")
    modified = optdsl.load(f"{rule} with clip_value(limit = 1e9)", backend="eager")
    blended = optdsl.blend(rule, "adam", backend="eager", learn=False)
    (weights,) = blended.compiled.program.simplexes
    corner: dict[str, Any] = dict(zip(weights.hypers, (1.0, 0.0), strict=True))
    # A shared hyperparameter has one default.
    shared = {h.name: h.default for h in blended.compiled.program.hypers}
    own: dict[str, Any] = {h.name: shared.get(h.name, h.default) for h in PROGRAMS[rule].hypers}
    expected = train(plain(parameters(), **own), range(STEPS))
    for optimizer in (modified(parameters(), **own), blended(parameters(), **corner)):
        assert all(map(torch.equal, train(optimizer, range(STEPS)), expected))
