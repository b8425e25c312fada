"""Eval mode of optimizers whose steps are Triton's, with states that may lag on the device."""

from __future__ import annotations

import copy

import pytest
import torch

import optdsl
from optdsl import Learn
from tests.c.rules import device
from tests.evaluating.common import RULES, SHAPES, copies, parameters, same_bits, train

pytestmark = pytest.mark.broad(3)

LEARN = {"lr": Learn("sgd", lr=1e-5, bounds=(0, 1))}


@pytest.mark.parametrize("learn", [False, True], ids=["plain", "learning"])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.exhaustive
def test_points_are_those_of_eager_code(rule: str, learn: bool) -> None:
    found = {}
    for backend in ("eager", "triton"):
        where = device(backend)
        cls = optdsl.load(rule, backend=backend, learn=LEARN if learn else False)
        held = [torch.nn.Parameter(p.detach().to(where)) for p in parameters(torch.float32)]
        plain = copy.deepcopy(held)
        visited, other = cls(held, lr=0.01), cls(plain, lr=0.01)
        train(visited, held, range(4))
        train(other, plain, range(4))
        visited.eval()
        visited.load_state_dict(copy.deepcopy(visited.state_dict()))
        found[backend] = [x.cpu() for x in copies(held)]
        visited.train()
        assert same_bits(copies(held), copies(plain))
        train(visited, held, range(4, 7))
        train(other, plain, range(4, 7))
        assert same_bits(copies(held), copies(plain))
    assert len(found["eager"]) == len(SHAPES)
    for x, y in zip(*found.values(), strict=True):
        torch.testing.assert_close(x, y, rtol=2e-5, atol=2e-6)
