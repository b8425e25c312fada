"""What replicas observe within `no_sync`: averaged, or refused where ranks would drift apart."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from .ranks import BACKENDS, HYPERS, close, learner, loss_of, network, on_ranks, train, values

pytestmark = pytest.mark.slow

STEPS = 5


def accumulated(optimizer: Any, model: Any, share: bool = True, **options: Any) -> Any:
    """Learn from the first of two micro-batches, whose gradients are those of one rank."""
    unsynced = model.no_sync if share else contextlib.nullcontext
    for step in range(STEPS):
        optimizer.zero_grad()
        with unsynced():
            loss_of(model, 50 + step, share).backward()
        optimizer.observe(**options)
        loss_of(model, step, share).backward()
        optimizer.step()
    return values(model), optimizer.metrics()


def said(call: Callable[[], Any]) -> str:
    try:
        call()
    except (RuntimeError, TypeError, ValueError) as error:
        return str(error)
    return ""


def refused() -> dict[str, Any]:
    """What is said of gradients that differ, and whether something was observed after all."""
    model = DistributedDataParallel(network())
    optimizer = learner()(model.parameters(), **HYPERS)
    train(model, optimizer, range(2))
    optimizer.zero_grad()
    with model.no_sync():
        loss_of(model, 50).backward()
    found: dict[str, Any] = {"differ": said(optimizer.observe)}
    found["kept"] = "observed" in optimizer.state_dict()
    found["kind"] = said(lambda: optimizer.observe(average=1))
    others = [dist.new_group([rank]) for rank in range(2)]
    found["foreign"] = said(lambda: optimizer.observe(average=others[1 - dist.get_rank()]))
    optimizer.process_group = dist.group.WORLD
    found["parts"] = said(lambda: optimizer.observe(average=True))
    sharded = fully_shard(network())
    spread = learner()(sharded.parameters(), **HYPERS)
    loss_of(sharded, 0).backward()
    found["shards"] = said(lambda: spread.observe(average=True))
    stage = network()[0 if dist.get_rank() == 0 else 2]
    single = learner()(stage.parameters(), **HYPERS)
    found["stages"] = said(lambda: single.observe(average=True))
    return found


def for_itself() -> Any:
    """Each rank observes what it likes, and as often as it likes."""
    model = DistributedDataParallel(network())
    optimizer = learner()(model.parameters(), **HYPERS)
    train(model, optimizer, range(2))
    with model.no_sync():
        loss_of(model, 50).backward()
    for _ in range(dist.get_rank()):
        optimizer.observe(average=False)
    optimizer.step()
    return optimizer.metrics()


def stages() -> Any:
    """Each rank trains a layer of its own, and learns for itself."""
    model = network()
    layer = model[0] if dist.get_rank() == 0 else model[2]
    optimizer = learner()(layer.parameters(), **HYPERS)
    for step in range(STEPS):
        model.zero_grad()
        loss_of(model, step, share=False).backward()
        optimizer.observe()
        optimizer.step()
    return optimizer.metrics()


def averaged(signal: str, backend: str, average: Any) -> Any:
    model = DistributedDataParallel(network())
    optimizer = learner(backend, signal=signal)(model.parameters(), **HYPERS)
    return accumulated(optimizer, model, average=average)


def runs() -> dict[str, Any]:
    warnings.simplefilter("ignore")
    found: dict[str, Any] = {"refused": refused(), "itself": for_itself(), "stages": stages()}
    for backend in BACKENDS:
        found[f"raw {backend}"] = averaged("raw", backend, True)
    found["raw group"] = averaged("raw", "c", dist.group.WORLD)
    found["cosine"] = averaged("cosine", "eager", True)
    return found


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, runs)


def test_observing_gradients_that_differ_is_refused(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        found = rank["refused"]
        assert "observed different gradients, as within no_sync()" in found["differ"]
        assert "observe(average=True)" in found["differ"]
        assert not found["kept"]


@pytest.mark.parametrize("kind", [*(f"raw {b}" for b in BACKENDS), "raw group"])
def test_the_average_is_what_one_process_observes(
    kind: str, two_ranks: list[dict[str, Any]]
) -> None:
    model: nn.Module = network()
    optimizer = learner()(model.parameters(), **HYPERS)
    expected = accumulated(optimizer, model, share=False)
    for rank in two_ranks:
        for got, wanted in zip(rank[kind], expected, strict=True):
            close(got, wanted)
        assert rank[kind][1] == two_ranks[0][kind][1]


def test_an_average_of_cosines_is_the_same_on_all_ranks_and_a_cosine(
    two_ranks: list[dict[str, Any]],
) -> None:
    first, second = (rank["cosine"][1] for rank in two_ranks)
    assert first == second
    assert first["rho"] != HYPERS["rho"]
    assert abs(first["hypergradient/rho"]) <= 1


@pytest.mark.parametrize("case", ["parts", "shards"])
def test_parts_of_parameters_are_not_averaged(case: str, two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        assert "have parts of the parameters" in rank["refused"][case]


def test_ranks_to_average_over_must_make_sense(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        found = rank["refused"]
        assert "have different parameters" in found["stages"]
        assert "must be a bool or a process group, not 1" in found["kind"]
        assert "not in the process group" in found["foreign"]


def test_each_rank_may_observe_for_itself(two_ranks: list[dict[str, Any]]) -> None:
    for case in ("itself", "stages"):
        first, second = (rank[case] for rank in two_ranks)
        assert first["lr"] != second["lr"]


def test_one_process_is_the_average_of_itself() -> None:
    model = network()
    optimizer = learner("eager")(model.parameters(), **HYPERS)
    other = network()
    expected = accumulated(learner("eager")(other.parameters(), **HYPERS), other, share=False)
    got = accumulated(optimizer, model, share=False, average=True)
    assert got[1] == expected[1]
    with pytest.raises(TypeError, match="must be a bool or a process group"):
        optimizer.observe(average="all")
