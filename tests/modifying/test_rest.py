"""``otherwise (RULE with MODIFIERS)``: rules with modifiers for the tensors that remain."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl.diagnostics import Source
from optdsl.specifications import library
from optdsl.syntax.format import format
from optdsl.syntax.parse import parse

RULE = """
optimizer Signs
  "no paper: a test"

hyper lr    = 0.01 in [0, inf)
hyper ratio = 0.5  in [0, inf)

for matrices

theta' = theta - lr * sign(g)

otherwise (AdamW(lr = ratio * lr, beta1 = 0.8) with ClipNorm(limit = 2 * ratio), Warmup)
"""


def randn(seed: int, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, dtype=torch.float64, generator=generator)


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_the_remaining_tensors_get_the_rule_with_modifiers(backend: str) -> None:
    cls = optdsl.compile(RULE, backend=backend)
    alone = optdsl.load("adamw with clip_norm, warmup", backend=backend)
    matrix, ours, theirs = (nn.Parameter(randn(0, *s)) for s in [(3, 4), (5,), (5,)])
    start, signs = matrix.detach().clone(), torch.zeros(3, 4, dtype=torch.float64)
    optimizer = cls([matrix, ours], lr=0.1, adamw_warmup_steps=3)
    reference = alone([theirs], lr=0.05, beta1=0.8, clip_norm_limit=1.0, warmup_steps=3)
    for t in range(5):
        matrix.grad, ours.grad = randn(2 * t + 1, 3, 4), randn(2 * t + 2, 5)
        signs += matrix.grad.sign()
        theirs.grad = ours.grad.clone()
        optimizer.step()
        reference.step()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    # The modifiers leave matrices as they are.
    torch.testing.assert_close(matrix, start - 0.1 * signs, rtol=0, atol=1e-14)


def test_hyperparameters_are_called_after_the_rule_or_the_alias() -> None:
    for ending, prefix in (("", "adamw"), (" as Rest", "rest")):
        program = library.read(Source("<text>", RULE.rstrip() + ending + "\n"))
        names = [h.name for h in program.hypers]
        own = ("beta2", "eps", "weight_decay", "warmup_steps")
        assert names == ["lr", "ratio", *(f"{prefix}_{name}" for name in own)]


def test_the_rule_by_itself_and_the_one_with_modifiers_are_two() -> None:
    """A claim about AdamW is not about AdamW with modifiers."""
    text = RULE + "\nmisses AdamW\n"
    assert library.read(Source("<text>", text)).sections == ("matrices", "otherwise")


def test_it_is_formatted_as_it_is_written() -> None:
    text = RULE.lstrip()
    assert format(parse(Source("<text>", text))) == text
