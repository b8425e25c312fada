"""Random parameters, gradients and hyperparameters on which implementations are compared."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from optdsl.ir.domain import Choice, Interval
from optdsl.ir.program import Program


def seeded(seed: int) -> torch.Generator:
    """A generator of its own, so that no test depends on another one's draws."""
    return torch.Generator().manual_seed(seed)


def randn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def rand(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


def parameters(generator: torch.Generator) -> dict[str, Tensor]:
    """One tensor of every kind of shape and memory layout."""
    return {
        "scalar": randn(generator),
        "one": randn(generator, 1),
        "empty": randn(generator, 0),
        "matrix": randn(generator, 3, 4),
        "transposed": randn(generator, 4, 3).t(),
        "strided": randn(generator, 10)[::2],
        "rare": randn(generator, 3),
    }


class Gradients:
    """A stream of gradients: every element has a scale of its own, some are exactly zero.

    The first element of every tensor has no gradient for a while, which is where a division by a
    second moment of zero would show; "rare" has a gradient on every third step only.
    """

    def __init__(
        self, generator: torch.Generator, like: Mapping[str, Tensor], low: float, high: float
    ) -> None:
        self._generator = generator
        self._scales = {
            name: 10 ** (low + (high - low) * rand(generator, *x.shape)) for name, x in like.items()
        }

    def at(self, t: int) -> dict[str, Tensor | None]:
        """The gradients of step `t`, from 1."""
        return {name: self._one(name, t) for name in self._scales}

    def _one(self, name: str, t: int) -> Tensor | None:
        scale = self._scales[name]
        gradient = scale * randn(self._generator, *scale.shape)
        gradient[rand(self._generator, *scale.shape) < 0.15] = 0.0
        if t <= 5 and gradient.numel():
            gradient.view(-1)[0] = 0.0
        if name == "rare" and t % 3:
            return None
        # A layout that is not the parameter's.
        return gradient.t().contiguous().t() if gradient.ndim == 2 else gradient


def continuous(program: Program) -> list[str]:
    """The hyperparameters by which a step can be differentiated."""
    return [h.name for h in program.hypers if isinstance(h.domain, Interval)]


def interior_hypers(program: Program, generator: torch.Generator) -> dict[str, float]:
    """Random hyperparameters well inside their domains, where everything is smooth."""
    found = {h.name: _interior(h.domain, float(rand(generator))) for h in program.hypers}
    for simplex in program.simplexes:
        total = sum(found[h] for h in simplex.hypers)
        found |= {h: found[h] / total for h in simplex.hypers}
    return found


def _interior(domain: Interval | Choice, u: float) -> float:
    if isinstance(domain, Choice):
        return domain.values[int(u * len(domain.values))]
    lower, upper = domain.lower, domain.upper
    if math.isfinite(lower) and math.isfinite(upper):
        return lower + (upper - lower) * (0.1 + 0.8 * u)
    if math.isfinite(lower):
        return lower + 10 ** (2 * u - 2.5)
    return upper - 10 ** (2 * u - 2.5) if math.isfinite(upper) else 2 * u - 1
