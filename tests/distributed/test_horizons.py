"""Shards learn with decaying tangents, and from normalized hyper-gradients, as the uncut model."""

from __future__ import annotations

import pytest
import torch

from .ranks import on_ranks
from .test_samples import cut, trained

pytestmark = pytest.mark.slow

ELEMENTWISE = """\
optimizer Elementwise
hyper lr = 0.01 in [0, inf)
hyper beta = 0.9 in [0, 1)
state m = 0
m' = beta * m + (1 - beta) * g
theta' = theta - lr * m'
learn lr by SGD(lr = 1) on normalized horizon 0.9
learn beta in [0.1, 0.99] by SGD(lr = 2) on normalized
learn after 0
"""
# Its steps look at whole tensors, which ranks gather, tangents included.
NORMED = """\
optimizer Normed
hyper lr = 0.01 in [0, inf)
state m = 0
m' = 0.9 * m + g
theta' = theta - lr * m' / norm(m')
learn lr by SGD(lr = 10) on normalized horizon 0.9
learn after 0
"""


@pytest.mark.parametrize(
    ("rule", "order", "backend"),
    [
        (ELEMENTWISE, "overlapped", "c"),
        pytest.param(NORMED, "exact", "eager", marks=pytest.mark.exhaustive),
    ],
)
def test_shards_learn_what_the_uncut_model_learns(rule: str, order: str, backend: str) -> None:
    expected = trained(rule, "c", order, 0)
    assert expected["learned"][-1][0] != pytest.approx(0.01, rel=1e-3)
    found, again = zip(*on_ranks(2, cut, rule, backend, order), strict=True)
    for one, other in zip(found, again, strict=True):
        for a, b in zip(one["learned"], expected["learned"], strict=True):
            assert a == pytest.approx(b, rel=1e-6)
        assert one["learned"] == other["learned"]
        for a, b, c in zip(one["theta"], other["theta"], expected["theta"], strict=True):
            assert torch.equal(a, b)
            torch.testing.assert_close(a, c)
