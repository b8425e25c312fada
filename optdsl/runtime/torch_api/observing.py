"""Hyper-gradients of gradients that the user chooses: `CompiledOptimizer.observe`.

What was observed is kept by parameter until the next step, which divides it among groups and
tensors and adds it up over ranks, as it does with what it measures itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from optdsl.learning import square_keys
from optdsl.runtime.core.tasks import HyperGradients, ParameterTask, check_dense
from optdsl.runtime.device.device_step import DeviceStep
from optdsl.runtime.distributed.collectives import is_dtensor, prefix
from optdsl.runtime.engines import shards
from optdsl.runtime.engines.compiled import LearningOptimizer, Observed
from optdsl.runtime.learning.scopes import OWN, Part, add
from optdsl.runtime.torch_api.arguments import gradients
from optdsl.runtime.torch_api.replicas import on_all_ranks


def observe(
    optimizer: LearningOptimizer, weight: float, average: Any, found: Observed | None
) -> Observed:
    """What was observed, with the gradients that the parameters hold now added to it.

    Args:
        optimizer: the optimizer; it stays as it is.
        weight: what the gradients are multiplied by.
        average: as `on_all_ranks`.
        found: what was observed since the last step; None for nothing, and it stays as it is.

    Raises:
        TypeError, ValueError: for a weight that is no finite number; as `on_all_ranks`.
        RuntimeError: for a sparse gradient, and where a step was captured in a graph; as
            `on_all_ranks`.
    """
    name, compiled = type(optimizer).__name__, optimizer.compiled
    if not isinstance(weight, int | float):
        raise TypeError(f"{name}: weight must be a number, not {weight!r}")
    if not math.isfinite(weight):
        raise ValueError(f"{name}: weight must be finite, not {weight!r}")
    _check_not_captured(optimizer)
    total = {parameter: dict(sums) for parameter, sums in (found or {}).items()}
    if not compiled.coefficients:
        return total
    now: Observed = {}
    for group in optimizer.param_groups:
        work = dict(gradients(group))
        check_dense(name, work.values())
        hypers = {h.name: float(group[h.name]) for h in compiled.program.hypers}
        for parameter, gradient in work.items():
            state = _declared(optimizer.state.get(parameter, {}))
            if state and float(state["step"]) > 0:
                one = ParameterTask(parameter.detach(), gradient, state, hypers)
                sums = shards.products(compiled.program, one)
                add(now.setdefault(parameter, {}), _weighted(sums, float(weight)))
    for parameter, sums in on_all_ranks(optimizer, now, average).items():
        add(total.setdefault(parameter, {}), sums)
    return total


def replace(parts: Iterable[Part], observed: Observed) -> None:
    """Give the parts of a step what was observed of their tensors, and not what they measured."""
    for part in parts:
        part.sums = {}
        # A parameter may be in a group twice.
        for parameter in dict.fromkeys(p for work, _ in part.work for p, _ in work):
            start = prefix(parameter) if is_dtensor(parameter) else ""
            if start is not None:
                found = observed.get(parameter, {})
                add(part.sums, {start + name: value for name, value in found.items()})


def _declared(state: Mapping[str, Any]) -> dict[str, Any]:
    """A state without what a tensor learns for itself."""
    return {key: value for key, value in state.items() if not key.startswith(OWN)}


def _weighted(sums: HyperGradients, weight: float) -> HyperGradients:
    """Sums as of a gradient that was multiplied by a number."""
    squared = {square_keys(name)[0] for name in sums}
    unmoved = {square_keys(name)[1] for name in sums}
    return {
        key: value * (weight**2 if key in squared else 1.0 if key in unmoved else weight)
        for key, value in sums.items()
    }


def _check_not_captured(optimizer: LearningOptimizer) -> None:
    device = optimizer._known.find(DeviceStep)
    if device is not None and device.captured:
        raise RuntimeError(
            f"{type(optimizer).__name__}: a step was captured in a graph, and its replays learn "
            f"from the gradients that they find; observe() needs steps that are not captured"
        )
