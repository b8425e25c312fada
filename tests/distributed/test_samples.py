"""Shards learn from the sample of the whole tensor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import optdsl

from .ranks import on_ranks

pytestmark = pytest.mark.slow

# A step is computed again where it was taken, so that states lag in the sample.
LAGGING = """\
optimizer Lagging
hyper lr = 0.01 in [0, inf)
hyper beta = 0.9 in [0, 1)
state m = 0
state v = 0
m' = beta * m + (1 - beta) * g
v' = 0.99 * v + 0.01 * g^2
theta' = theta - lr * m' / (sqrt(v') + 1e-6)
learn lr by SGD(lr = 1e-5)
learn beta in [0.1, 0.99] by SGD(lr = 1e-3)
learn after 0
learn sample 1/2
"""
# Its steps look at whole tensors, which ranks gather.
NORMED = """\
optimizer Normed
hyper lr = 0.01 in [0, inf)
state m = 0
m' = 0.9 * m + g
theta' = theta - lr * m' / norm(m')
learn lr by SGD(lr = 1e-4)
learn after 0
learn sample 1/2
"""
# Blocks are cut by shards of rows, and by shards of columns, and the last one has no row.
SHAPES = (
    ((860, 77), Shard(0)),
    ((520, 130), Shard(1)),
    ((66_000,), Shard(0)),
    ((70_000,), Replicate()),
    ((30,), Shard(0)),
)
STEPS = 4


def drawn(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape, _ in SHAPES]


def trained(
    rule: str, backend: str, order: str, world: int, resumed: bool = False
) -> dict[str, Any]:
    """What was learned after each step, and the parameters in the end."""
    mesh = dist.init_device_mesh("cpu", (world,)) if world else None

    def placed(x: Tensor, how: Any) -> Tensor:
        return x if mesh is None else distribute_tensor(x, mesh, [how])

    cls = optdsl.compile(rule, backend=backend, order=order)
    model = nn.Module()
    model.parts = nn.ParameterList(
        nn.Parameter(placed(x, how)) for x, (_, how) in zip(drawn(0), SHAPES, strict=True)
    )
    optimizer = cls(model.parameters())
    learned = []
    for step in range(STEPS):
        if resumed and step == 2:
            saved = get_optimizer_state_dict(model, optimizer)
            optimizer = cls(model.parameters())
            set_optimizer_state_dict(model, optimizer, saved)
        for p, g, (_, how) in zip(model.parts, drawn(step + 1), SHAPES, strict=True):
            p.grad = placed(g, how)
        optimizer.step()
        group = optimizer.param_groups[0]
        learned.append((group["lr"], group.get("beta", 0.0)))
    for p in model.parts if mesh is not None else ():
        # As distributed checkpoints cut the parameter, they cut what is kept for a pending step.
        kept = [x for key, x in optimizer.state[p].items() if key not in {"step", "pending/hypers"}]
        assert len(kept) > 1
        assert all(x.placements == p.placements and x.shape == p.shape for x in kept)
    whole = [p.full_tensor() if mesh is not None else p.detach() for p in model.parts]
    return {"learned": learned, "theta": [x.detach().clone() for x in whole]}


def cut(rule: str, backend: str, order: str) -> list[dict[str, Any]]:
    return [trained(rule, backend, order, 2, resumed) for resumed in (False, True)]


@pytest.mark.parametrize(
    ("rule", "order"),
    [pytest.param(LAGGING, "overlapped", marks=pytest.mark.exhaustive), (NORMED, "exact")],
)
def test_shards_learn_what_the_uncut_model_learns(rule: str, order: str) -> None:
    expected = trained(rule, "c", order, 0)
    assert expected["learned"][-1][0] != pytest.approx(0.01, rel=1e-3)
    for backend in ("c", "eager"):
        found, again = zip(*on_ranks(2, cut, rule, backend, order), strict=True)
        for one, other in zip(found, again, strict=True):
            for a, b in zip(one["learned"], expected["learned"], strict=True):
                assert a == pytest.approx(b, rel=1e-6)
            assert one["learned"] == other["learned"]
            for a, b, c in zip(one["theta"], other["theta"], expected["theta"], strict=True):
                assert torch.equal(a, b)
                torch.testing.assert_close(a, c)
