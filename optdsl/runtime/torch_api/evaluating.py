"""Evaluation of the model at the rule's own point: `CompiledOptimizer.eval` and `train`.

In eval mode a parameter is that point, and its state holds the parameter as it is trained.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from optdsl.ir.storage import added
from optdsl.plan.keys import TRAINED
from optdsl.runtime.core.owned_numbers import number_of
from optdsl.runtime.core.tasks import ParameterTask
from optdsl.runtime.engines.compiled import LearningOptimizer
from optdsl.runtime.engines.reading import Reading
from optdsl.runtime.engines.sharded.whole import evaluated
from optdsl.runtime.engines.storage import Storage
from optdsl.runtime.learning.scopes import VALUE
from optdsl.runtime.torch_api.completed_state import completed


def enter(optimizer: LearningOptimizer) -> None:
    """Put the points at which the model is evaluated into the parameters.

    A parameter that has taken no step is left as it is. Nothing changes where it fails.

    Raises:
        TypeError, ValueError: for hyperparameters with which a step would fail.
    """
    if not optimizer.compiled.evaluates or optimizer._evaluating:
        return
    groups = [(group, optimizer._hypers(group)) for group in optimizer.param_groups]
    works = {
        parameter: hypers | _own(optimizer, parameter)
        for group, hypers in groups
        for parameter in group["params"]
        if _has_stepped(optimizer.state.get(parameter, {}))
    }
    optimizer._evaluating = True
    try:
        # All are kept before any changes, since parameters may share memory.
        for parameter in works:
            optimizer.state[parameter][TRAINED] = parameter.detach().clone()
        for parameter, hypers in works.items():
            _evaluate(optimizer, parameter, hypers)
    except BaseException:
        leave(optimizer)
        raise


def leave(optimizer: LearningOptimizer) -> None:
    """Put the parameters back as they are trained."""
    if not optimizer._evaluating:
        return
    for parameter, state in optimizer.state.items():
        if TRAINED in state:
            parameter.copy_(state.pop(TRAINED))
    optimizer._evaluating = False


def check_training(optimizer: LearningOptimizer, call: str) -> None:
    """Refuse a call that is for the parameters as they are trained.

    Raises:
        RuntimeError: in eval mode.
    """
    if optimizer._evaluating:
        raise RuntimeError(
            f"{type(optimizer).__name__} is in eval mode, in which the parameters are the points "
            f"at which the model is evaluated; call train() before {call}"
        )


def _has_stepped(state: dict[str, Any]) -> bool:
    return "step" in state and number_of(state["step"]) > 0


def _own(optimizer: LearningOptimizer, parameter: Tensor) -> dict[str, float]:
    """The hyperparameters that are learned for the parameter alone."""
    state = optimizer.state.get(parameter, {})
    names = (c.name for c in optimizer.compiled.scopes.of_tensors)
    return {name: float(state[VALUE + name]) for name in names if VALUE + name in state}


def _evaluate(optimizer: LearningOptimizer, parameter: Tensor, hypers: dict[str, float]) -> None:
    program = optimizer.part_of(parameter).program
    point, reading = optimizer.compiled.point(program), Reading(program)
    if point is None:
        return
    trained: Tensor = optimizer.state[parameter][TRAINED]
    state = completed(optimizer, parameter, hypers)
    t = number_of(state.pop("step"))

    storage = Storage(program)
    state |= {k: x for k, x in optimizer.state[parameter].items() if k in added(program)}

    def of_plain(work: ParameterTask) -> Tensor:
        trained = work._replace(parameter=work.gradient, state=work.state | {"step": t})
        dtype = storage.compute(work.gradient)
        theta = reading.read(storage.theta(trained, dtype))
        states = reading.states(storage.states(work.state, dtype), work.gradient)
        found: Tensor = point(theta, theta, states, work.hypers, t)["theta"]
        return found.reshape(work.gradient.shape)

    evaluated(of_plain, program, ParameterTask(parameter, trained, state, hypers))
