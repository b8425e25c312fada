"""AdamAVGrad.

The interpolation of Adam and AVGrad in MADA's convergence theorem (Ozkara et al., ICML 2024)
"""

import torch
from torch import Tensor


def mix(*parts: tuple[float, Tensor]) -> Tensor:
    """The mean of tensors by weights that sum to one; what weighs nothing takes no part."""
    total, mean = 0.0, parts[0][1]
    for weight, x in parts:
        if weight != 0:
            total += weight
            share, gap = weight / total, mean - x
            if share == 1:
                mean = x
            else:
                # Infinities have no difference, but they have a mean.
                apart = (1 - share) * mean + share * x
                mean = torch.where(gap.isfinite(), mean - share * gap, apart)
    return mean


def initialize(theta: Tensor, g: Tensor) -> tuple[Tensor, ...]:
    """The states before the first step, whose gradient is g."""
    return torch.zeros_like(theta), torch.zeros_like(theta), torch.zeros_like(theta)


def step(
    theta: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    V: Tensor,
    *,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    rho: float,
) -> tuple[Tensor, ...]:
    """The parameter after the step, then the states."""
    one_minus_beta2_pow_t = 1 - beta2**t
    m_next = beta1 * m + (1 - beta1) * g
    s = g**2
    num = m_next / (1 - beta1**t)
    v_next = beta2 * v + (1 - beta2) * s
    vhat_adam = v_next / one_minus_beta2_pow_t
    V_next = (v_next + (t - 1) * V) / t
    vhat_avgrad = V_next / one_minus_beta2_pow_t
    vhat = mix((rho, vhat_adam), (1 - rho, vhat_avgrad))
    update = num / (torch.sqrt(vhat) + eps)
    total = update + weight_decay * torch.where(theta - theta == 0, theta, 0)
    theta_next = theta - lr * total
    return theta_next, m_next, v_next, V_next
