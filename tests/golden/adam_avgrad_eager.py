"""AdamAVGrad.

The interpolation of Adam and AVGrad in MADA's convergence theorem (Ozkara et al., ICML 2024)
"""

import math
from collections.abc import Callable, Iterable, Sequence

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


def shares(dtype: torch.dtype, *weights: float) -> list[tuple[Tensor, ...] | None]:
    """The share of each weight in all so far, and what is left; None for what weighs nothing.

    What weighs all has an empty pair.
    """
    total, found = 0.0, []
    for weight in weights:
        if weight == 0:
            found.append(None)
            continue
        total += weight
        share = weight / total
        found.append(() if share == 1 else numbers(dtype, share, 1 - share))
    return found if any(x is not None for x in found) else [(), *found[1:]]


def all_finite(x: Tensor) -> bool:
    """Whether all elements are known to be finite; on other devices, nobody waits to know it."""
    return x.is_cpu and math.isfinite(x.sum().item())


def mix_into(
    memory: Tensor, spare: Tensor, shares: list[tuple[Tensor, ...] | None], *parts: Tensor
) -> Tensor:
    """The mean of tensors by shares of weights that sum to one, in some memory."""
    mean = parts[0]
    for share, x in zip(shares, parts, strict=True):
        if share is None:
            continue
        if not share:
            mean = x
            continue
        gap = torch.sub(mean, x, out=spare)
        if all_finite(gap):
            mean = torch.sub(mean, gap.mul_(share[0]), out=memory)
        else:
            # Infinities have no difference, but they have a mean.
            apart = share[1] * mean + share[0] * x
            mean = memory.copy_(torch.where(gap.isfinite(), mean - share[0] * gap, apart))
    return mean if mean is memory else memory.copy_(mean)


def finite_part(x: Tensor) -> Tensor:
    """The tensor itself, or a copy with 0 for what is not finite."""
    return x if all_finite(x) else torch.where(x - x == 0, x, 0)


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
    rho: float,
) -> None:
    """The step of pieces of tensors, in the memory of the parameters and the states.

    A piece has the parameter's elements, the gradient's, and those of each state.
    """
    one_minus_beta2_pow_t = 1 - beta2**t
    (
        number_beta1,
        number_one_minus_beta1,
        number_beta2,
        number_one_minus_beta2,
        number_t_minus_1,
        number_t,
        number_eps,
        number_weight_decay,
        number_lr,
    ) = numbers(dtype, beta1, 1 - beta1, beta2, 1 - beta2, t - 1, t, eps, weight_decay, lr)
    divisor_one_minus_beta1_pow_t, divisor_one_minus_beta2_pow_t, = divisors(
        dtype,
        1 - beta1**t,
        one_minus_beta2_pow_t,
    )
    shares_of_vhat = shares(dtype, rho, 1 - rho)
    for theta, g, m, v, V in pieces:
        memory_1, memory_2, memory_3, memory_4, = memory(theta, 4)
        beta1_times_m = m.mul_(number_beta1)
        one_minus_beta1_times_g = torch.mul(g, number_one_minus_beta1, out=memory_1)
        m_next = beta1_times_m.add_(one_minus_beta1_times_g)
        s = torch.mul(g, g, out=memory_1)
        num = divided(memory_2, m_next, divisor_one_minus_beta1_pow_t)
        beta2_times_v = v.mul_(number_beta2)
        one_minus_beta2_times_s = s.mul_(number_one_minus_beta2)
        v_next = beta2_times_v.add_(one_minus_beta2_times_s)
        t_minus_1_times_V = V.mul_(number_t_minus_1)
        total = t_minus_1_times_V.add_(v_next)
        V_next = total.div_(number_t)
        vhat_adam = None
        if shares_of_vhat[0] is not None:
            vhat_adam = divided(memory_1, v_next, divisor_one_minus_beta2_pow_t)
        vhat_avgrad = None
        if shares_of_vhat[1] is not None:
            vhat_avgrad = divided(memory_3, V_next, divisor_one_minus_beta2_pow_t)
        vhat = mix_into(memory_1, memory_4, shares_of_vhat, vhat_adam, vhat_avgrad)
        sqrt_vhat = vhat.sqrt_()
        sqrt_vhat_plus_eps = sqrt_vhat.add_(number_eps)
        update = torch.div(num, sqrt_vhat_plus_eps, out=memory_2)
        theta_or_zero = finite_part(theta)
        product = torch.mul(theta_or_zero, number_weight_decay, out=memory_1)
        update_plus_product = update.add_(product)
        product_2 = update_plus_product.mul_(number_lr)
        theta_next = theta.sub_(product_2)
