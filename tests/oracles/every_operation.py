"""One rule that uses every operation of the language, and the same rule written out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

TEXT = """\
optimizer EveryOperation
  "Means nothing, but every operation in it matters."

hyper lr    = 0.1 in (0, inf)
hyper decay = 0.8 in [0, 1)
hyper power = 1.5 in (0, 4)
hyper width = 0.4 in [-1, 1]
hyper rate  = 0.3 in [0, inf)
hyper mode  = 1   in {0, 1, 2}

state m             = 0
state start         = theta / 2
state k    : scalar = 0
state peak : scalar = norm(g) * rate

def softened(x, y) = x / (y + abs(x))
def both(x, y)     = where(x > 0, where(y <= 0.5, x - y - 1, x * y / 2), y)

m'     = ema(m, g, decay)
start' = start
k'     = decay * k + (1 - decay) * rms(g - m')
peak'  = max(peak, mean(abs(g)) + k')

# A power whose exponent is a number, a tensor, and a scalar.
raised = (abs(m') + 0.1)^power + (1 + rate)^tanh(rate * g) - (rate + 1)^-k'
cosine = dot(g, m' + width) / (norm(g) * norm(m') + 1e-3)
bell   = exp(-g^2 * rate)
total  = sum(width + m' * m) / 10 + sum(width * 0.1 + 0 * g) - mean(rate - start)
gated  = where(abs(g) >= width * mean(abs(g)), raised, min(raised, bell))
limit  = clip(4 * width * theta + log(1 + rate * g^2), -decay / 2, 1)
soft   = softened(limit * 3, sqrt(rate + m'^2))
stiff  = sign(m' - start) * stop_gradient(width * g) + both(width * g, cosine + rate)
early  = where(t < 3, 2 - 1 - rate, where(t == 3, rate / 2 / 3, 2^-t))
wave   = cos(theta + rate) * sin(width * g) + floor(4 * g) / 8 + floor(2 * k' + t / 2) * sin(k')
phase  = cos(rate * t) + floor(t / 2) * sin(width)
chosen = where(mode == 0, soft, where(mode != 1, gated, soft + early * gated))
theta' = theta - lr * (chosen + cosine * k' - total / (1 + peak') + stiff - -bell
                      + wave * phase / 16)
"""

CONTINUOUS = ("lr", "decay", "power", "width", "rate")


def step_by_hand(
    theta: Tensor, g: Tensor, state: Mapping[str, Tensor], hypers: Mapping[str, float], t: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """What the text says, read by a person: the new parameter and the new states."""
    lr, decay, power = hypers["lr"], hypers["decay"], hypers["power"]
    width, rate, mode = hypers["width"], hypers["rate"], hypers["mode"]
    m, start = state["m"], state["start"]
    n = g.numel()

    new_m = decay * m + (1 - decay) * g
    k = decay * state["k"] + (1 - decay) * torch.linalg.vector_norm(g - new_m) / n**0.5
    peak = torch.maximum(state["peak"], g.abs().mean() + k)

    raised = (new_m.abs() + 0.1) ** power - 1 / (1 + rate) ** k
    raised = raised + (1 + rate) ** torch.tanh(rate * g)
    lengths = torch.linalg.vector_norm(g) * torch.linalg.vector_norm(new_m)
    cosine = ((g * (new_m + width)).sum()) / (lengths + 1e-3)
    bell = torch.exp(-rate * (g * g))
    total = (n * width + (new_m * m).sum()) / 10 + n * width * 0.1 - (rate - start.mean())
    gated = torch.where(g.abs() >= width * g.abs().mean(), raised, torch.minimum(raised, bell))
    limit = torch.clamp(width * (4 * theta) + torch.log(1 + rate * g * g), -decay / 2, 1.0)
    soft = 3 * limit / (torch.sqrt(rate + new_m * new_m) + (3 * limit).abs())

    stiff = torch.sign(new_m - start) * width * g
    x, y = width * g, cosine + rate
    if float(y) <= 0.5:
        stiff = stiff + torch.where(x > 0, x - y - 1, y)
    else:
        stiff = stiff + torch.where(x > 0, x * y / 2, y)

    steps = math.floor(2 * float(k) + t / 2)
    wave = torch.cos(theta + rate) * torch.sin(width * g) + torch.floor(4 * g) / 8
    wave = wave + steps * torch.sin(k)
    phase = math.cos(rate * t) + t // 2 * math.sin(width)

    early = 1 - rate if t < 3 else rate / 6 if t == 3 else 0.5**t
    chosen = {0: soft, 1: soft + early * gated, 2: gated}[int(mode)]
    update = chosen + cosine * k - total / (1 + peak) + stiff + bell + wave * phase / 16
    return theta - lr * update, {"m": new_m, "start": start, "k": k, "peak": peak}
