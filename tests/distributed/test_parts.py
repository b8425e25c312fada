"""Plain parameters on many ranks: DDP, ZeRO, the parts of a pipeline."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn.parallel import DistributedDataParallel

import optdsl

from .ranks import (
    BACKENDS,
    HYPERS,
    alone,
    close,
    learner,
    loss_of,
    network,
    on_ranks,
    train,
    values,
)

pytestmark = pytest.mark.slow

STEPS = 6
ZERO = (("c", "optimizer"), ("eager", "optimizer"), ("eager", "group"), ("eager", "tensor"))


def parts() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        model = DistributedDataParallel(network())
        optimizer = learner(backend)(model.parameters(), **HYPERS)
        optdsl.check_ranks(optimizer, every=2)
        train(model, optimizer, range(STEPS))
        found[f"ddp {backend}"] = values(model), optimizer.metrics()
    found["differ"] = differing()
    model = DistributedDataParallel(network())
    zero = ZeroRedundancyOptimizer(model.parameters(), learner(), **HYPERS)
    zero.optim.process_group = dist.group.WORLD
    train(model, zero, range(STEPS))
    found["zero"] = values(model), zero.optim.metrics()
    found["zero shares"] = len([p for g in zero.optim.param_groups for p in g["params"]])
    found["zero alone"] = partitioned()
    found["zero copy"] = copied()
    for own in (True, False):
        found[f"pipeline {own}"] = pipeline(own)
    return found


def partitioned() -> dict[str, Any]:
    """Shares of which nothing is said but that ZeRO makes them, some of them empty."""
    found: dict[str, Any] = {}
    for backend, scope in ZERO:
        model = DistributedDataParallel(network())
        cls = learner(backend, scope=scope)
        zero = ZeroRedundancyOptimizer(model.parameters(), cls, **HYPERS)
        train(model, zero, range(STEPS))
        found[f"{backend} {scope}"] = values(model), zero.optim.metrics()
    model = DistributedDataParallel(nn.Linear(5, 1, bias=False).double())
    zero = ZeroRedundancyOptimizer(model.parameters(), learner(), **HYPERS)
    train(model, zero, range(STEPS))
    found["one tensor"] = zero.optim.metrics()
    return found


def copied() -> dict[str, str]:
    """What is said of shares that have no process group, and whether anything has changed."""
    model = DistributedDataParallel(network())
    zero = ZeroRedundancyOptimizer(model.parameters(), learner(), **HYPERS)
    zero.optim = pickle.loads(pickle.dumps(zero.optim))
    found = {}
    learn = {"lr": optdsl.Learn("sgd", scope="tensor"), "rho": optdsl.Learn("sgd")}
    mixed = ZeroRedundancyOptimizer(
        model.parameters(), optdsl.load("mada_legacy", learn=learn, backend="eager"), **HYPERS
    )
    for name, wrapper in (("copy", zero), ("mixed", mixed)):
        before = values(model), wrapper.optim.metrics()
        try:
            train(model, wrapper, range(1))
        except RuntimeError as error:
            found[name] = str(error)
        assert not wrapper.optim.state
        close(values(model), before[0])
        assert wrapper.optim.metrics() == before[1]
    return found


def differing() -> list[str]:
    """What the check says, and when, where one rank has another coefficient."""
    model = DistributedDataParallel(network())
    optimizer = learner()(model.parameters(), **HYPERS)
    handle = optdsl.check_ranks(optimizer, every=3)
    if dist.get_rank() == 1:
        optimizer.param_groups[0]["rho"] = 0.25
    said = []
    for step in range(3):
        try:
            train(model, optimizer, [step])
            said.append("")
        except RuntimeError as error:
            said.append(str(error))
    handle.remove()
    train(model, optimizer, range(6))
    return said


def pipeline(own: bool) -> tuple[Any, dict[str, float]]:
    """Each rank has an optimizer of one layer; gradients are those of the whole model."""
    model = network()
    layer = model[0] if dist.get_rank() == 0 else model[2]
    group = None if own else dist.group.WORLD
    optimizer = learner()(layer.parameters(), process_group=group, **HYPERS)
    for step in range(STEPS):
        model.zero_grad()
        loss_of(model, step, share=False).backward()
        optimizer.step()
        for number, parameter in enumerate(model.parameters()):
            dist.broadcast(parameter.data, src=number // 2)
    return values(model), optimizer.metrics()


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, parts)


@pytest.mark.parametrize("backend", BACKENDS)
def test_ddp_needs_no_collective(backend: str, two_ranks: list[dict[str, Any]]) -> None:
    expected = alone(learner(backend), range(STEPS), **HYPERS)
    for rank in two_ranks:
        for got, wanted in zip(rank[f"ddp {backend}"], expected, strict=True):
            close(got, wanted)
        assert rank[f"ddp {backend}"][1] == two_ranks[0][f"ddp {backend}"][1]


def test_the_periodic_check_finds_ranks_that_differ(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        *before, last = rank["differ"]
        assert before == ["", ""]
        assert "is not the same on all ranks" in last
        assert "on rank 1" in last


def test_zero_learns_with_a_process_group(two_ranks: list[dict[str, Any]]) -> None:
    expected = alone(learner(), range(STEPS), **HYPERS)
    assert sum(rank["zero shares"] for rank in two_ranks) == 4
    for rank in two_ranks:
        for got, wanted in zip(rank["zero"], expected, strict=True):
            close(got, wanted)
        assert rank["zero"][1] == two_ranks[0]["zero"][1]


@pytest.mark.parametrize(("backend", "scope"), ZERO)
def test_zero_learns_as_one_by_itself(
    backend: str, scope: str, two_ranks: list[dict[str, Any]]
) -> None:
    parameters, metrics = alone(learner(backend, scope=scope), range(STEPS), **HYPERS)
    first, second = (rank["zero alone"][f"{backend} {scope}"] for rank in two_ranks)
    for got, _ in (first, second):
        close(got, parameters)
    if scope != "tensor":  # of which each rank has some
        close(first[1], metrics)
        assert first[1] == second[1]


def test_a_rank_without_a_share_learns_along(two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["zero alone"]["one tensor"] for rank in two_ranks)
    assert first == second
    assert first["rho"] != HYPERS["rho"]


def test_a_share_without_a_process_group_is_refused(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        said = rank["zero copy"]
        for case in ("copy", "mixed"):
            assert "every rank would learn something else" in said[case]
        assert "set its process_group to that of the ZeroRedundancyOptimizer" in said["copy"]
        assert "everything for each tensor" in said["mixed"]


def test_parts_of_a_pipeline_learn_together_with_a_process_group(
    two_ranks: list[dict[str, Any]],
) -> None:
    expected = alone(learner(), range(STEPS), **HYPERS)
    for rank in two_ranks:
        for got, wanted in zip(rank["pipeline False"], expected, strict=True):
            close(got, wanted)


def test_the_scope_is_the_optimizer_by_default(two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["pipeline True"][1] for rank in two_ranks)
    assert first["lr"] != second["lr"]


def test_a_coefficient_of_each_tensor_is_no_process_group_s() -> None:
    model = network()
    cls = learner("eager", scope="tensor")
    optimizer = cls(model.parameters(), process_group="any", **HYPERS)
    loss_of(model, 0).backward()
    with pytest.raises(RuntimeError, match="give no process_group"):
        optimizer.step()


def test_a_check_needs_a_number_of_steps() -> None:
    optimizer = learner("eager")(network().parameters(), **HYPERS)
    with pytest.raises(ValueError, match="every=0 is invalid"):
        optdsl.check_ranks(optimizer, every=0)
