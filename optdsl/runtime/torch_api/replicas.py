"""Observed sums of ranks that have the same parameters: averaged, or checked to be equal.

Within ``no_sync`` of DistributedDataParallel each rank has its own gradients, and coefficients that
learn from them would differ between ranks. A gradient does not tell whether it was averaged, so
ranks compare the sums that they observed.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from optdsl.runtime.distributed import collectives
from optdsl.runtime.engines.compiled import LearningOptimizer, Observed
from optdsl.runtime.engines.sharded import shards

_SAMPLED = {torch.float16, torch.bfloat16, torch.float32, torch.float64}


def on_all_ranks(optimizer: LearningOptimizer, found: Observed, average: Any) -> Observed:
    """The sums from which all ranks with the same parameters learn; a collective of these ranks.

    Args:
        optimizer: the optimizer of this rank.
        found: the sums that this rank observed now.
        average: True to average over all ranks, or the process group to average over; None to
            check that ranks have observed the same; False to return `found`.

    Raises:
        TypeError: if `average` is neither a bool, None nor a process group.
        ValueError: for a process group without this rank.
        RuntimeError: on all ranks, if ranks with the same parameters observed different sums, or
            if the ranks to average over have different parameters.
    """
    name = type(optimizer).__name__
    if not collectives.is_distributed():
        _check_kind(name, average, bool)
        return found
    if average is torch.distributed.GroupMember.NON_GROUP_MEMBER:
        raise ValueError(f"{name}: this rank is not in the process group to average over")
    _check_kind(name, average, bool | torch.distributed.ProcessGroup)
    if average is False:
        return found
    group = None if average is True else average
    if torch.distributed.get_world_size(group) == 1:
        return found
    held = list(dict.fromkeys(p for g in optimizer.param_groups for p in g["params"]))
    if average is None:
        _check_same(optimizer, held, found)
        return found
    _check_replicas(optimizer, held, group)
    return _averaged(held, optimizer.compiled.measured, found, group)


def _check_kind(name: str, average: Any, kind: Any) -> None:
    if average is not None and not isinstance(average, kind):
        raise TypeError(f"{name}: average must be a bool or a process group, not {average!r}")


def _check_same(optimizer: LearningOptimizer, held: Sequence[Tensor], found: Observed) -> None:
    """Refuse different sums on ranks with the same parameters."""
    numbers = {p: number for number, p in enumerate(held)}
    observed = sorted((numbers[p], sorted(sums.items())) for p, sums in found.items())
    rows = collectives.gathered([_digest(_identity(optimizer, held)), _digest(observed)], None)
    for (one, first), (other, second) in itertools.combinations(enumerate(rows), 2):
        if first[0] == second[0] and first[1] != second[1]:
            raise RuntimeError(
                f"{type(optimizer).__name__}: ranks {one} and {other} have the same parameters and "
                f"observed different gradients, as within no_sync(), so that they would learn "
                f"something else; call observe(average=True), or with the process group of the "
                f"ranks to average over; or observe(average=False) to let each learn for itself"
            )


def _identity(optimizer: LearningOptimizer, held: Iterable[Tensor]) -> Any:
    """A value that is equal on two ranks only if they have the same parameters: shapes and norms.

    It tells parts of a parameter, or of an optimizer, apart, even if their numbers are equal.
    """
    group = optimizer.process_group
    part = None if group is None else torch.distributed.get_rank(group)
    places = [p.device_mesh.get_coordinate() for p in held if collectives.is_dtensor(p)]  # type: ignore[attr-defined]
    local = list(map(_local, held))
    by_device: dict[torch.device, list[Tensor]] = {}
    for x in local:
        if x.dtype in _SAMPLED and not x.is_meta:
            norm = torch.linalg.vector_norm(x, dtype=torch.float64)
            by_device.setdefault(x.device, []).append(norm)
    norms = [torch.stack(found).tolist() for found in by_device.values()]
    return part, places, _shapes(local), norms


def _check_replicas(optimizer: LearningOptimizer, held: Sequence[Tensor], group: Any) -> None:
    """Refuse to average over ranks with different parameters."""
    name = type(optimizer).__name__
    ranks = torch.distributed.get_process_group_ranks(group or torch.distributed.group.WORLD)
    for part in collectives.partners(held, optimizer.process_group):
        if len(part.intersection(ranks)) > 1:
            raise RuntimeError(
                f"{name}: ranks {sorted(part)} have parts of the parameters, and what they observe "
                f"is added up by the step; average over a process group of replicas only"
            )
    shapes = [_shapes(map(_local, held)), optimizer.compiled.measured]
    if len({row[0] for row in collectives.gathered([_digest(shapes)], group)}) > 1:
        raise RuntimeError(
            f"{name}: the ranks to average over have different parameters; give the process group "
            f"of those that have the same"
        )


def _averaged(
    held: Sequence[Tensor], names: Sequence[str], found: Observed, group: Any
) -> Observed:
    """Means over the ranks; a rank that did not observe a sum counts as zero."""
    keys = [(p, name) for p in held for name in names]
    values = [found.get(p, {}).get(name) for p, name in keys]
    row = [*(value or 0.0 for value in values), *(float(value is not None) for value in values)]
    rows = collectives.gathered(row, group)
    means = [sum(x) / len(rows) for x in zip(*rows, strict=True)]  # the same bits on every rank
    averaged: Observed = {}
    for (p, name), value, present in zip(keys, means[: len(keys)], means[len(keys) :], strict=True):
        if present:
            averaged.setdefault(p, {})[name] = value
    return averaged


def _local(p: Tensor) -> Tensor:
    return shards.shard(p) if collectives.is_dtensor(p) else p.detach()


def _shapes(tensors: Iterable[Tensor]) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in tensors]


def _digest(value: Any) -> float:
    """A hash of a value, of 48 bits, which a double represents exactly."""
    return float(int.from_bytes(hashlib.blake2b(repr(value).encode(), digest_size=6).digest()))
