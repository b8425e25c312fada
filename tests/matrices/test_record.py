"""The record of the modded-nanogpt optimization benchmark (June 2026) as one specification.

SOAP whitens the momentum, a gate says how far to trust that, Muon orthogonalizes it; a brake on
outward movement, a least step for each row, a radius that is kept, decay where it does not work
against the step, a look ahead and an average of the tail. Each step is compared with the same
equations by hand, from the states that the optimizer has before it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl

States = dict[str, Tensor]
RECORD = Path(__file__).with_name("track3_record.opt")
COMPOSED = Path(__file__).with_name("track3_composed.opt")
TOTAL = 1260
# Steps on both sides of everything that depends on the step.
LOOKED_AT = [2, 3, 10, 299, 300, 301, 309, 310, 759, 760, 761, 765]


def norm(x: Tensor) -> float:
    return float(torch.sqrt((x * x).sum()))


def spread(x: Tensor, least: float) -> float:
    return max(norm(x @ x.T) ** 0.5, least)


def angle(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum()) / max(norm(x) * norm(y), 1e-8)


def falling(share: float, left: float) -> float:
    return min(1.0, share * max(0.0, left) ** 1.2)


def refreshed(s: Tensor, q: Tensor) -> Tensor:
    """One step of orthogonal iteration; the columns are orthonormalized by falling eigenvalues."""
    order = torch.argsort(torch.diagonal(q.T @ s @ q), descending=True)
    basis, r = torch.linalg.qr((s @ q)[:, order])
    found = torch.empty_like(q)
    found[:, order] = basis * torch.sign(torch.diagonal(r))
    return found


def matrix(
    theta: Tensor, g: Tensor, s: dict[str, Tensor], t: int, rate: float
) -> dict[str, Tensor]:
    """The states of a matrix after a step, and where it moves (``moved``)."""
    mu = min(min(0.95, 0.85 + (t - 1) / 3000), 0.95 - (t - 1 - (TOTAL - 200)) / 2000)
    m = mu * s["m"] + (1 - mu) * g
    raw = mu * m + (1 - mu) * g
    p = s["QL"].T @ raw @ s["QR"]
    v = s["v"] if t == 1 else 0.9 * s["v"] + 0.1 * p * p
    big_l = 0.9 * s["L"] + 0.1 * g @ g.T
    big_r = 0.9 * s["R"] + 0.1 * g.T @ g
    soap = raw
    if t > 1:
        white = s["QL"] @ (p / v.clamp(min=1e-16).sqrt()) @ s["QR"].T
        soap = white * (spread(raw, 1e-8) / spread(white, 1e-8))
    mixed = soap  # the group is not gated
    num = mixed * (spread(raw, 1e-8) / spread(mixed, 1e-8))
    x = num / spread(num, 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(12):
        gram = x @ x.T
        x = 2 * x + (-1.5 * gram + 0.5 * gram @ gram) @ x
    x = x.T if tall else x
    ortho = max(1.0, theta.shape[0] / theta.shape[1]) ** 0.5 * x
    out = min(0.0, float((ortho * theta).sum()) / max(norm(theta) ** 2, 1e-12))
    inward = ortho - 0.5 * out * theta
    rows = theta.norm(dim=1, keepdim=True).clamp(min=1e-8)
    update = inward * (0.3825 * rows / inward.norm(dim=1, keepdim=True).clamp(min=1e-8)).clamp(
        min=1
    )
    before = max(norm(theta), 1e-8)
    radius = max(before - rate * float((update * theta).sum()) / before, 1e-8)
    free = theta - rate * update
    shrunk = 1 - rate * 0.025 * (update * theta > 0).to(theta)
    bases = {}
    for name, factor, q in (("QL", big_l, s["QL"]), ("QR", big_r, s["QR"])):
        first = torch.linalg.eigh(factor).eigenvectors.flip(-1)
        bases[name] = first if t == 1 else refreshed(factor, q)
    moved = free * radius / max(norm(free), 1e-8) * shrunk
    return {"m": m, "v": v, "L": big_l, "R": big_r, "moved": moved} | bases


def vector(
    theta: Tensor, g: Tensor, s: dict[str, Tensor], t: int, rate: float
) -> dict[str, Tensor]:
    """The same for another tensor, without bias correction."""
    m = 0.8 * s["m"] + 0.2 * g
    v = 0.99 * s["v"] + 0.01 * g * g
    return {"m": m, "v": v, "moved": theta - rate * m / (v.sqrt() + 1e-10)}


def by_hand(theta: Tensor, g: Tensor, s: dict[str, Tensor], t: int) -> dict[str, Tensor]:
    """The states after a step, the new parameter, and the point at which the model is evaluated."""
    rate = 0.0375 * falling(8.845e-5, TOTAL - (t - 1))
    kind = matrix if theta.ndim == 2 else vector
    new = kind(theta, g, s, t, rate)
    moved = new.pop("moved")
    new["w"] = moved
    new["ahead"] = 0.99 * s["ahead"] + 0.01 * (moved - s["w"])
    look = 0.3 * falling(1.6589e-4, TOTAL - (t - 1)) if 300 <= t < TOTAL - 950 else 0.0
    new["theta"] = moved + look * new["ahead"]
    average = s["average"]
    if t == TOTAL - 500:
        average = moved
    elif TOTAL - 500 < t < TOTAL:
        average = average + (moved - average) / 150
    new["average"] = average
    new["point"] = 0.4 * moved + 0.6 * average if t >= TOTAL - 500 else moved
    return new


def test_it_is_short() -> None:
    assert len(RECORD.read_text().splitlines()) <= 80


@pytest.mark.parametrize(
    "steps", [LOOKED_AT[:3], pytest.param(LOOKED_AT, marks=pytest.mark.exhaustive)], ids=len
)
def test_every_part_of_a_step_is_what_it_is_by_hand(steps: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 6), (6, 4), (5,)]
    start = [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]
    held = [nn.Parameter(x) for x in start]
    optimizer = optdsl.load(str(RECORD))(held, total=TOTAL)
    for t in range(1, max(steps) + 1):
        before = [p.detach().clone() for p in held]
        states = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in held]
        for p in held:
            noise = torch.randn(p.shape, dtype=p.dtype, generator=generator)
            p.grad = 0.1 * p.detach() + noise
        optimizer.step()
        if t not in steps:
            continue
        for p, theta, state in zip(held, before, states, strict=True):
            assert p.grad is not None
            expected = by_hand(theta, p.grad, state, t)
            close(p.detach(), expected.pop("theta"))
            point = expected.pop("point")
            for name, value in expected.items():
                close(optimizer.state[p][name], value, name)
            optimizer.eval()
            close(p.detach(), point)
            optimizer.train()


@pytest.mark.parametrize("backend", ["eager", "auto"])
@pytest.mark.exhaustive
def test_it_is_a_rule_with_modifiers(backend: str) -> None:
    """Around each switch; in between, the number of the step is set."""
    groups = [{}, {"gated": 1}, {"kind": "otherwise"}, {"tail": 0.0, "corrected": 1}]
    shapes, runs = [(4, 6), (6, 4), (3, 4), (5,)], []
    for path in (RECORD, COMPOSED):
        generator = torch.Generator().manual_seed(0)
        held = [
            nn.Parameter(torch.randn(s, dtype=torch.float64, generator=generator)) for s in shapes
        ]
        own = [{"params": [p], **g} for p, g in zip(held, groups, strict=True)]
        cls = optdsl.load(str(path), backend=backend, verify=False)
        optimizer = cls(own, total=TOTAL, cool=2e-4)
        seen = []
        for steps in ((1, 2, 3), (299, 300, 301), (309, 310, 311), (759, 760, 761), (1259, 1260)):
            if steps[0] > 1:
                content = optimizer.state_dict()
                for state in content["state"].values():
                    state["step"] = torch.full_like(state["step"], steps[0] - 1)
                optimizer.load_state_dict(content)
            for _ in steps:
                for p in held:
                    noise = torch.randn(p.shape, dtype=p.dtype, generator=generator)
                    p.grad = 0.1 * p.detach() + noise
                optimizer.step()
                seen += [p.detach().clone() for p in held]
                optimizer.eval()
                seen += [p.detach().clone() for p in held]
                optimizer.train()
        runs.append(seen)
    for ours, theirs in zip(*runs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    assert not torch.equal(runs[0][-4], runs[0][-8])  # it is evaluated at another point


def close(ours: Any, theirs: Tensor, name: str = "") -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9, msg=lambda m: f"{name}: {m}")


@pytest.mark.exhaustive
def test_it_trains_a_small_network() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(16, 8), nn.Linear(8, 32), nn.Tanh(), nn.Linear(32, 16))
    matrices = [model[1].weight, model[3].weight]
    others = [p for p in model.parameters() if all(p is not q for q in matrices)]
    groups = [
        {"params": matrices, "gated": 1},
        {"params": others, "kind": "otherwise", "corrected": 1, "cool": 1.6589e-4},
    ]
    optimizer = optdsl.load(str(RECORD))(groups, lr=0.02, total=2000)
    x = torch.arange(16)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), (3 * x + 1) % 16)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]
