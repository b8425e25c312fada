"""Small optimizers in place of compiled ones, and what a comparison leaves behind."""

import csv
import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import SGD, Adam, Optimizer

from optdsl.training import (
    Comparison,
    TrainingConfig,
)

TEXT = "".join(f"{i} times {i + 1} is {i * (i + 1)}; the end of line {i}.\n" for i in range(300))

Make = Callable[..., TrainingConfig]


class Learner(Optimizer):
    """Descends along the sign of the gradient and pretends to learn a coefficient, rho."""

    def __init__(self, params: Iterable[Any], lr: float = 1e-3, rho: float = 0.5) -> None:
        if not 0 <= rho <= 1:
            raise ValueError(f"rho must be in [0, 1], not {rho}")
        super().__init__(params, {"lr": lr, "rho": rho})
        self.steps = 0

    def metrics(self) -> dict[str, float]:
        known = {"rho": float(self.param_groups[0]["rho"])}
        # Like a real hyper-gradient, this one exists only after a step.
        return known | ({"hypergradient/rho": 0.25} if self.steps else {})

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        self.steps += 1
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.sign())
            group["rho"] *= 0.9


class Noisy(Learner):
    """Draws from the global generator."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.add_(1e-3 * torch.randn_like(parameter))


class Exploding(Learner):
    """Makes the parameters infinite in its fifth step."""

    @torch.no_grad()
    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        if self.steps == 5:
            for parameter in self.param_groups[0]["params"]:
                parameter.fill_(math.inf)


class Interrupting(Learner):
    """Stands for a user who stops the program in the optimizer's fourth step."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        super().step()
        if self.steps == 4:
            raise KeyboardInterrupt


class Broken(Learner):
    """Fails in its first step."""

    def step(self, closure: object = None) -> None:  # type: ignore[override]
        raise RuntimeError("the state\nis gone")


class Rateless(Optimizer):
    """Has no learning rate."""

    def __init__(self, params: Iterable[Any]) -> None:
        super().__init__(params, {"rho": 0.5})


CLASSES: dict[str, type[Optimizer]] = {
    "adam": Adam,
    "sgd": SGD,
    "learner": Learner,
    "noisy": Noisy,
    "exploding": Exploding,
    "interrupting": Interrupting,
    "broken": Broken,
    "rateless": Rateless,
    "dir/other.opt": Learner,
}


def load(name: str) -> type[Optimizer]:
    return CLASSES[name]


def rows(comparison: Comparison) -> list[dict[str, str]]:
    with comparison.csv.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def losses(comparison: Comparison) -> list[list[tuple[float, float | None]]]:
    return [[(r.train_loss, r.validation_loss) for r in run.records] for run in comparison.runs]
