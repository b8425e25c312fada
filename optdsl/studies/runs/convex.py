"""Online convex optimization with noise: regret, gradient norm, and effective step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt

import optdsl
from optdsl.studies.frame.values import Outcome, Result, Run
from optdsl.studies.runs.optimizers import Contestant

DIMENSIONS, REPLICAS = 10, 32
BETA1, BETA2, EPS, RATE = 0.9, 0.99, 1e-8, 0.1
POINTS = 40  # of a series, at steps in geometric progression


class Convex(Run):
    """Runs Adam-AVGrad with a fixed ρ on absolute losses |a·x - b| with outliers in b.

    Many independent problems are run at once, as the rows of one parameter: the rule is
    elementwise.  The learning rate is α/√t, as in the theorem; x stays in a cube.  All series are
    means over the problems.

    Attributes:
        rho: 1 is Adam, 0 is AVGrad.
        seed: Seed of the problems.
        steps: T.
    """

    kind: Literal["convex"] = "convex"
    rho: float
    seed: int
    steps: PositiveInt

    modules: ClassVar[tuple[str, ...]] = ()

    @property
    def label(self) -> str:
        """See `Run`."""
        return f"convex  rho {self.rho:g}  seed {self.seed}"

    @property
    def weight(self) -> float:
        """See `Run`."""
        return self.steps / 2000

    def ingredients(self) -> tuple[str, ...]:
        """See `Run`."""
        return Contestant(label="", rule="adam_avgrad", learn=False).ingredients()

    def execute(self, given: Mapping[str, Result]) -> Outcome:
        """See `Run`."""
        generator = torch.Generator().manual_seed(self.seed)
        best = torch.rand(REPLICAS, DIMENSIONS, generator=generator, dtype=torch.float64) - 0.5
        theta = torch.nn.Parameter(torch.zeros_like(best))
        optimizer = optdsl.load("adam_avgrad", learn=False)(
            [theta], lr=RATE, beta1=BETA1, beta2=BETA2, eps=EPS, weight_decay=0.0, rho=self.rho
        )
        x = theta.detach()
        marks = {round(self.steps ** (i / (POINTS - 1))) for i in range(POINTS)}
        names = ("step", "regret", "gradient", "effective", "growing")
        series: dict[str, list[float]] = {name: [] for name in names}
        v, mean = torch.zeros_like(best), torch.zeros_like(best)
        effective = torch.full_like(best, math.inf)
        regret, norms, growing = 0.0, 0.0, 0.0
        for t in range(1, self.steps + 1):
            a = torch.randn(best.shape, generator=generator, dtype=torch.float64)
            # One feature in twenty steps is large, which is what makes second moments jump.
            rare = torch.rand(best.shape, generator=generator, dtype=torch.float64) < 0.05
            a = torch.where(rare, 10 * a, a)
            noise = torch.randn(REPLICAS, generator=generator, dtype=torch.float64)
            b = (a * best).sum(1) + noise
            error = (a * x).sum(1) - b
            regret += float((error.abs() - noise.abs()).mean())
            g = error.sign()[:, None] * a
            norms += float(_expected_gradient(x, best).norm(dim=1).mean())
            rate = RATE / math.sqrt(t)
            optimizer.param_groups[0]["lr"] = rate
            theta.grad = g
            optimizer.step()
            x.clamp_(-1, 1)
            v = BETA2 * v + (1 - BETA2) * g * g
            mean = ((t - 1) * mean + v) / t
            moment = self.rho * v + (1 - self.rho) * mean
            now = rate / (moment.sqrt() + EPS)
            growing += float((now > effective * (1 + 1e-12)).double().mean())
            effective = now
            if t in marks:
                found = (t, regret / t, norms / t, float(now.mean()), growing / t)
                for values, value in zip(series.values(), found, strict=True):
                    values.append(float(value))
        numbers = {name: values[-1] for name, values in series.items()}
        return Outcome(numbers, {name: tuple(values) for name, values in series.items()})


def _expected_gradient(x: torch.Tensor, best: torch.Tensor) -> torch.Tensor:
    """Returns the gradient of the expected loss, for features of one size.

    For a·(x - x*) normal with deviation s and noise of deviation 1 it is (x - x*) times the root
    of 2 / (π (1 + s²)).
    """
    gap = x - best
    scale = torch.sqrt(2 / math.pi / (1 + gap.square().sum(1, keepdim=True)))
    return gap * scale
