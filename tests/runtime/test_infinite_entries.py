"""Entries of a parameter that are infinite, as those of masks: without a gradient they stay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

import optdsl
from tests.c import rules
from tests.oracles.rules import SEPARATE

pytestmark = pytest.mark.broad(10)

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

ENTRIES = [-math.inf, 1.0, math.inf, math.nan, -2.0]
KEPT = [True, False, True, True, False]
BACKENDS = ("eager", "c")


def trained(
    cls: type[CompiledOptimizer],
    decay: float,
    entries: list[float],
    dtype: torch.dtype = torch.float32,
) -> CompiledOptimizer:
    """Four steps whose gradients are zero where `ENTRIES` are not finite."""
    start, moved = torch.tensor(entries, dtype=dtype).repeat(60), ~torch.tensor(KEPT).repeat(60)
    parameter = nn.Parameter(start.clone())
    names = [h.name for h in cls.compiled.program.hypers if h.name.endswith("weight_decay")]
    optimizer = cls([parameter], **dict.fromkeys(names, decay))
    for _ in range(4):
        parameter.grad = torch.where(moved, 0.5, 0.0).to(dtype)
        optimizer.step()
    return optimizer


def parameter_of(optimizer: CompiledOptimizer) -> Tensor:
    found: Tensor = optimizer.param_groups[0]["params"][0]
    return found.detach()


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", SEPARATE)
def test_an_entry_without_a_gradient_keeps_its_value(name: str, backend: str, decay: float) -> None:
    optimizer = trained(optdsl.load(name, backend=backend), decay, ENTRIES)
    start, found = torch.tensor(ENTRIES).repeat(60), parameter_of(optimizer)
    kept = torch.tensor(KEPT).repeat(60)
    torch.testing.assert_close(found[kept], start[kept], rtol=0, atol=0, equal_nan=True)
    assert found[~kept].isfinite().all()
    assert (found[~kept] != start[~kept]).all()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["mada", "adaptivity", "mada_legacy", "hyperadam"])
def test_hypergradients_are_those_of_the_other_entries(name: str, backend: str) -> None:
    cls = optdsl.load(name, backend=backend, learn=rules.learning(name))
    with_masks = trained(cls, 0.1, ENTRIES, torch.float64).metrics()
    finite = [x if math.isfinite(x) else 0.0 for x in ENTRIES]
    others = trained(cls, 0.1, finite, torch.float64).metrics()
    assert any(value for key, value in others.items() if key.startswith("hypergradient/"))
    assert with_masks == pytest.approx(others, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "reference", "decay"),
    [
        ("adamw", torch.optim.AdamW, 0.0),
        ("adamw", torch.optim.AdamW, 0.1),
        ("adam", torch.optim.Adam, 0.0),
        ("sgd", torch.optim.SGD, 0.0),
    ],
)
def test_torch_keeps_the_same_entries(
    name: str, reference: type[torch.optim.Optimizer], decay: float
) -> None:
    theirs = nn.Parameter(torch.tensor(ENTRIES).repeat(60))
    options = {"lr": 1e-3, "weight_decay": decay}
    optimizer = reference([theirs], **options)
    for _ in range(4):
        theirs.grad = torch.where(theirs.detach().isfinite(), 0.5, 0.0)
        optimizer.step()
    found = parameter_of(trained(optdsl.load(name, backend="c"), decay, ENTRIES))
    torch.testing.assert_close(found, theirs.detach(), equal_nan=True)


def test_a_decay_that_is_learned_from_zero_has_a_hypergradient() -> None:
    """Leaving out infinite entries must not leave out the derivative."""
    learn = {"weight_decay": optdsl.Learn("sgd", bounds=(0, 1), after=10**9)}
    for name in ("adam", "adamw", "sgd", "amsgrad"):
        metrics = trained(optdsl.load(name, backend="c", learn=learn), 0.0, ENTRIES).metrics()
        assert abs(metrics["hypergradient/weight_decay"]) > 0
