"""Adam.

Adam: A Method for Stochastic Optimization (Kingma & Ba, 2015), arXiv:1412.6980
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def numbers(dtype: torch.dtype, *values: float) -> tuple[Tensor, ...]:
    """Numbers as tensors, which operations of tensors take faster."""
    return torch.tensor(values, dtype=torch.float64, device="cpu").to(dtype).unbind()


def divisors(dtype: torch.dtype, *values: float) -> list[Tensor | None]:
    """Numbers as tensors; None for what is 1 in that precision, as bias corrections are at last."""
    found = numbers(dtype, *values)
    return [None if x.item() == 1 else x for x in found]


def divided(memory: Tensor, x: Tensor, divisor: Tensor | None) -> Tensor:
    """A quotient, in some memory; what is divided by 1 is the tensor itself."""
    return x if divisor is None else torch.div(x, divisor, out=memory)


def all_finite(x: Tensor) -> bool:
    """Whether all elements are known to be finite; on other devices, nobody waits to know it."""
    return x.is_cpu and math.isfinite(x.sum().item())


def finite_part(x: Tensor) -> Tensor:
    """The tensor itself, or a copy with 0 for what is not finite."""
    return x if all_finite(x) else torch.where(x - x == 0, x, 0)


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


def step_of_pieces(
    pieces: Iterable[Sequence[Tensor]],
    memory: Callable[[Tensor, int], Sequence[Tensor]],
    dtype: torch.dtype,
    *,
    t: float,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """The step of pieces of tensors, in the memory of the parameters and the states.

    A piece has the parameter's elements, the gradient's, and those of each state.
    """
    (
        number_weight_decay,
        number_beta1,
        number_one_minus_beta1,
        number_beta2,
        number_one_minus_beta2,
        number_eps,
        number_lr,
    ) = numbers(dtype, weight_decay, beta1, 1 - beta1, beta2, 1 - beta2, eps, lr)
    divisor_one_minus_beta1_pow_t, divisor_one_minus_beta2_pow_t, = divisors(
        dtype,
        1 - beta1**t,
        1 - beta2**t,
    )
    for theta, g, m, v in pieces:
        memory_1, memory_2, = memory(theta, 2)
        theta_or_zero = finite_part(theta)
        product = torch.mul(theta_or_zero, number_weight_decay, out=memory_1)
        h = product.add_(g)
        s = torch.mul(h, h, out=memory_2)
        beta1_times_m = m.mul_(number_beta1)
        one_minus_beta1_times_h = h.mul_(number_one_minus_beta1)
        m_next = beta1_times_m.add_(one_minus_beta1_times_h)
        beta2_times_v = v.mul_(number_beta2)
        one_minus_beta2_times_s = s.mul_(number_one_minus_beta2)
        v_next = beta2_times_v.add_(one_minus_beta2_times_s)
        num = divided(memory_2, m_next, divisor_one_minus_beta1_pow_t)
        vhat = divided(memory_1, v_next, divisor_one_minus_beta2_pow_t)
        sqrt_vhat = torch.sqrt(vhat, out=memory_1)
        sqrt_vhat_plus_eps = sqrt_vhat.add_(number_eps)
        update = torch.div(num, sqrt_vhat_plus_eps, out=memory_2)
        lr_times_update = update.mul_(number_lr)
        theta_next = theta.sub_(lr_times_update)
