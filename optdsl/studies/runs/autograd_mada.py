"""The learned MADA step by automatic differentiation, as Ozkara et al. (2024) describe it.

The update is written with ordinary torch operations on coefficients that require gradients, so
that the new parameters stay attached to the coefficients by a graph. When the next gradient
arrives, one more backward pass through that graph gives the hyper-gradients: the chain rule turns
dL/dtheta into dL/dcoefficient. The coefficients move first, and the step then uses the new ones
(`order="exact"`).

The equations are those of `specs/mada.opt`, written out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

LEARNED = {  # coefficient: (learning rate, lower bound, upper bound)
    "c": (0.1, 0.0, 1.0),
    "rho": (0.1, 0.0, 1.0),
    "kappa": (0.1, 0.0, 1.0),
    "gamma": (0.1, 0.0, 1.0),
    "beta1": (5e-4, 0.5, 0.99),
    "beta2": (5e-4, 0.5, 0.99),
}
CLIP = 10.0
STATES = ("m", "v", "V", "n", "g_prev", "m_lion")


class AutogradMADA(torch.optim.Optimizer):
    """MADA with all coefficients learned by backward passes; one parameter group.

    Args:
        params: the parameters.
        after: steps at the start that leave the coefficients as they are.
        **hypers: hyperparameters by their names in `specs/mada.opt`.
    """

    def __init__(self, params: Iterable[nn.Parameter], after: int = 50, **hypers: float) -> None:
        defaults = {
            "lr": 6e-4,
            "beta1": 0.9,
            "beta2": 0.95,
            "eps": 1e-6,
            "weight_decay": 0.0,
            "lr_ratio": 0.1,
            "c": 1.0,
            "rho": 1.0,
            "kappa": 0.0,
            "gamma": 1.0,
            "adan_beta2": 0.92,
            "lion_beta1": 0.9,
            "lion_beta2": 0.99,
        }
        unknown = hypers.keys() - defaults.keys()
        if unknown:
            raise TypeError(f"AutogradMADA has no hyperparameter {', '.join(sorted(unknown))}")
        super().__init__(params, defaults | hypers)
        self.after = after
        self.taken = 0
        self.pending: dict[Tensor, Tensor] = {}  # parameter: its value with its graph
        self.coefficients: dict[str, Tensor] = {}  # the leaves of that graph

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Learn from the gradients, then take a step with them."""
        (group,) = self.param_groups
        params = [p for p in group["params"] if p.grad is not None]
        self._learn(group)
        self.taken += 1
        self.coefficients = {
            name: torch.tensor(group[name], dtype=torch.float64, requires_grad=True)
            for name in LEARNED
        }
        hypers = {**group, **self.coefficients}
        for p in params:
            with torch.enable_grad():
                after = self._advance(p.detach(), p.grad, self.state[p], hypers)
            with torch.no_grad():
                p.copy_(after)
            self.pending[p] = after

    def _learn(self, group: dict[str, Any]) -> None:
        """One step of projected gradient descent on the coefficients."""
        live = [(after, p.grad) for p, after in self.pending.items() if p.grad is not None]
        self.pending = {}
        if not live:
            return
        outputs, gradients = zip(*live, strict=True)
        leaves = list(self.coefficients.values())
        found = torch.stack(torch.autograd.grad(outputs, leaves, gradients)).tolist()
        if self.taken < self.after:
            return
        for (name, (lr, low, high)), slope in zip(LEARNED.items(), found, strict=True):
            if math.isfinite(slope):
                clipped = min(max(slope, -CLIP), CLIP)
                group[name] = min(max(group[name] - lr * clipped, low), high)

    def _advance(
        self, theta: Tensor, g: Tensor, state: dict[str, Tensor], hypers: dict[str, Any]
    ) -> Tensor:
        """The new value of a parameter, attached to the coefficients; the states are not."""
        if not state:
            state.update({name: torch.zeros_like(theta) for name in STATES})
            state["g_prev"].copy_(g)  # so that the first difference is zero
        t = self.taken
        m, v, mean, n, g_prev, m_lion = (state[name] for name in STATES)
        lr, eps, decay = hypers["lr"], hypers["eps"], hypers["weight_decay"]
        beta1, beta2, adan_beta2 = hypers["beta1"], hypers["beta2"], hypers["adan_beta2"]
        c, rho, kappa, gamma = (hypers[name] for name in ("c", "rho", "kappa", "gamma"))

        delta = g - g_prev
        h = kappa * (g + adan_beta2 * delta) + (1 - kappa) * g
        square = h**2
        s = c * square + (1 - c) * (v + square * torch.sign(square - v))
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * s
        mean = (v + (t - 1) * mean) / t
        n = adan_beta2 * n + (1 - adan_beta2) * delta

        adam_num = m / (1 - beta1**t)
        adan_num = adam_num + adan_beta2 * n / (1 - adan_beta2**t)
        num = kappa * adan_num + (1 - kappa) * adam_num
        correction = 1 - beta2**t
        vhat = rho * (v / correction) + (1 - rho) * (mean / correction)
        update = num / (torch.sqrt(vhat) + eps)

        adam = theta - lr * (update + decay * theta)
        adan = (theta - lr * update) / (1 + lr * decay)
        direction = torch.sign(hypers["lion_beta1"] * m_lion + (1 - hypers["lion_beta1"]) * g)
        lion = theta - hypers["lr_ratio"] * lr * (direction + decay * theta)
        m_lion = hypers["lion_beta2"] * m_lion + (1 - hypers["lion_beta2"]) * g

        with torch.no_grad():
            for name, value in zip(STATES, (m, v, mean, n, g, m_lion), strict=True):
                # A new tensor: the graph still needs the old one.
                state[name] = value.detach().clone() if value is g else value.detach()
        blended: Tensor = gamma * (kappa * adan + (1 - kappa) * adam) + (1 - gamma) * lion
        return blended
