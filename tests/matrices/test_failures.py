"""Decompositions that fail, and tensors that change their shapes: nobody else loses a step."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl

pytestmark = pytest.mark.broad(2)

STEPS = 12  # shampoo computes roots anew in every tenth


def trained(spec: str, count: int, bad: float | None, **hypers: Any) -> list[Tensor]:
    """Matrices after some steps, in one of which the last one has a bad gradient."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(6, 6, dtype=torch.float64)) for _ in range(count)]
    optimizer = optdsl.load(spec)(params, lr=1e-2, **hypers)
    for step in range(STEPS):
        for p in params:
            p.grad = torch.randn_like(p)
        if bad is not None and step == 3:
            params[-1].grad = torch.full_like(params[-1], bad)
        optimizer.step()
    return [p.detach() for p in params]


# Four of them are stacked.
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize(
    ("spec", "hypers"), [("shampoo", {}), ("galore_adamw", {"rank": 2, "gap": 5})]
)
def test_a_matrix_without_a_decomposition_becomes_nan_and_the_others_step(
    spec: str, hypers: dict[str, Any], bad: float, count: int
) -> None:
    *others, last = trained(spec, count, bad, **hypers)
    assert last.isnan().all()
    for x, expected in zip(others, trained(spec, count, None, **hypers), strict=False):
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(
    ("spec", "before", "after"),
    [
        ("adam", (8,), (1,)),
        ("adam", (1,), (8,)),
        ("muon", (8, 4), (9, 4)),
        ("adafactor", (1, 4), (9, 4)),
        ("prodigy", (1,), (8,)),
    ],
)
def test_a_parameter_that_changed_its_shape_is_refused(
    spec: str, before: tuple[int, ...], after: tuple[int, ...], backend: Any
) -> None:
    parameter, other = nn.Parameter(torch.ones(before)), nn.Parameter(torch.ones(3))
    optimizer = optdsl.load(spec, backend=backend)([other, parameter])
    for p in (parameter, other):
        p.grad = torch.ones_like(p)
    optimizer.step()
    parameter.data = torch.ones(after)
    parameter.grad = torch.ones(after)
    kept = other.detach().clone()
    with pytest.raises(RuntimeError, match=r"has the parameter changed since\?"):
        optimizer.step()
    assert other.equal(kept)
    del optimizer.state[parameter]
    optimizer.step()
    assert not other.equal(kept)
