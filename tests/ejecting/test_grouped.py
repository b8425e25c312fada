"""Choices, conditions and norms in files that work on many tensors at once, against torch."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import optdsl
from optdsl.backends.standalone.lines import broken
from tests.ejecting.helpers import ejected, executed, parameters, train

CASES: list[tuple[str, Any, dict[str, Any]]] = [
    ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1}),
    ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.5, "dampening": 0.5}),
    ("sgd", torch.optim.SGD, {"lr": 0.1}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 0.01, "momentum": 0.9, "centered": True}),
    ("rmsprop", torch.optim.RMSprop, {"lr": 0.01, "weight_decay": 0.1}),
    ("nadam", torch.optim.NAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
    ("nadam", torch.optim.NAdam, {"weight_decay": 0.1}),
    ("radam", torch.optim.RAdam, {"weight_decay": 0.1, "betas": (0.9, 0.8)}),
    ("rprop", torch.optim.Rprop, {"lr": 0.01}),
]


@pytest.fixture
def double() -> Iterator[None]:
    """Torch keeps NAdam's product of momenta in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(("name", "reference", "options"), CASES)
def test_against_torch(name: str, reference: Any, options: dict[str, Any]) -> None:
    """30 steps in float64, in which some tensors miss a step."""
    runs = []
    own = dict(options)
    if "betas" in own:
        own["beta1"], own["beta2"] = own.pop("betas")
    namespace = executed(optdsl.eject(name))
    assert "alike" in namespace
    for cls, given in ((reference, options), (namespace[namespace["NAME"]], own)):
        held = parameters(torch.float64)
        optimizer = cls(held, **given)
        for step in range(30):
            for place, p in enumerate(held):
                p.grad = torch.sin(p.detach() + step) if step % 5 != place else None
            optimizer.step()
        runs.append((optimizer, held))
    for p, q in zip(runs[0][1], runs[1][1], strict=True):
        torch.testing.assert_close(q, p, rtol=1e-11, atol=1e-11)
    check_memory(*runs[1])


def check_memory(optimizer: Any, held: list[torch.nn.Parameter]) -> None:
    """No two of parameters, gradients and states share memory."""
    every = [x for p in held for x in (p, p.grad, *optimizer.state[p].values()) if x is not None]
    assert len({x.data_ptr() for x in every}) == len(every)


def test_norms_of_each_tensor() -> None:
    """LAMB by hand, also of a parameter that is zero, and of one whose update is zero."""
    text = optdsl.eject("lamb")
    assert text.count("torch._foreach_norm(") == 2
    namespace = executed(text)
    held = parameters(torch.float64)
    held[1].data.zero_()
    optimizer = namespace[namespace["NAME"]](held, lr=0.1, weight_decay=0.0)
    expected = [p.detach().clone() for p in held]
    moments = [[torch.zeros_like(p), torch.zeros_like(p)] for p in held]
    for step in range(1, 9):
        for place, (p, x, own) in enumerate(zip(held, expected, moments, strict=True)):
            p.grad = g = torch.sin(x + step) if place != 2 else torch.zeros_like(x)
            own[0] = 0.9 * own[0] + 0.1 * g
            own[1] = 0.999 * own[1] + 0.001 * g * g
            root = (own[1] / (1 - 0.999**step)).sqrt() + optimizer.defaults["eps"]
            u = own[0] / (1 - 0.9**step) / root
            scales = float(x.norm()), float(u.norm())
            x -= 0.1 * (scales[0] / scales[1] if all(scales) else 1.0) * u
        optimizer.step()
    for p, x in zip(held, expected, strict=True):
        torch.testing.assert_close(p.detach(), x, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("modifier", ["lookahead", "ema_weights", "tail_average"])
def test_averages_of_infinite_parameters_are_infinite(modifier: str) -> None:
    p = torch.nn.Parameter(torch.tensor([float("inf"), 1.0]))
    optimizer = ejected(f"adamw with {modifier}")([p])
    for _ in range(6):
        p.grad = torch.ones(2)
        optimizer.step()
    assert p[0] == float("inf")
    assert not any(torch.isnan(x[0]) for x in optimizer.state[p].values() if x.dim())


NAMES = ("adan", "lookahead", "tail_average", "cautious", "clip_norm", "ema_nesterov")


@pytest.mark.parametrize("name", NAMES)
def test_states_have_memory_of_their_own(name: str) -> None:
    cls = ejected(name if name == "adan" else f"adamw with {name}")
    held = parameters(torch.float64)
    optimizer = cls(held)
    for _ in range(3):
        train(optimizer, held, 1)
        check_memory(optimizer, held)


LONG = """\
optimizer LongNames
  "A side of a choice that is one number of each tensor, with a long name."

hyper lr   = 0.1 in [0, 1]
hyper mode = 1   in {0, 1}

state second_moment_of_gradients = g
state root : scalar              = 0

root'                      = tanh(norm(second_moment_of_gradients))
second_moment_of_gradients' = where(mode == 1, rms(second_moment_of_gradients * theta), theta)
theta'                     = theta - lr * second_moment_of_gradients' * root'
"""


NUMBERS = """\
optimizer NumbersOfTensors
  "Sums of a number of each tensor, or of a product of two, and the tensor's elements."

hyper lr = 0.1 in [0, 1]

state a = 0.3
state b = 0

a'     = ema(mean(a * g), g, 0.7)
b'     = mean(a) * rms(g) + theta
theta' = 3 * lr * norm(g) + theta - lr * b'
"""


@pytest.mark.parametrize("text", [LONG, NUMBERS])
def test_rules_with_numbers_of_each_tensor(text: str, tmp_path: Any) -> None:
    path = tmp_path / "own.opt"
    path.write_text(text)
    runs = []
    for cls in (optdsl.load(path, backend="eager"), ejected(path)):
        held = parameters(torch.float64)
        optimizer = cls([{"params": held[:2]}, {"params": held[2:], "lr": 0.2}])
        if "mode" in optimizer.defaults:
            optimizer.param_groups[1]["mode"] = 0.0
        train(optimizer, held, 4)
        runs.append(held)
    for p, q in zip(*runs, strict=True):
        torch.testing.assert_close(q, p, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "line",
    [
        "condition = torch.clamp(gradient, max=bound) > (other if t < 4 else torch.zeros(3, 4))",
        "choice = [x.expand_as(theta) for x, theta in zip(means, theta, strict=True)]",
        "means = torch.mean(some_tensor_with_a_name, some_axis_with_a_name).clone()",
        "means = torch.mean(some_tensor, some_axis).expand_as(another_tensor_with_a_name, theta)",
        "torch._foreach_add_([x * two for x in exp_avg], gradients, alpha=one_minus_beta1)",
        "pair = (some_tensor_with_a_long_name, another_tensor_with_a_long_name)",
    ],
)
def test_long_statements_mean_on_several_lines_what_they_did(line: str) -> None:
    assert ast.dump(ast.parse(broken(line, 40))) == ast.dump(ast.parse(line))
