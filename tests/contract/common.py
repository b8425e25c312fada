"""Classes of every specification on every backend, and other values for what they take."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import optdsl
from optdsl import Learn
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer
from tests.oracles.rules import ELEMENTWISE

SPECS = ELEMENTWISE
BACKENDS = ("eager", "auto")
ORDERS = ("overlapped", "exact")
EVERY = [pytest.param(s, b, id=f"{s}-{b}") for s in SPECS for b in BACKENDS]

every = pytest.mark.parametrize(("spec", "backend"), EVERY)


def plain(spec: str, backend: str) -> type[CompiledOptimizer]:
    return optdsl.load(spec, backend=backend, learn=False)


def learner(spec: str, backend: str, order: str = "overlapped") -> type[CompiledOptimizer]:
    """A class that learns what the specification says, or else its learning rate, at once."""
    program = optdsl.load(spec).compiled.program
    learn: dict[str, Learn] = {}
    for learned in program.learned:
        vector = program.simplex_of(learned.hyper)
        if vector is not None:
            learn[vector.name] = Learn("sgd", lr=1e-3)
        else:
            bounds = (learned.bounds.lower, learned.bounds.upper)
            learn[learned.hyper] = Learn("sgd", lr=1e-3, bounds=bounds)
    learn = learn or {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))}
    return optdsl.load(spec, backend=backend, order=order, learn=learn)


def other_value(hyper: Hyper) -> float:
    """A value that is not the default, and that the hyperparameter may have."""
    domain, default = hyper.domain, hyper.default
    if not isinstance(domain, Interval):
        return next(v for v in domain.values if v != default)
    candidates = (0.75 * default, 0.25, 0.5)
    return next(v for v in candidates if v in domain and v != default)


def others(cls: type[CompiledOptimizer]) -> dict[str, float]:
    """Another value for every hyperparameter, weight vectors turned round."""
    program = cls.compiled.program
    values = {h.name: other_value(h) for h in program.hypers}
    for vector in program.simplexes:
        weights = [0.5, *[0.5 / (len(vector.hypers) - 1)] * (len(vector.hypers) - 1)]
        values |= dict(zip(vector.hypers, weights, strict=True))
    if program.name == "SGD":
        values |= {"momentum": 0.9, "dampening": 0.0}  # without which there is no nesterov
    return values


def tensor(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)
