"""Tasks whose loss is a function of the weights alone, with noise in its gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from optdsl.training.problem import Problem, Sources
from optdsl.training.tasks.base import Task, quietly


class Point(nn.Module):
    """Weights without a model around them."""

    def __init__(self, start: Tensor) -> None:
        """Starts at a point."""
        super().__init__()
        self.weight = nn.Parameter(start)


class LeastSquaresTask(Task):
    """Linear regression with features of very different sizes, and noise in the targets."""

    name = "least_squares"
    summary = "linear least squares with a condition number of 10,000"
    unit = "squared error"
    steps, quick_steps, learning_rate = 600, 150, 3e-2
    features, batch, condition = 60, 32, 1e4

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        generator = torch.Generator().manual_seed(seed)
        # The Hessian is X'X, so that features span the root of its condition number.
        sizes = torch.logspace(0, -0.5 * torch.tensor(self.condition).log10(), self.features)
        rotation, _ = torch.linalg.qr(
            torch.randn(self.features, self.features, generator=generator)
        )
        truth = torch.randn(self.features, generator=generator)
        model = Point(torch.zeros(self.features))

        def error(count: int, source: torch.Generator) -> Tensor:
            # The rotation hides the sizes from methods that scale each weight by itself.
            x = (torch.randn(count, self.features, generator=source) * sizes) @ rotation
            noise = 0.1 * torch.randn(count, generator=source)
            loss: Tensor = (x @ (model.weight - truth) + noise).square().mean()
            return loss

        def validation_loss() -> float:
            return quietly(lambda: error(2000, torch.Generator().manual_seed(0)))

        return Problem(model, lambda source: error(self.batch, source), validation_loss, self.batch)


class RosenbrockTask(Task):
    """A chain of Rosenbrock's curved valleys, with noise in the gradients."""

    name = "rosenbrock"
    summary = "Rosenbrock's valley in 20 dimensions, with noise"
    unit = "value of the function"
    steps, quick_steps, learning_rate = 800, 200, 2e-2
    dimensions, noise = 20, 0.5

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        generator = torch.Generator().manual_seed(seed)
        start = -0.5 + 0.5 * torch.randn(self.dimensions, generator=generator)
        return _surface(Point(start), _rosenbrock, self.noise)


class SaddleTask(Task):
    """A function with a flat saddle at the start, which noise helps to leave."""

    name = "saddle"
    summary = "a product of two matrices that starts near a saddle point"
    unit = "squared error"
    steps, quick_steps, learning_rate = 600, 150, 1e-2
    size, rank, noise = 12, 3, 0.05

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        generator = torch.Generator().manual_seed(seed)
        left, right = (torch.randn(self.size, self.rank, generator=generator) for _ in "lr")
        target = left @ right.T / self.rank**0.5

        def value(weight: Tensor) -> Tensor:
            error: Tensor = (weight[0] @ weight[1].T - target).square().mean()
            return error

        start = 1e-3 * torch.randn(2, self.size, self.size, generator=generator)
        return _surface(Point(start), value, self.noise)


def _rosenbrock(x: Tensor) -> Tensor:
    """Rosenbrock's function, summed over pairs of neighbours and divided by their number."""
    total: Tensor = (10 * (x[1:] - x[:-1] ** 2).square() + (1 - x[:-1]).square()).mean()
    return total


def _surface(model: Point, value: Callable[[Tensor], Tensor], noise: float) -> Problem:
    """Returns the problem of a function whose gradient has an added normal distribution."""

    def train_loss(generator: torch.Generator) -> Tensor:
        weight = model.weight
        slope = noise * torch.randn(weight.shape, generator=generator) / weight.numel()
        loss: Tensor = value(weight) + (slope * weight).sum()
        return loss

    return Problem(model, train_loss, lambda: quietly(lambda: value(model.weight)), 1)
