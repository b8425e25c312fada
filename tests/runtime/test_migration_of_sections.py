"""States of one rule as those of another one with sections, parameter by parameter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import optdsl


def parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (5,)]
    return [nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator)) for s in shapes]


def stepped(optimizer: Any, held: list[nn.Parameter], steps: range) -> None:
    for t in steps:
        for p in held:
            p.grad = torch.sin(p.detach() * (t + 1))
        optimizer.step()


def kinds(held: list[nn.Parameter]) -> list[dict[str, Any]]:
    return [{"params": held[:1], "kind": "otherwise"}, {"params": held[1:]}]


@pytest.mark.parametrize("backend", ["eager", "auto"])
def test_states_of_adamw_go_on_in_the_part_of_muon_that_is_adamw(backend: str) -> None:
    adamw, muon = (optdsl.load(n, backend=backend) for n in ("adamw", "muon"))
    whole, held = parameters(), parameters()
    hypers = {"lr": 0.01, "weight_decay": 0.1}
    stepped(adamw([{"params": [p]} for p in whole], **hypers), whole, range(8))
    first = adamw([{"params": [p]} for p in held], **hypers)
    stepped(first, held, range(4))
    second = muon(kinds(held), lr=0.01, lr_ratio=1.0, weight_decay=0.1, adamw_beta2=0.999)
    moved = second.migrated(first.state_dict())
    assert [g.get("kind") for g in moved["param_groups"]] == ["otherwise", None]
    second.load_state_dict(moved)
    stepped(second, held, range(4, 8))
    for x, y in zip(held, whole, strict=True):
        torch.testing.assert_close(x.detach(), y.detach(), rtol=0, atol=1e-14)
    # And back again.
    third = adamw([{"params": [p]} for p in held], **hypers)
    third.load_state_dict(third.migrated(second.state_dict()))
    assert third.state[held[0]].keys() == {"step", "m", "v"}


def test_a_parameter_whose_states_are_others_is_named() -> None:
    held = parameters()
    first = optdsl.load("adamw")(held)
    stepped(first, held, range(2))
    second, saved = optdsl.load("muon")(held), first.state_dict()
    with pytest.raises(ValueError, match=r"parameter 0, of shape \(4, 3\), it keeps v besides"):
        second.migrated(saved)
    saved["state"].pop(0)
    second.load_state_dict(second.migrated(saved))
    assert not second.state[held[0]]
    assert second.state[held[1]].keys() == {"step", "m", "v"}
