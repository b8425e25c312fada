"""Hyper-gradients from gradients that the user chooses: `CompiledOptimizer.observe`.

Observed sums are kept for each parameter until the next step, which uses them in place of those
that its engines would measure.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from optdsl.learning import SQUARE, square_keys
from optdsl.runtime.core.tasks import HyperGradients, ParameterTask, check_dense
from optdsl.runtime.device.device_step import DeviceStep
from optdsl.runtime.distributed.collectives import is_dtensor, prefix
from optdsl.runtime.engines.compiled import LearningOptimizer, Observed
from optdsl.runtime.engines.sharded import shards
from optdsl.runtime.learning.scopes import OWN, Part, add
from optdsl.runtime.torch_api.arguments import gradients
from optdsl.runtime.torch_api.replicas import on_all_ranks


def observe(
    optimizer: LearningOptimizer, weight: float, average: Any, found: Observed | None
) -> Observed:
    """The sums that were observed, plus those for the gradients that the parameters have now.

    Args:
        optimizer: the optimizer, which is not changed.
        weight: a factor of the gradients.
        average: as for `on_all_ranks`.
        found: the sums observed since the last step, which are not changed; None for no sums.

    Raises:
        TypeError, ValueError: for a weight that is not a finite number; as `on_all_ranks`.
        RuntimeError: for a sparse gradient, or after a step that a graph has captured; as
            `on_all_ranks`.
    """
    name, compiled = type(optimizer).__name__, optimizer.compiled
    if not isinstance(weight, int | float):
        raise TypeError(f"{name}: weight must be a number, not {weight!r}")
    if not math.isfinite(weight):
        raise ValueError(f"{name}: weight must be finite, not {weight!r}")
    device = optimizer._known.find(DeviceStep)
    if device is not None and device.captured:
        raise RuntimeError(
            f"{name}: a step was captured in a graph, and its replays learn from the gradients "
            f"that they find; observe() needs steps that are not captured"
        )
    total = {parameter: dict(sums) for parameter, sums in (found or {}).items()}
    if not compiled.coefficients:
        return total
    now: Observed = {}
    for group in optimizer.param_groups:
        work = dict(gradients(group))
        check_dense(name, work.values())
        hypers = {h.name: float(group[h.name]) for h in compiled.program.hypers}
        for parameter, gradient in work.items():
            kept = optimizer.state.get(parameter, {})
            state = {key: value for key, value in kept.items() if not key.startswith(OWN)}
            if state and float(state["step"]) > 0:
                one = ParameterTask(parameter.detach(), gradient, state, hypers)
                program = optimizer.part_of(parameter, group).program
                sums = shards.products(program, one)
                add(now.setdefault(parameter, {}), _weighted(sums, float(weight)))
    for parameter, sums in on_all_ranks(optimizer, now, average).items():
        add(total.setdefault(parameter, {}), sums)
    return total


def replace(parts: Iterable[Part], observed: Observed) -> None:
    """Replace the sums of the parts of a step by those that were observed for their tensors."""
    for part in parts:
        part.sums = {}
        # A parameter may be in a group twice.
        for parameter in dict.fromkeys(p for work, _ in part.work for p, _ in work):
            start = prefix(parameter) if is_dtensor(parameter) else ""
            if start is not None:
                found = observed.get(parameter, {})
                add(part.sums, {start + name: value for name, value in found.items()})


def _weighted(sums: HyperGradients, weight: float) -> HyperGradients:
    """The sums for a gradient that was multiplied by a number."""
    squared = {SQUARE, *(square_keys(name)[0] for name in sums)}
    unmoved = {square_keys(name)[1] for name in sums}
    return {
        key: value * (weight**2 if key in squared else 1.0 if key in unmoved else weight)
        for key, value in sums.items()
    }
