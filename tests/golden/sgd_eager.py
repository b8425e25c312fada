"""SGD.

A Stochastic Approximation Method (Robbins & Monro, 1951); momentum as in torch.optim.SGD
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def numbers(dtype: torch.dtype, *values: float) -> tuple[Tensor, ...]:
    """Numbers as tensors, which operations of tensors take faster."""
    return torch.tensor(values, dtype=torch.float64, device="cpu").to(dtype).unbind()


def all_finite(x: Tensor) -> bool:
    """Whether all elements are known to be finite; on other devices, nobody waits to know it."""
    return x.is_cpu and math.isfinite(x.sum().item())


def finite_part(x: Tensor) -> Tensor:
    """The tensor itself, or a copy with 0 for what is not finite."""
    return x if all_finite(x) else torch.where(x - x == 0, x, 0)


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


def step_of_pieces(
    pieces: Iterable[Sequence[Tensor]],
    memory: Callable[[Tensor, int], Sequence[Tensor]],
    dtype: torch.dtype,
    *,
    t: float,
    lr: float,
    momentum: float,
    dampening: float,
    weight_decay: float,
    nesterov: float,
) -> None:
    """The step of pieces of tensors, in the memory of the parameters and the states.

    A piece has the parameter's elements, the gradient's, and those of each state.
    """
    number_weight_decay, number_momentum, number_one_minus_dampening, number_lr, = numbers(
        dtype,
        weight_decay,
        momentum,
        1 - dampening,
        lr,
    )
    for theta, g, buf in pieces:
        memory_1, memory_2, memory_3, = memory(theta, 3)
        theta_or_zero = finite_part(theta)
        product = torch.mul(theta_or_zero, number_weight_decay, out=memory_1)
        d = product.add_(g)
        if t == 1:
            buf_next = d
        else:
            momentum_times_buf = buf.mul_(number_momentum)
            product_2 = torch.mul(d, number_one_minus_dampening, out=memory_2)
            total = momentum_times_buf.add_(product_2)
            buf_next = total
        if momentum == 0:
            update = d
        else:
            if nesterov == 1:
                momentum_times_buf_next = torch.mul(buf_next, number_momentum, out=memory_2)
                total_2 = momentum_times_buf_next.add_(d)
                choice = total_2
            else:
                choice = buf_next
            update = choice
        lr_times_update = torch.mul(update, number_lr, out=memory_3)
        theta_next = theta.sub_(lr_times_update)
        buf.copy_(buf_next)
