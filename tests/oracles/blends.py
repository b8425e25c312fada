"""The library's blends written out by hand, one tensor each, as `references` writes its rules."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.oracles.references import RULES, AdamW, Number, Reference, _zero


def _gate(share: Number, one: Tensor, other: Tensor) -> Tensor:
    """`one` by its share, `other` by the rest."""
    return other + share * (one - other)


def _weighed(pairs: list[tuple[Number, Tensor]]) -> Tensor:
    """A weighted mean, so that what weights do together is no change."""
    total = sum(weight for weight, _ in pairs)
    return sum((weight * x for weight, x in pairs), start=_zero()) / total


@dataclass
class HyperAdam(AdamW):
    """AdamW; the blend has another second beta by default."""

    lr: Number = 1e-3
    beta2: Number = 0.95
    weight_decay: Number = 1e-2


@dataclass
class MADA(Reference):
    """The five rules of Ozkara et al., 2024, each in its canonical form, gated one by one."""

    lr: Number = 6e-4
    beta1: Number = 0.9
    eps: Number = 1e-6
    beta2: Number = 0.95
    weight_decay: Number = 0.0
    lr_ratio: Number = 0.1
    c: Number = 1.0
    rho: Number = 1.0
    kappa: Number = 0.0
    gamma: Number = 1.0
    adan_beta2: Number = 0.92
    lion_beta1: Number = 0.9
    lion_beta2: Number = 0.99
    last: Tensor = field(default_factory=_zero, init=False)
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    n: Tensor = field(default_factory=_zero, init=False)
    mean: Tensor = field(default_factory=_zero, init=False)
    lion: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.v, self.n, self.mean, self.lion = (torch.zeros_like(x) for _ in range(5))
        self.last = g

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        b1, b2, b3 = self.beta1, self.beta2, self.adan_beta2
        change, self.last = g - self.last, g
        ahead = g + self.kappa * b3 * change
        square = ahead * ahead
        yogi = self.v - square * torch.sign(self.v - square)
        self.m = g + b1 * (self.m - g)
        self.n = change + b3 * (self.n - change)
        s = _gate(self.c, square, yogi)
        self.v = s + b2 * (self.v - s)
        self.mean = self.mean + (self.v - self.mean) / self.t
        second = _gate(self.rho, self.v, self.mean) / (1 - b2**self.t)
        first = self.m / (1 - b1**self.t) + self.kappa * b3 * self.n / (1 - b3**self.t)
        adaptive = self.lr * first / (second.sqrt() + self.eps)
        lr, decay = self.lr_ratio * self.lr, self.weight_decay
        sign = torch.sign(self.lion_beta1 * self.lion + (1 - self.lion_beta1) * g)
        self.lion = self.lion_beta2 * self.lion + (1 - self.lion_beta2) * g
        adamw = x * (1 - self.lr * decay) - adaptive
        adan = (x - adaptive) / (1 + self.lr * decay)
        lion = x * (1 - lr * decay) - lr * sign
        return _gate(self.gamma, _gate(self.kappa, adan, adamw), lion)


@dataclass
class AdamAVGrad(Reference):
    """Adam whose denominator is a mixture of its second moment and the mean of all of them."""

    lr: Number = 1e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    rho: Number = 1.0
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    mean: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.v, self.mean = (torch.zeros_like(x) for _ in range(3))

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        self.m = g + self.beta1 * (self.m - g)
        self.v = g * g + self.beta2 * (self.v - g * g)
        self.mean = self.mean + (self.v - self.mean) / self.t
        second = _gate(self.rho, self.v, self.mean) / (1 - self.beta2**self.t)
        step = self.m / (1 - self.beta1**self.t) / (second.sqrt() + self.eps)
        return x * (1 - self.lr * self.weight_decay) - self.lr * step


@dataclass
class TwoSpeed(Reference):
    """AdamW with a gate between two corrected momenta."""

    lr: Number = 1e-3
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 1e-2
    slow: Number = 0.5
    beta1_fast: Number = 0.8
    beta1_slow: Number = 0.98
    quick: Tensor = field(default_factory=_zero, init=False)
    slack: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.quick, self.slack, self.v = (torch.zeros_like(x) for _ in range(3))

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        self.quick = g + self.beta1_fast * (self.quick - g)
        self.slack = g + self.beta1_slow * (self.slack - g)
        self.v = g * g + self.beta2 * (self.v - g * g)
        quick = self.quick / (1 - self.beta1_fast**self.t)
        slack = self.slack / (1 - self.beta1_slow**self.t)
        root = (self.v / (1 - self.beta2**self.t)).sqrt() + self.eps
        step = _gate(self.slow, slack, quick) / root
        return x * (1 - self.lr * self.weight_decay) - self.lr * step


@dataclass
class Memory(Reference):
    """Adam with decay in the gradient and three memories of the second moment."""

    lr: Number = 1e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    w_adam: Number = 1 / 3
    w_avgrad: Number = 1 / 3
    w_amsgrad: Number = 1 / 3
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    mean: Tensor = field(default_factory=_zero, init=False)
    largest: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.v, self.mean, self.largest = (torch.zeros_like(x) for _ in range(4))

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        d = g + self.weight_decay * x
        self.m = d + self.beta1 * (self.m - d)
        self.v = d * d + self.beta2 * (self.v - d * d)
        self.mean = self.mean + (self.v - self.mean) / self.t
        self.largest = torch.maximum(self.largest, self.v)
        second = _weighed(
            [(self.w_adam, self.v), (self.w_avgrad, self.mean), (self.w_amsgrad, self.largest)]
        )
        root = (second / (1 - self.beta2**self.t)).sqrt() + self.eps
        return x - self.lr * self.m / (1 - self.beta1**self.t) / root


@dataclass
class Adaptivity(Reference):
    """Three whole updates by weights: momentum, AdamW, and Lion."""

    lr: Number = 1e-3
    weight_decay: Number = 0.0
    sgd_ratio: Number = 10.0
    lion_ratio: Number = 0.1
    w_sgd: Number = 1 / 3
    w_adamw: Number = 1 / 3
    w_lion: Number = 1 / 3
    adamw_beta1: Number = 0.9
    adamw_beta2: Number = 0.999
    adamw_eps: Number = 1e-8
    lion_beta1: Number = 0.9
    lion_beta2: Number = 0.99
    heavy: Tensor = field(default_factory=_zero, init=False)
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    lion: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.heavy, self.m, self.v, self.lion = (torch.zeros_like(x) for _ in range(4))

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        decay, b1, b2 = self.weight_decay, self.adamw_beta1, self.adamw_beta2
        self.heavy = 0.9 * self.heavy + g + decay * x
        self.m = g + b1 * (self.m - g)
        self.v = g * g + b2 * (self.v - g * g)
        root = (self.v / (1 - b2**self.t)).sqrt() + self.adamw_eps
        sign = torch.sign(self.lion_beta1 * self.lion + (1 - self.lion_beta1) * g)
        self.lion = self.lion_beta2 * self.lion + (1 - self.lion_beta2) * g
        lr = self.lion_ratio * self.lr
        sgd = -self.sgd_ratio * self.lr * self.heavy
        adamw = -self.lr * (self.m / (1 - b1**self.t) / root + decay * x)
        lion = -lr * (sign + decay * x)
        return x + _weighed([(self.w_sgd, sgd), (self.w_adamw, adamw), (self.w_lion, lion)])


REFERENCES: dict[str, type[Reference]] = {
    **RULES,
    "adam_avgrad": AdamAVGrad,
    "adaptivity": Adaptivity,
    "hyperadam": HyperAdam,
    "mada": MADA,
    "memory": Memory,
    "two_speed": TwoSpeed,
}
