"""Loading optimizers, and a trial of each one before any training."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from optdsl.diagnostics import SpecError
from optdsl.runtime.torch_api.optimizer import CompiledOptimizer
from optdsl.training.config import TrainingConfig, TrainingError
from optdsl.training.results import Setup, Space

Loader = Callable[[str], type[Optimizer]]


@dataclass(frozen=True)
class Candidate:
    """An optimizer that passed a trial.

    Attributes:
        label: Short name for tables and files.
        create: Creates the optimizer for some parameters, with hyperparameters by name.
        hypers: The hyperparameters that differ from its defaults.
        metrics: Names that `read_metrics` reports for it.
        setup: What tables and figures show of it.
    """

    label: str
    create: Callable[..., Optimizer]
    hypers: Mapping[str, float]
    metrics: tuple[str, ...]
    setup: Setup

    def start(self, model: nn.Module, seed: int) -> Optimizer:
        """Returns the optimizer for a model."""
        torch.default_generator.manual_seed(seed)  # for an optimizer that draws random numbers
        return self.create(list(model.parameters()), **self.hypers)

    def tuned(self, learning_rate: float) -> Self:
        """Returns the same optimizer with another learning rate, as from a search."""
        return replace(
            self,
            hypers={**self.hypers, "lr": learning_rate},
            setup=replace(self.setup, learning_rate=learning_rate, origin="tuned"),
        )


def read_metrics(optimizer: Optimizer) -> dict[str, float]:
    """Returns the coefficients an optimizer learns and their hyper-gradients, by name."""
    metrics = getattr(optimizer, "metrics", None)
    return dict(metrics()) if metrics else {}


def load_candidates(
    config: TrainingConfig, load: Loader, parameters: Iterable[nn.Parameter]
) -> list[Candidate]:
    """Loads the optimizers and tries each one on copies of the parameters.

    Args:
        config: Names the optimizers and their hyperparameters.
        load: Returns an optimizer's class by name; LookupError, ValueError, TypeError and OSError
            are reported as mistakes in the request.
        parameters: The parameters to be trained, which are not changed.

    Raises:
        TrainingError: An optimizer is unknown, rejects its hyperparameters, or cannot take a step.
    """
    shapes = [parameter.detach() for parameter in parameters]
    pairs = zip(config.optimizers, config.labels, strict=True)
    return [_load_candidate(config, load, name.strip(), label, shapes) for name, label in pairs]


def _load_candidate(
    config: TrainingConfig, load: Loader, name: str, label: str, values: list[Tensor]
) -> Candidate:
    try:
        cls = load(name)
    except SpecError as error:
        # In full, as `optdsl show` prints it, because each diagnostic names its file.
        raise TrainingError(f"cannot load this optimizer:\n{error}") from error
    except (LookupError, ValueError, TypeError, OSError) as error:
        raise TrainingError(f"cannot load optimizer '{name}': {_first_line(error)}") from error

    hypers = dict(config.overrides.get(label, {}))
    # Optimizer classes take keyword arguments that their base class does not have.
    create: Callable[..., Optimizer] = cls
    copies = [nn.Parameter(value.clone()) for value in values]
    try:
        optimizer = create(copies, **hypers)
    except (LookupError, ValueError, TypeError) as error:
        given = ", ".join(f"{hyper}={value:g}" for hyper, value in hypers.items()) or "none given"
        raise TrainingError(
            f"optimizer '{label}' rejects its hyperparameters ({given}): {_first_line(error)}"
        ) from error
    if any("lr" not in group for group in optimizer.param_groups):
        raise TrainingError(
            f"optimizer '{label}' has no hyperparameter 'lr', which the schedule needs"
        )
    setup = Setup(
        learning_rate=float(optimizer.param_groups[0]["lr"]),
        origin="set" if "lr" in hypers else "file",
        spaces=_spaces(optimizer),
    )
    return Candidate(label, create, hypers, _try(optimizer, label, copies), setup)


def _spaces(optimizer: Optimizer) -> dict[str, Space]:
    """Returns the bounds and weight vectors of what a compiled optimizer learns."""
    if not isinstance(optimizer, CompiledOptimizer):
        return {}
    program = optimizer.compiled.program
    found = {}
    for learned in program.learned:
        simplex = program.simplex_of(learned.hyper)
        name = None if simplex is None else simplex.name
        found[learned.hyper] = Space(learned.bounds.lower, learned.bounds.upper, name)
    return found


def _try(optimizer: Optimizer, label: str, copies: list[nn.Parameter]) -> tuple[str, ...]:
    """Takes two steps on random gradients and returns the names of the optimizer's metrics."""
    generator = torch.Generator().manual_seed(0)
    try:
        names = dict.fromkeys(read_metrics(optimizer))
        schedule = LambdaLR(optimizer, lambda _: 1.0)
        for _ in range(2):  # a hyper-gradient may need the gradient of an earlier step
            for parameter in copies:
                parameter.grad = 1e-3 * torch.randn(parameter.shape, generator=generator)
            optimizer.step()
            schedule.step()
            names.update(dict.fromkeys(read_metrics(optimizer)))
    except Exception as error:
        raise TrainingError(
            f"optimizer '{label}' fails in a trial step: {_first_line(error)}"
        ) from error
    return tuple(names)


def _first_line(error: Exception) -> str:
    """Returns the first line of an error's message, or its type if there is no message."""
    message = str(error)
    if isinstance(error, KeyError) and error.args:  # str() would add quotes
        message = str(error.args[0])
    elif isinstance(error, OSError) and error.strerror:
        message = error.strerror
    lines = (line.strip() for line in message.splitlines())
    return next((line for line in lines if line), type(error).__name__)
