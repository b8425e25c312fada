"""SGD.

A Stochastic Approximation Method (Robbins & Monro, 1951); momentum as in torch.optim.SGD
"""

import torch
from torch import Tensor


def initialize(theta: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The states before the first step, whose gradient is g."""
    return (torch.zeros_like(theta),)


def step(
    theta: Tensor,
    g: Tensor,
    buf: Tensor,
    *,
    t: float,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: float,
) -> tuple[Tensor, ...]:
    """The parameter after the step, then the states."""
    d = g + weight_decay * torch.where(theta - theta == 0, theta, 0)
    buf_next = d if t == 1 else momentum * buf + (1 - dampening) * d
    update = d if momentum == 0 else d + momentum * buf_next if nesterov == 1 else buf_next
    theta_next = theta - lr * update
    return theta_next, buf_next
