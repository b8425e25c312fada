"""A loop as nanoGPT has it: only the line that makes the optimizer differs from AdamW's."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .common import BACKENDS, SPEC, TORCH, adamw, bits, close, mada, moved

VOCABULARY, CONTEXT, WIDTH = 11, 8, 16
MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH, bias=False)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.project = nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        heads = [
            t.unflatten(-1, (2, -1)).transpose(1, 2)
            for t in self.qkv(self.norm1(x)).split(WIDTH, -1)
        ]
        mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Characters in, logits of the next ones out; the embedding is tied to the head."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Embedding(CONTEXT, WIDTH)
        self.block = Block()
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.tokens.weight = self.head.weight

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        hidden = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        return F.cross_entropy(self.head(self.block(hidden)).flatten(0, 1), y.flatten())


def decay_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, vectors do not."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]


def batch(step: int, micro: int) -> tuple[Tensor, Tensor]:
    """Sequences that count up by one: there is something to learn."""
    generator = torch.Generator().manual_seed(100 * step + micro)
    start = torch.randint(VOCABULARY, (8, 1), generator=generator)
    text = (start + torch.arange(CONTEXT + 1)) % VOCABULARY
    return text[:, :-1], text[:, 1:]


def train(
    make: MakeOptimizer,
    dtype: torch.dtype = torch.float64,
    steps: int = 24,
    save: tuple[int, Path] | None = None,
    resume: Path | None = None,
) -> tuple[Transformer, torch.optim.Optimizer, list[float]]:
    """Warm-up and cosine, two micro-batches a step, clipping, checkpoints: the usual loop."""
    torch.manual_seed(0)
    model = Transformer().to(dtype)
    optimizer = make(decay_groups(model, 0.1))
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    begin, losses = 0, []
    if resume is not None:
        checkpoint = torch.load(resume)
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        begin = checkpoint["step"]
    for step in range(begin, steps):
        if save is not None and step == save[0]:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
            torch.save(state, save[1])
        lr = 1e-2 * min((step + 1) / 4, 0.5 + 0.5 * math.cos(math.pi * step / 24))
        for group in optimizer.param_groups:
            group["lr"] = lr
        for micro in range(2):
            loss = model(*batch(step, micro)) / 2
            scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        losses.append(2 * loss.item())
    return model, optimizer, losses


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_loop_of_nanogpt_trains_as_with_torchs_adamw(backend: str) -> None:
    ours, _, losses = train(lambda groups: adamw(backend)(groups, **SPEC))
    theirs, _, expected = train(lambda groups: torch.optim.AdamW(groups, **TORCH))
    close(ours, theirs)
    assert losses == pytest.approx(expected, rel=1e-9)
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.exhaustive
def test_the_loop_of_nanogpt_learns_coefficients_and_resumes_to_the_bit(
    backend: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    def make(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return mada(backend)(groups, lr=1e-2, rho=0.6)

    file = tmp_path / "checkpoint.pt"
    model, optimizer, losses = train(make, dtype, save=(13, file))
    again, resumed, _ = train(make, dtype, resume=file)
    assert bits(again.state_dict()) == bits(model.state_dict())
    assert bits(resumed.state_dict()) == bits(optimizer.state_dict())
    assert moved(optimizer) >= {"rho", "beta1"}
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("way", ["capturable", "foreach", "fused"])
def test_a_hint_of_torch_about_computing_is_kept(way: str) -> None:
    """NanoGPT passes `fused=True` where there is a GPU."""
    optimizer = adamw()(nn.Linear(2, 2).parameters(), **{way: True})
    assert optimizer.param_groups[0][way] is True
