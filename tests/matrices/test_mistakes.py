"""Mistakes with sections, kinds and shapes: each is refused in words, or harmless."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.distributed.tensor import Shard

import optdsl
from optdsl.diagnostics import Source
from optdsl.passes.specialize import specialize
from optdsl.runtime.engines.sharded.shards import needs_whole
from optdsl.specifications import library

DEEP = """
optimizer Deep
  "no paper: a test"

hyper n = 3 in {0, ..., 200}

def f(x, n) = where(n > 0, f(x / 2, n - 1), x)

for matrices

theta' = theta - f(g, n)
"""


def parameter(*shape: int) -> torch.nn.Parameter:
    p = torch.nn.Parameter(torch.ones(shape))
    p.grad = torch.ones(shape)
    return p


@pytest.mark.parametrize("shape", [(3, 0), (0, 3), (0, 0), (0,), (2, 0, 3), (2, 3, 0)])
@pytest.mark.parametrize("name", ["muon", "normuon", "adafactor", "lamb"])
def test_tensors_without_elements_take_steps(name: str, shape: tuple[int, ...]) -> None:
    empty, other = parameter(*shape), parameter(2, 3)
    optimizer = optdsl.load(name)([empty, other])
    for _ in range(2):
        optimizer.step()
    assert empty.shape == shape
    assert float(optimizer.state[empty]["step"]) == 2
    assert not torch.equal(other, torch.ones(2, 3))


@pytest.mark.parametrize("given", ["orig", "Original"])
def test_a_label_that_there_is_not(given: str) -> None:
    cls = optdsl.load("muon")
    with pytest.raises(TypeError, match=r"adjust_lr_fn must be one of \{original, match_rms_ada"):
        cls([parameter(3, 2)], adjust_lr_fn=given)


def test_a_label_in_a_group_comes_back_from_a_checkpoint() -> None:
    cls, p = optdsl.load("muon"), parameter(3, 2)
    optimizer = cls([p])
    optimizer.param_groups[0]["adjust_lr_fn"] = "match_rms_adamw"
    optimizer.step()
    q = torch.nn.Parameter(p.detach().clone())
    again = cls([q])
    again.load_state_dict(optimizer.state_dict())
    p.grad = q.grad = torch.ones(3, 2)
    optimizer.step()
    again.step()
    assert torch.equal(p, q)
    wrong = optimizer.state_dict()
    wrong["param_groups"][0]["adjust_lr_fn"] = "matched"
    with pytest.raises(ValueError, match=r"'adjust_lr_fn'\] is str, no number"):
        again.load_state_dict(wrong)


def test_a_kind_belongs_to_a_group() -> None:
    cls: Any = optdsl.load("muon")
    with pytest.raises(TypeError, match="a parameter group has one"):
        cls([parameter(3, 2)], kind="otherwise")


def test_a_parameter_that_no_section_takes_is_named() -> None:
    model = torch.nn.Linear(3, 2)
    with pytest.raises(ValueError, match=r"is for matrices, and bias has the shape \(2,\)"):
        optdsl.compile(DEEP)(model.named_parameters())


ON_SHARDS = {
    "r' * sqrt(rows) * g": "state r : rows = 1\nr' = r",
    "sqrt(rows) * g": "",
    "r' * g": "state r : rows = 1\nr' = r + 1",
    "s' * g": "state s : scalar = 1\ns' = s + 1",
    "norm(g over rows) * g": "",
    "g @ transpose(g) @ g": "",
}


@pytest.mark.parametrize("update", [*ON_SHARDS, "sign(g)"])
def test_what_knows_rows_needs_whole_matrices(update: str) -> None:
    """A stand-in for a DTensor: half of its rows are on this rank."""
    text = "optimizer T\n\nfor matrices\n\n{}\n\ntheta' = theta - {}\n"
    text = text.format(ON_SHARDS.get(update, ""), update)
    program = specialize(library.read(Source("<text>", text)), 0)
    mesh = SimpleNamespace(shape=(2,))
    half: Any = SimpleNamespace(device_mesh=mesh, placements=[Shard(0)], shape=(4, 3))
    assert needs_whole(program, half) == (update != "sign(g)")


def test_a_function_may_call_itself_a_hundred_times() -> None:
    cls, p = optdsl.compile(DEEP), parameter(3, 2)
    optimizer = cls([p], n=100)
    optimizer.step()
    torch.testing.assert_close(p.detach(), torch.ones(3, 2) - 0.5**100)
    optimizer.param_groups[0]["n"] = 101
    with pytest.raises(optdsl.SpecError, match="`f` calls itself more than 100 times"):
        optimizer.step()
