"""Contestants as objects that take steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

import optdsl
from benchmarks.contestants import BLEND, CONTESTANTS, RULE, SAMPLE
from optdsl.studies.runs.autograd_mada import AutogradMADA

Parameters = list[nn.Parameter]

# Somewhere inside the hull of the five rules, where no term of the blend vanishes.
INTERIOR = {"c": 0.9, "rho": 0.8, "kappa": 0.1, "gamma": 0.9}


def learned(**options: Any) -> dict[str, optdsl.Learn]:
    """What specs/mada.opt learns, and how.

    From the first step on: a step that only waits for the 50th would flatter the result. The bounds
    keep coefficients away from 0 and 1, where a term of the blend vanishes, however far the random
    gradients of a benchmark take them.
    """
    coefficient = optdsl.Learn("sgd", lr=0.1, clip=10, bounds=(0.05, 0.95), **options)
    beta = optdsl.Learn("sgd", lr=5e-4, clip=10, bounds=(0.5, 0.99), **options)
    return {
        **dict.fromkeys(("c", "rho", "kappa", "gamma"), coefficient),
        **dict.fromkeys(("beta1", "beta2"), beta),
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


def _blend(rules: list[str], params: Parameters, backend: str) -> Any:
    """A mixture of rules at equal weights."""
    with warnings.catch_warnings():
        # That rules share hyperparameters is no matter here.
        warnings.simplefilter("ignore", optdsl.SpecWarning)
        return optdsl.blend(*rules, backend=backend, learn=False)(params)


def _adabelief(params: Parameters, backend: str) -> Any:
    return optdsl.compile(ADABELIEF, backend=backend)(params)


def _theirs(name: str, params: Parameters, backend: str) -> Any:
    import pytorch_optimizer

    return getattr(pytorch_optimizer, name)(params)


def _learned(params: Parameters, backend: str, order: str, **options: Any) -> Any:
    """MADA in one of the orders of learning."""
    return _ours("mada", params, backend, learn=learned(**options), order=order, hypers=INTERIOR)


def _foreach_mada(params: Parameters, backend: str) -> Any:
    from benchmarks.foreach_mada import ForeachMADA

    return ForeachMADA(params, **INTERIOR)


LEARN = learned()

_MADA = partial(_ours, "mada")

_BUILDERS: dict[str, Callable[[Parameters, str], Any]] = {
    "torch-fused": lambda params, backend: torch.optim.Adam(params, fused=True),
    "torch-foreach": lambda params, backend: torch.optim.Adam(params, foreach=True),
    "torch-compile": lambda params, backend: CompiledAdam(params),
    "adam": partial(_ours, "adam"),
    "mada-fixed": partial(_MADA, learn=False),
    "mada-interior": partial(_MADA, learn=False, hypers=INTERIOR),
    "mada-overlapped": partial(_learned, order="overlapped"),
    "mada-exact": partial(_learned, order="exact"),
    "mada-sampled": partial(_learned, order="overlapped", sample=SAMPLE),
    "mada-sampled-exact": partial(_learned, order="exact", sample=SAMPLE),
    "foreach-mada": _foreach_mada,
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
        name: one of `CONTESTANTS`, or `RULE` and a rule of the library, or `BLEND` and two, which
            then learn nothing.
        params: the parameters that it shall update.
        backend: of optdsl; the others have only one.
    """
    if name.startswith(RULE):
        return _ours(name.removeprefix(RULE), params, backend, learn=False)
    if name.startswith(BLEND):
        return _blend(name.removeprefix(BLEND).split(","), params, backend)
    return _BUILDERS[name](params, backend)
