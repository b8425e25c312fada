"""Hyper-gradients beside factorizations, whose arguments are held constant."""

from __future__ import annotations

import pytest
import torch

from optdsl import SpecError, compiler, interpret
from optdsl.diagnostics import Source
from optdsl.report.specification import describe
from optdsl.specifications import library

TEXT = """
optimizer T
  "no paper: a test"

hyper lr   = 0.1 in [0, 1]
hyper beta = 0.6 in [0, 1]

learn beta by SGD(lr = 0.1)

for matrices

state L : rows * rows = identity(rows)
state m               = 0

L'     = ema(L, g @ transpose(g), beta)
m'     = ema(m, g, {decay})
theta' = theta - lr * {body} @ m'

otherwise

state m = 0

m'     = ema(m, g, beta)
theta' = theta - lr * m'
"""
BODIES = [
    "{0}eigenvectors(L'){1}",
    "{0}inverse_root(L', 4){1}",
    "{0}qr(L', sum(g over cols)){1}",
]


def source(body: str, decay: str = "beta") -> Source:
    return Source("<text>", TEXT.format(body=body, decay=decay))


@pytest.mark.parametrize("body", BODIES)
def test_the_argument_of_a_factorization_is_a_constant(body: str) -> None:
    """Against autograd of the rule with `stop_gradient` around the factorization."""
    written = compiler.derive(source(body.format("stop_gradient(", ")")))
    plain = compiler.derive(source(body.format("", "")))
    generator = torch.Generator().manual_seed(0)
    theta, g, start, r = (
        torch.randn(3, 4, dtype=torch.float64, generator=generator) for _ in range(4)
    )
    beta = torch.tensor(0.6, dtype=torch.float64, requires_grad=True)
    state = interpret.initial_state(plain, theta, start, {"lr": 0.1, "beta": 0.6})
    rule = library.read(source(body.format("stop_gradient(", ")")))
    after = interpret.step(rule, theta, g, state, {"lr": 0.1, "beta": beta}, 2).parameter
    (expected,) = torch.autograd.grad((after * r).sum(), beta)
    for program in (plain, written):
        found = interpret.step(program, theta, g, state, {"lr": 0.1, "beta": 0.6}, 2).tangents
        torch.testing.assert_close((found["beta"] * r).sum(), expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("body", BODIES)
def test_what_moves_the_parameter_through_it_alone_is_not_learned(body: str) -> None:
    """Of one kind of tensors: others move, and what is learned would follow these alone."""
    with pytest.raises(SpecError, match="has no derivative"):
        compiler.derive(source(body.format("", ""), "0.5"))
    compiler.derive(source(body.format("stop_gradient(", ")"), "0.5"))


def test_show_says_what_is_held() -> None:
    told = "The hyper-gradient of beta holds the argument of eigenvectors constant"
    for before, after in (("", ""), ("stop_gradient(", ")")):
        found = source(BODIES[0].format(before, after))
        page = describe(found, library.read(found))
        assert (told in " ".join(page.split())) is (not before)
