"""Adam.

Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015), arXiv:1412.6980
"""

import torch
from torch import Tensor


def initialize(theta: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The states before the first step, whose gradient is g."""
    return torch.zeros_like(theta), torch.zeros_like(theta)


def step(
    theta: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    *,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> tuple[Tensor, ...]:
    """The parameter after the step, then the states."""
    h = g + weight_decay * torch.where(theta - theta == 0, theta, 0)
    s = h**2
    m_next = beta1 * m + (1 - beta1) * h
    v_next = beta2 * v + (1 - beta2) * s
    num = m_next / (1 - beta1**t)
    vhat = v_next / (1 - beta2**t)
    update = num / (torch.sqrt(vhat) + eps)
    theta_next = theta - lr * update
    return theta_next, m_next, v_next
