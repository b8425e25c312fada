"""Standalone files that draw random numbers and store by codecs: the same numbers to the bit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import optdsl
from tests.ejecting.helpers import ejected, parameters, train

pytestmark = pytest.mark.filterwarnings("ignore::optdsl.SpecWarning")

DRAWING = """\
optimizer Drawing
  "Every distribution, of elements and of smaller types, and states of 16 bits."

hyper lr  = 0.1 in [0, inf)
hyper gap = 3   in {1, ..., inf}

for wide matrices

state b = 0

store b as bfloat16 stochastic

random P : rows * rows = normal at floor((t - 1) / gap)
random s : scalar      = rademacher

b'     = 0.9 * b + P @ g
theta' = theta - lr * s * b'

otherwise

random z = normal
random u = uniform at 0

theta' = theta - lr * (g + z * u)
"""
BOTH = {"states": "bfloat16 stochastic", "theta": "stochastic"}
CASES: dict[str, tuple[str, Any]] = {
    "stochastic": ("adamw with stochastic_rounding", None),
    "kahan": ("adamw with kahan", None),
    "bfloat16": ("adam", {"states": "bfloat16"}),
    "matrices": ("muon(ns_steps = 1)", {"states": "bfloat16 stochastic", "theta": "compensated"}),
    "factors": ("adafactor", BOTH),
    "point": ("schedule_free_adamw with kahan", None),
    "shared": ("prodigy", {"theta": "stochastic"}),
    "drawing": ("drawing.opt", None),
}


def both(case: str, tmp_path: Path) -> tuple[Any, Any]:
    """The package's class and that of the file."""
    name, store = CASES[case]
    path = tmp_path / name if name.endswith(".opt") else name
    if isinstance(path, Path):
        path.write_text(DRAWING)
    ours = optdsl.load(path, backend="eager", learn=False, store=store)
    return ours, ejected(path, store=store)


def same(reference: Any, optimizer: Any, ours: Any, theirs: Any) -> None:
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(q, p, rtol=0, atol=0)
        torch.testing.assert_close(optimizer.state[q], reference.state[p], rtol=0, atol=0)


@pytest.mark.broad(2)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_the_same_numbers(case: str, dtype: torch.dtype, tmp_path: Path) -> None:
    first, second = both(case, tmp_path)
    ours, theirs = parameters(dtype), parameters(dtype)
    seed = {"seed": 2**40 + 3} if "seed" in first(ours).defaults else {}
    reference, optimizer = first(ours, **seed), second(theirs, **seed)
    train(reference, ours, 20)
    train(optimizer, theirs, 20)
    same(reference, optimizer, ours, theirs)
    if hasattr(optimizer, "eval"):
        for some in (reference, optimizer):
            some.eval()
        assert all(torch.equal(p, q) for p, q in zip(ours, theirs, strict=True))
        for some in (reference, optimizer):
            some.train()
    # A run goes on from its state.
    copies = [torch.nn.Parameter(q.detach().clone()) for q in theirs]
    other = second(copies)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, theirs, 2, seed=2)
    train(other, copies, 2, seed=2)
    same(optimizer, other, theirs, copies)


def test_many_elements_are_drawn_piece_by_piece(tmp_path: Path) -> None:
    first, second = both("drawing", tmp_path)
    runs = []
    for cls in (first, second):
        p = torch.nn.Parameter(torch.zeros(4 * 2**18 + 7))
        p.grad = torch.zeros_like(p)
        cls([p]).step()
        runs.append(p)
    assert torch.equal(*runs)
    assert len(runs[0].unique()) > 10**6


def test_seeds(tmp_path: Path) -> None:
    cls = ejected("adamw with stochastic_rounding")
    for seed, error in ((0.5, TypeError), (-1, ValueError), (2**64, ValueError)):
        with pytest.raises(error, match="seed"):
            cls(parameters(), seed=seed)
    optimizer = cls(parameters(), seed=3)
    with pytest.raises(TypeError, match="seed is one for all groups"):
        optimizer.add_param_group({"params": parameters(), "seed": 4})
    assert len(optimizer.param_groups) == 1
    held = parameters()
    held[0]._fsdp_flattened = True
    with pytest.raises(ValueError, match="whole tensors"):
        train(cls(held), held, 1)
    held = parameters(torch.float64)
    with pytest.raises(ValueError, match="no wider precision"):
        train(ejected("adamw with kahan")(held), held, 1)
    with pytest.raises(optdsl.OptionError, match="how it stores"):
        optdsl.eject(optdsl.load("adam"), store={"states": "bfloat16"})
    stored = optdsl.load("adam", store={"m": "bfloat16"})
    assert optdsl.eject(stored) == optdsl.eject("adam", store={"m": "bfloat16"})
