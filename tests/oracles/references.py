"""Optimizers written out by hand, one tensor each, after their papers and released code.

They are oracles, so they share nothing with the package, and where a formula has several spellings
they take another one than the specifications do. Operations are not in place: autograd passes
through a step whose hyperparameters are tensors.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

Number = float | Tensor


def _zero() -> Tensor:
    return torch.zeros((), dtype=torch.float64)


@dataclass
class Reference:
    """One tensor's optimizer; hyperparameters are attributes and may be changed between steps."""

    t: int = field(default=0, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        """Set the states; `g` is the first gradient."""
        raise NotImplementedError

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        """The new parameter; `t` counts this step already."""
        raise NotImplementedError

    def step(self, x: Tensor, g: Tensor) -> Tensor:
        """Take a step, the first one after `start`."""
        if self.t == 0:
            self.start(x, g)
        self.t += 1
        return self.update(x, g)

    def detach(self) -> None:
        """Make everything remembered a constant."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and not value.is_leaf:
                setattr(self, name, value.detach())


@dataclass
class SGD(Reference):
    """Momentum, dampening and Nesterov's variant, after the pseudocode of torch.optim.SGD."""

    lr: Number = 1e-3
    momentum: Number = 0.0
    dampening: Number = 0.0
    weight_decay: Number = 0.0
    nesterov: bool = False
    b: Tensor | None = field(default=None, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.b = None

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        g = g + self.weight_decay * x
        if self.momentum != 0:
            if self.b is None:
                self.b = g
            else:
                self.b = self.momentum * self.b + (1 - self.dampening) * g
            g = g + self.momentum * self.b if self.nesterov else self.b
        return x - self.lr * g


@dataclass
class Adam(Reference):
    """Kingma & Ba, 2015, in the efficient order of section 2, with L2 decay; also AMSGrad."""

    lr: Number = 1e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    amsgrad: bool = field(default=False, kw_only=True)
    decoupled: bool = field(default=False, kw_only=True)
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    largest: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.v, self.largest = (torch.zeros_like(x) for _ in range(3))

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        if self.decoupled:
            x = x * (1 - self.lr * self.weight_decay)
        else:
            g = g + x * self.weight_decay
        self.m = self.m + (1 - self.beta1) * (g - self.m)
        self.v = self.v + (1 - self.beta2) * (g * g - self.v)
        self.largest = torch.maximum(self.largest, self.v)
        v = self.largest if self.amsgrad else self.v
        root = v.sqrt() / (1 - self.beta2**self.t) ** 0.5
        return x - self.lr / (1 - self.beta1**self.t) * self.m / (root + self.eps)


@dataclass
class AVGrad(Reference):
    """Ozkara et al., 2024, section 4: divide by the average of all second moments so far."""

    lr: Number = 1e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    total: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.v, self.total = (torch.zeros_like(x) for _ in range(3))

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        self.m = self.m * self.beta1 + g * (1 - self.beta1)
        self.v = self.v * self.beta2 + g * g * (1 - self.beta2)
        self.total = self.total + self.v
        average = self.total / self.t
        m = self.m / (1 - self.beta1**self.t)
        root = (average / (1 - self.beta2**self.t)).sqrt()
        return x * (1 - self.lr * self.weight_decay) - self.lr * m / (root + self.eps)


@dataclass
class Yogi(Reference):
    """Zaheer et al., 2018, algorithm 2, started from small values and bias-corrected."""

    lr: Number = 1e-2
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-3
    weight_decay: Number = 0.0
    m0: Number = 1e-6
    v0: Number = 1e-6
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m = torch.zeros_like(x) + self.m0
        self.v = torch.zeros_like(x) + self.v0

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        square = g * g
        self.m = self.m * self.beta1 + g * (1 - self.beta1)
        self.v = self.v - (1 - self.beta2) * torch.sign(self.v - square) * square
        m = self.m / (1 - self.beta1**self.t)
        root = self.v.sqrt() / (1 - self.beta2**self.t) ** 0.5
        return x * (1 - self.lr * self.weight_decay) - self.lr * m / (root + self.eps)


@dataclass
class Adan(Reference):
    """Xie et al., 2022, with the betas and the proximal decay of the authors' code."""

    lr: Number = 1e-3
    beta1: Number = 0.98
    beta2: Number = 0.92
    beta3: Number = 0.99
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    m: Tensor = field(default_factory=_zero, init=False)
    n: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    last: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.n, self.v = (torch.zeros_like(x) for _ in range(3))
        self.last = g.clone()

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        difference = g - self.last
        self.last = g.clone()
        ahead = g + self.beta2 * difference
        self.m = self.m * self.beta1 + g * (1 - self.beta1)
        self.n = self.n * self.beta2 + difference * (1 - self.beta2)
        self.v = self.v * self.beta3 + ahead * ahead * (1 - self.beta3)
        root = self.v.sqrt() / (1 - self.beta3**self.t) ** 0.5 + self.eps
        x = x - self.lr / (1 - self.beta1**self.t) * self.m / root
        x = x - self.lr * self.beta2 / (1 - self.beta2**self.t) * self.n / root
        return x / (1 + self.lr * self.weight_decay)


@dataclass
class Lion(Reference):
    """Chen et al., 2023, program 1: the momentum is used before it is updated."""

    lr: Number = 1e-4
    beta1: Number = 0.9
    beta2: Number = 0.99
    weight_decay: Number = 0.0
    m: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m = torch.zeros_like(x)

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        x = x * (1 - self.lr * self.weight_decay)
        x = x - self.lr * torch.sign(self.m * self.beta1 + g * (1 - self.beta1))
        self.m = self.m * self.beta2 + g * (1 - self.beta2)
        return x


@dataclass
class LegacyMADA(Reference):
    """The published implementation of Ozkara et al., 2024, quirk by quirk.

    The running mean is a constant to autograd, as it is there; decay stays outside the update.
    """

    lr: Number = 6e-4
    beta1: Number = 0.9
    beta2: Number = 0.95
    beta3: Number = 0.0
    rho: Number = 0.0
    c: Number = 1.0
    gamma: Number = 1.0
    eps: Number = 1e-6
    weight_decay: Number = 0.0
    v0: Number = 1e-15
    difference: Number = 1.0  # 0 where the previous gradient is cleared before it is read
    last: Tensor = field(default_factory=_zero, init=False)
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    n: Tensor = field(default_factory=_zero, init=False)
    mean: Tensor = field(default_factory=_zero, init=False)
    lion: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.last, self.m, self.lion = (torch.zeros_like(x) for _ in range(3))
        self.v, self.mean = (torch.zeros_like(x) + self.v0 for _ in range(2))
        self.n = g * g  # the slip in units

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        difference = g - self.last if self.difference else g
        self.last = g.clone()
        ahead = g + self.beta3 * difference
        square = ahead * ahead
        yogi = self.v - square * torch.sign(self.v - square)
        s = self.c * square + (1 - self.c) * yogi
        self.m = self.beta1 * self.m + (1 - self.beta1) * g
        self.v = self.beta2 * self.v + (1 - self.beta2) * s
        self.n = self.beta3 * self.n + (1 - self.beta3) * difference
        with torch.no_grad():
            self.mean = self.mean + (self.v - self.mean) / self.t
        second = self.rho * self.v + (1 - self.rho) * self.mean
        root = (second / (1 - self.beta2**self.t)).sqrt() + self.eps
        adam = (self.m / (1 - self.beta1**self.t) + self.beta3 * self.n) / root
        self.lion = 0.98 * self.lion + 0.02 * g
        sign = torch.sign(0.95 * self.lion + 0.05 * g)  # of the updated momentum
        x = x * (1 - self.lr * self.weight_decay)
        return x - self.lr * (self.gamma * adam + (1 - self.gamma) * sign)


@dataclass
class AdamW(Adam):
    """Loshchilov & Hutter, 2019: the decay does not pass through the moments."""

    decoupled: bool = field(default=True, kw_only=True)


@dataclass
class ScheduleFreeAdamW(Reference):
    """Defazio et al., 2024, Algorithm 1: the average is kept, and the point of gradients made."""

    lr: Number = 2.5e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-8
    weight_decay: Number = 0.0
    warmup_steps: Number = 0.0
    r: Number = 0.0
    weight_lr_power: Number = 2.0
    z: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)
    average: Tensor = field(default_factory=_zero, init=False)
    largest: Number = field(default=0.0, init=False)
    total: Number = field(default=0.0, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.z, self.average, self.v = x, x, torch.zeros_like(x)

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        rate = self.lr
        if self.t < self.warmup_steps:
            rate = self.lr * self.t / self.warmup_steps
        self.v = self.v + (1 - self.beta2) * (g * g - self.v)
        second = self.v / (1 - self.beta2**self.t)
        self.z = self.z - rate * g / (second.sqrt() + self.eps) - rate * self.weight_decay * x
        self.largest = rate if rate > self.largest else self.largest
        weight = self.t**self.r * self.largest**self.weight_lr_power
        self.total = self.total + weight
        share = weight / self.total
        self.average = self.average + share * (self.z - self.average)
        return (1 - self.beta1) * self.z + self.beta1 * self.average


@dataclass
class AMSGrad(Adam):
    """Reddi et al., 2018, with torch's order: the maximum first, then the bias correction."""

    amsgrad: bool = field(default=True, kw_only=True)


@dataclass
class LAMB(Reference):
    """You et al., 2019, algorithm 2, with both bias corrections and phi(x) = x."""

    lr: Number = 1e-3
    beta1: Number = 0.9
    beta2: Number = 0.999
    eps: Number = 1e-6
    weight_decay: Number = 0.01
    m: Tensor = field(default_factory=_zero, init=False)
    v: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.m, self.v = torch.zeros_like(x), torch.zeros_like(x)

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        self.m = self.m + (1 - self.beta1) * (g - self.m)
        self.v = self.v + (1 - self.beta2) * (g * g - self.v)
        root = (self.v / (1 - self.beta2**self.t)).sqrt() + self.eps
        r = self.m / (1 - self.beta1**self.t) / root + self.weight_decay * x
        size, change = (torch.sqrt((a * a).sum()) for a in (x, r))
        ratio = size / change if bool(size > 0) and bool(change > 0) else torch.ones_like(size)
        return x - self.lr * ratio * r


@dataclass
class LARS(Reference):
    """You et al., 2017, algorithm 1; a tensor of zeros or without a gradient gets the ratio 1."""

    lr: Number = 0.1
    momentum: Number = 0.9
    weight_decay: Number = 5e-4
    trust_coef: Number = 1e-3
    v: Tensor = field(default_factory=_zero, init=False)

    def start(self, x: Tensor, g: Tensor) -> None:
        self.v = torch.zeros_like(x)

    def update(self, x: Tensor, g: Tensor) -> Tensor:
        size, slope = (torch.sqrt((a * a).sum()) for a in (x, g))
        above, below = self.trust_coef * size, slope + self.weight_decay * size
        ratio = above / below if bool(above > 0) and bool(below > 0) else torch.ones_like(size)
        self.v = self.momentum * self.v + self.lr * ratio * (g + self.weight_decay * x)
        return x - self.v


RULES: dict[str, type[Reference]] = {
    "adam": Adam,
    "adamw": AdamW,
    "adan": Adan,
    "amsgrad": AMSGrad,
    "avgrad": AVGrad,
    "lamb": LAMB,
    "lars": LARS,
    "lion": Lion,
    "mada_legacy": LegacyMADA,
    "schedule_free_adamw": ScheduleFreeAdamW,
    "sgd": SGD,
    "yogi": Yogi,
}
