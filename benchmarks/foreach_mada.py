"""MADA's fixed step in as few `torch._foreach_` calls as its equations need.

The measure of eager code: the equations of `specs/mada.opt` without weight decay, written out, with
uniform factors collected by hand. They are the same function of finite numbers, rounded otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

STATES = ("m", "v", "V", "n", "g_prev", "m_lion")


class ForeachMADA:
    """MADA with fixed coefficients; one group of parameters, all of which have gradients.

    Args:
        params: the parameters.
        c, rho, kappa, gamma, lr, beta1, beta2, eps, lr_ratio, adan_beta2, lion_beta1, lion_beta2:
            hyperparameters by their names in `specs/mada.opt`.

    Attributes:
        state: by parameter, a tensor of its shape for each of `STATES`.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        *,
        c: float,
        rho: float,
        kappa: float,
        gamma: float,
        lr: float = 6e-4,
        beta1: float = 0.9,
        beta2: float = 0.95,
        eps: float = 1e-6,
        lr_ratio: float = 0.1,
        adan_beta2: float = 0.92,
        lion_beta1: float = 0.9,
        lion_beta2: float = 0.99,
    ) -> None:
        self.params = list(params)
        self.c, self.rho, self.kappa, self.gamma = c, rho, kappa, gamma
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.lion_lr = lr_ratio * lr
        self.adan_beta2, self.lion_beta1, self.lion_beta2 = adan_beta2, lion_beta1, lion_beta2
        self.taken = 0
        self.state: dict[Tensor, dict[str, Tensor]] = {
            p: {name: torch.zeros_like(p, requires_grad=False) for name in STATES}
            for p in self.params
        }

    @torch.no_grad()
    def step(self) -> None:
        """Updates the parameters from their gradients: 21 calls."""
        grads = [p.grad for p in self.params if p.grad is not None]
        states = {name: [self.state[p][name] for p in self.params] for name in STATES}
        m, v, n, before = states["m"], states["v"], states["n"], states["g_prev"]
        self.taken += 1
        if self.taken == 1:
            torch._foreach_copy_(before, grads)  # so that the first difference is zero
        c, kappa, beta2 = self.c, self.kappa, self.beta2
        corrections = [1 - beta**self.taken for beta in (self.beta1, beta2, self.adan_beta2)]
        first, second, third = corrections

        delta = torch._foreach_sub(grads, before)
        torch._foreach_copy_(before, grads)
        torch._foreach_lerp_(m, grads, 1 - self.beta1)
        torch._foreach_lerp_(n, delta, 1 - self.adan_beta2)

        # v' = beta2 v + (1 - beta2) (c h^2 + (1 - c) (v + h^2 sign(h^2 - v)))
        square = torch._foreach_add(grads, delta, alpha=kappa * self.adan_beta2)
        torch._foreach_mul_(square, square)
        sign = torch._foreach_sub(square, v)
        torch._foreach_sign_(sign)
        torch._foreach_mul_(v, beta2 + (1 - beta2) * (1 - c))
        torch._foreach_addcmul_(v, square, sign, value=(1 - beta2) * (1 - c))
        torch._foreach_add_(v, square, alpha=(1 - beta2) * c)
        torch._foreach_lerp_(states["V"], v, 1 / self.taken)

        # The correction of vhat stands in front of the root, and so in that of the step.
        root = torch._foreach_lerp(states["V"], v, self.rho)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, self.eps * math.sqrt(second))
        num = torch._foreach_add(m, n, alpha=kappa * self.adan_beta2 * first / third)
        size = -self.lr * self.gamma * math.sqrt(second) / first
        torch._foreach_addcdiv_(self.params, num, root, value=size)

        direction = torch._foreach_lerp(states["m_lion"], grads, 1 - self.lion_beta1)
        torch._foreach_sign_(direction)
        torch._foreach_add_(self.params, direction, alpha=-(1 - self.gamma) * self.lion_lr)
        torch._foreach_lerp_(states["m_lion"], grads, 1 - self.lion_beta2)
