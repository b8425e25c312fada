"""Contestants as objects that take steps."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import optdsl
from benchmarks.autograd_mada import AutogradMADA
from benchmarks.contestants import CONTESTANTS, RULE

Parameters = list[nn.Parameter]

# Somewhere inside the hull of the five rules, where no term of the blend vanishes.
INTERIOR = {"c": 0.9, "rho": 0.8, "kappa": 0.1, "gamma": 0.9}

# What specs/mada.opt learns, from the first step on: a step that only waits for the 50th would
# flatter the result.
COEFFICIENT = optdsl.Learn("sgd", lr=0.1, clip=10)
BETA = optdsl.Learn("sgd", lr=5e-4, clip=10, bounds=(0.5, 0.99))
LEARN = {
    **dict.fromkeys(("c", "rho", "kappa", "gamma"), COEFFICIENT),
    **dict.fromkeys(("beta1", "beta2"), BETA),
}

ADABELIEF = """\
optimizer AdaBelief
  "AdaBelief Optimizer (Zhuang et al., NeurIPS 2020), arXiv:2010.07468"

hyper lr           = 1e-3  in [0, inf)
hyper beta1        = 0.9   in [0, 1)
hyper beta2        = 0.999 in [0, 1)
hyper eps          = 1e-16 in [0, inf)
hyper weight_decay = 0     in [0, inf)

state m = 0
state s = 0

m'     = ema(m, g, beta1)
s'     = ema(s, (g - m')^2, beta2) + eps
update = debias(m', beta1) / (sqrt(debias(s', beta2)) + eps)
theta' = theta - lr * (update + weight_decay * theta)
"""


class CompiledAdam:
    """The foreach step of torch.optim.Adam through torch.compile."""

    def __init__(self, params: Parameters) -> None:
        self.optimizer = torch.optim.Adam(params, foreach=True)
        self.state = self.optimizer.state
        self.step = torch.compile(self.optimizer.step)


def _ours(spec: str, params: Parameters, backend: str, **options: Any) -> Any:
    hypers = options.pop("hypers", {})
    return optdsl.load(spec, backend=backend, **options)(params, **hypers)


def _adabelief(params: Parameters, backend: str) -> Any:
    return optdsl.compile(ADABELIEF, backend=backend)(params)


def _theirs(name: str, params: Parameters, backend: str) -> Any:
    import pytorch_optimizer

    return getattr(pytorch_optimizer, name)(params)


_MADA = partial(_ours, "mada")

_BUILDERS: dict[str, Callable[[Parameters, str], Any]] = {
    "torch-fused": lambda params, backend: torch.optim.Adam(params, fused=True),
    "torch-foreach": lambda params, backend: torch.optim.Adam(params, foreach=True),
    "torch-compile": lambda params, backend: CompiledAdam(params),
    "adam": partial(_ours, "adam"),
    "mada-fixed": partial(_MADA, learn=False),
    "mada-interior": partial(_MADA, learn=False, hypers=INTERIOR),
    "mada-overlapped": partial(_MADA, learn=LEARN, order="overlapped", hypers=INTERIOR),
    "mada-exact": partial(_MADA, learn=LEARN, order="exact", hypers=INTERIOR),
    "mada-autograd": lambda params, backend: AutogradMADA(params, after=0, **INTERIOR),
    "yogi": partial(_ours, "yogi"),
    "their-yogi": partial(_theirs, "Yogi"),
    "adan": partial(_ours, "adan"),
    "their-adan": partial(_theirs, "Adan"),
    "lion": partial(_ours, "lion"),
    "their-lion": partial(_theirs, "Lion"),
    "adabelief": _adabelief,
    "their-adabelief": partial(_theirs, "AdaBelief"),
}
assert _BUILDERS.keys() == CONTESTANTS.keys()


def build(name: str, params: Parameters, backend: str) -> Any:
    """Makes a contestant, which has `step()` and `state`.

    Args:
        name: one of `CONTESTANTS`, or `RULE` and a rule of the library, which then learns nothing.
        params: the parameters that it shall update.
        backend: of optdsl; the others have only one.
    """
    if name.startswith(RULE):
        return _ours(name.removeprefix(RULE), params, backend, learn=False)
    return _BUILDERS[name](params, backend)
