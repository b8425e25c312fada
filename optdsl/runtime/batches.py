"""What a step has to do, sorted by engine and by whether a step is pending.

This is done for every parameter at every step, so it is cheap where all of them are alike.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from optdsl.runtime import shards
from optdsl.runtime.engines import Engine, Shape, Work
from optdsl.runtime.scope import Part, add

if TYPE_CHECKING:
    from optdsl.runtime.optimizer import Compiled

_DTYPE, _DEVICE, _IS_CPU = attrgetter("dtype"), attrgetter("device"), attrgetter("is_cpu")
_PLAIN = (Tensor, torch.nn.Parameter)


@dataclass(frozen=True)
class Batch:
    """What one engine has to do: for parameters with a step pending, and for others."""

    pending: list[Work] = field(default_factory=list)
    fresh: list[Work] = field(default_factory=list)


def batches(
    compiled: Compiled, states: Mapping[Tensor, dict[str, Any]], part: Part
) -> dict[Engine, Batch]:
    """What there is to do for a part, by engine.

    States that another engine left behind are completed first, which may give hyper-gradients.
    """
    found: dict[Engine, Batch] = {}
    for pairs, values in part.work:
        if not pairs:
            continue
        parameters, gradients = zip(*pairs, strict=True)
        kept = list(map(states.__getitem__, parameters))
        fields = zip(parameters, gradients, kept, [values] * len(kept), strict=True)
        works = list(map(tuple.__new__, repeat(Work), fields))
        if _alike(parameters):
            engine = compiled.engines.of(parameters[0])
            _sort(compiled, part, engine.shape, works, found.setdefault(engine, Batch()))
            continue
        for work in works:
            engine = compiled.engines.of(work.parameter)
            _sort(compiled, part, engine.shape, [work], found.setdefault(engine, Batch()))
    return found


def _alike(parameters: tuple[Tensor, ...]) -> bool:
    """Whether one engine is for all of them."""
    types = set(map(type, parameters))
    return (
        len(types) == 1
        and types.issubset(_PLAIN)
        and (all(map(_IS_CPU, parameters)) or len(set(map(_DEVICE, parameters))) == 1)
        and len(set(map(_DTYPE, parameters))) == 1
    )


def _sort(compiled: Compiled, part: Part, shape: Shape, works: list[Work], batch: Batch) -> None:
    keys = [work[2].keys() for work in works]
    if shape.pending is not None and all(map(operator.eq, keys, repeat(shape.pending))):
        batch.pending.extend(works)
        return
    if all(map(operator.eq, keys, repeat(shape.complete))):
        batch.fresh.extend(works)
        return
    for work, present in zip(works, keys, strict=True):
        if shape.pending is not None and present == shape.pending:
            batch.pending.append(work)
            continue
        if present and present != shape.complete:
            add(part.sums, shards.completed(compiled.program, work))
        batch.fresh.append(work)
