"""DTensor parameters: FSDP2 on two and four ranks, tensor parallelism, mixed with plain ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Partial, Replicate, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import optdsl

from .ranks import (
    BACKENDS,
    HYPERS,
    ORDERS,
    alone,
    close,
    learner,
    loss_of,
    network,
    on_ranks,
    state_of,
    train,
    values,
)

pytestmark = pytest.mark.slow

STEPS = 6
REDUCING = """\
optimizer Reducing
hyper lr = 0.1 in [0, inf)
theta' = theta - lr * g / (1 + mean(g * g))
"""


class Counted:
    """Counts the collectives that exchange numbers, within."""

    def __enter__(self) -> Counted:
        self.count, self._gather = 0, dist.all_gather
        dist.all_gather = self._counting
        return self

    def __exit__(self, *_: Any) -> None:
        dist.all_gather = self._gather

    def _counting(self, *arguments: Any, **options: Any) -> Any:
        self.count += 1
        return self._gather(*arguments, **options)


def sharded() -> nn.Module:
    model = network()
    fully_shard(model[0])
    return fully_shard(model)


def placement(optimizer: Any) -> dict[str, Any]:
    """How states are kept, beside their parameters."""
    kinds: dict[str, Any] = {"sizes": [], "numbers": set(), "tensors": set(), "placed": True}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            kinds["sizes"].append(parameter.to_local().numel())
            for key, value in optimizer.state[parameter].items():
                if isinstance(value, DTensor):
                    kinds["tensors"].add(key)
                    same = (value.placements, value.device_mesh, value.shape)
                    kinds["placed"] &= same == (
                        parameter.placements,
                        parameter.device_mesh,
                        parameter.shape,
                    )
                else:
                    kinds["numbers"].add(key)
    return kinds


def fsdp() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for backend in BACKENDS:
        for order in ORDERS:
            model = sharded()
            optimizer = learner(backend, order)(model.parameters(), **HYPERS)
            with Counted() as collectives:
                train(model, optimizer, range(STEPS))
            found[f"{backend} {order}"] = {
                "values": values(model),
                "metrics": optimizer.metrics(),
                "state": state_of(optimizer),
                "collectives": collectives.count,
                "placement": placement(optimizer),
            }
    for scope in ("group", "tensor"):
        model = sharded()
        optimizer = learner("eager", scope=scope)(grouped(model), **HYPERS)
        train(model, optimizer, range(STEPS))
        found[scope] = {"values": values(model), "metrics": optimizer.metrics()}
    model = sharded()
    optimizer = learner("eager", signal="cosine")(model.parameters(), **HYPERS)
    train(model, optimizer, range(STEPS))
    found["cosine"] = {"values": values(model), "metrics": optimizer.metrics()}
    found["no gradient"] = without_gradients()
    found["stock"] = stock()
    found["reducing"] = reducing()
    found["partial"] = partial()
    found["swapped"] = swapped()
    found["other engine"] = other_engine()
    return found


def grouped(model: nn.Module) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [{"params": parameters[:2]}, {"params": parameters[2:]}]


def without_gradients() -> list[dict[str, float]]:
    """Coefficients where one rank has lost its gradients in some steps."""
    model = sharded()
    optimizer = learner()(model.parameters(), **HYPERS)
    found = []
    for step in range(STEPS):
        optimizer.zero_grad()
        loss_of(model, step).backward()
        if dist.get_rank() == 1 and step in {0, 3}:
            optimizer.zero_grad()
        optimizer.step()
        found.append(optimizer.metrics())
    return found


def stock() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Ours and torch's AdamW, nothing learned."""
    found = []
    for cls in (
        optdsl.load("adamw", learn=False, backend="c"),
        torch.optim.AdamW,
    ):
        model = sharded()
        train(model, cls(model.parameters(), lr=0.02, weight_decay=0.1), range(STEPS))
        found.append(values(model))
    return found[0], found[1]


def reducing() -> dict[str, Any]:
    """Steps of a rule that has to see whole tensors, on shards; replicas are whole."""
    cls = optdsl.compile(REDUCING, backend="c")
    model = sharded()
    optimizer = cls(model.parameters())
    loss_of(model, 0).backward()
    optimizer.step()
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    start = torch.arange(4, dtype=torch.float64)
    plain, replicated = nn.Parameter(start.clone()), nn.Parameter(start)
    replicated = nn.Parameter(distribute_tensor(replicated.detach(), mesh, [Replicate()]))
    for parameter in (plain, replicated):
        parameter.grad = torch.ones_like(parameter)
        cls([parameter]).step()
    assert torch.equal(plain, replicated.to_local())
    return values(model)


def partial() -> tuple[torch.Tensor, torch.Tensor]:
    """A step with a gradient that is still to be summed over the ranks, and with its sum."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    start = torch.arange(4, dtype=torch.float64)
    cls = optdsl.load("adan", learn=False, backend="c")
    shares = [start + 1, 2 - start]
    plain = nn.Parameter(start.clone())
    plain.grad = shares[0] + shares[1]
    cls([plain], lr=0.1, weight_decay=0.1).step()
    replicated = nn.Parameter(distribute_tensor(start.clone(), mesh, [Replicate()]))
    replicated.grad = DTensor.from_local(shares[dist.get_rank()], mesh, [Partial()])
    cls([replicated], lr=0.1, weight_decay=0.1).step()
    return plain.detach(), replicated.to_local().detach().clone()


def swapped() -> tuple[list[torch.Tensor], list[dict[str, float]]]:
    """Parameters that are sharded, and thereby others, after the optimizer was made."""
    model = network()
    optimizer = learner()(model.parameters(), **HYPERS)
    fully_shard(model[0])
    fully_shard(model)
    optimizer.param_groups[0]["params"] = list(model.parameters())
    train(model, optimizer, range(STEPS))
    return values(model), [optimizer.metrics()]


def other_engine() -> tuple[list[Any], list[Any]]:
    """Training that goes on with another backend, whose states have other keys."""
    model = sharded()
    first = learner("eager")(model.parameters(), **HYPERS)
    train(model, first, range(3))
    second = learner("c")(model.parameters(), **HYPERS)
    second.load_state_dict(first.state_dict())
    train(model, second, range(3, STEPS))
    return values(model), [second.metrics()]


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return on_ranks(2, fsdp)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_fsdp2_learns_what_one_process_learns(
    backend: str, order: str, two_ranks: list[dict[str, Any]]
) -> None:
    parameters, metrics = alone(learner(backend, order), range(STEPS), **HYPERS)
    assert not set(HYPERS.values()) & set(metrics.values())
    for rank in two_ranks:
        run = rank[f"{backend} {order}"]
        close(run["metrics"], metrics)
        close(run["values"], parameters)
        assert run["metrics"] == two_ranks[0][f"{backend} {order}"]["metrics"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_fsdp2_states_are_placed_as_their_parameters_and_numbers_are_plain(
    backend: str, two_ranks: list[dict[str, Any]]
) -> None:
    kinds = [rank[f"{backend} overlapped"]["placement"] for rank in two_ranks]
    # Uneven, and empty: this is the case that the others of this module go through, too.
    assert [k["sizes"] for k in kinds] == [[20, 4, 7, 1], [15, 3, 0, 0]]
    for kind in kinds:
        assert kind["placed"]
        assert kind["numbers"] <= {"step", "pending/hypers"}
        assert {"m", "v", "V"} <= kind["tensors"]


def test_one_packed_collective_a_mesh_and_step(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        for backend in BACKENDS:
            assert rank[f"{backend} overlapped"]["collectives"] == STEPS


def test_a_rank_without_gradients_enters_the_collective(two_ranks: list[dict[str, Any]]) -> None:
    first, second = (rank["no gradient"] for rank in two_ranks)
    assert first == second
    assert len({m["beta1"] for m in first}) > 3


@pytest.mark.parametrize("scope", ["group", "tensor"])
def test_scopes_of_learning_over_ranks(scope: str, two_ranks: list[dict[str, Any]]) -> None:
    model = network()
    optimizer = learner("eager", scope=scope)(grouped(model), **HYPERS)
    train(model, optimizer, range(STEPS), share=False)
    for rank in two_ranks:
        close(rank[scope]["metrics"], optimizer.metrics())
        close(rank[scope]["values"], values(model))
        assert rank[scope]["metrics"] == two_ranks[0][scope]["metrics"]


def test_cosines_are_those_of_all_shards(two_ranks: list[dict[str, Any]]) -> None:
    _, metrics = alone(learner("eager", signal="cosine"), range(STEPS), **HYPERS)
    for rank in two_ranks:
        close(rank["cosine"]["metrics"], metrics)


def test_fsdp2_steps_are_those_of_torch(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        ours, theirs = rank["stock"]
        close(ours, theirs)


def test_a_rule_that_reduces_sees_whole_tensors(two_ranks: list[dict[str, Any]]) -> None:
    model = network()
    optimizer = optdsl.compile(REDUCING, backend="eager")(model.parameters())
    loss_of(model, 0, share=False).backward()
    optimizer.step()
    for rank in two_ranks:
        close(rank["reducing"], values(model))


def test_a_partial_gradient_is_summed_before_the_step(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        plain, replicated = rank["partial"]
        close(replicated, plain)


def test_parameters_may_be_swapped_after_construction(two_ranks: list[dict[str, Any]]) -> None:
    parameters, metrics = alone(learner(), range(STEPS), **HYPERS)
    for rank in two_ranks:
        got, (learned,) = rank["swapped"]
        close(got, parameters)
        close(learned, metrics)


def test_another_engine_goes_on_with_shards(two_ranks: list[dict[str, Any]]) -> None:
    parameters, metrics = alone(learner(), range(STEPS), **HYPERS)
    for rank in two_ranks:
        got, (learned,) = rank["other engine"]
        close(got, parameters)
        close(learned, metrics)


class Scaled(nn.Module):
    """Two layers to be parallelized, and a parameter that stays plain."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second = nn.Linear(5, 8).double(), nn.Linear(8, 1).double()
        self.scale = nn.Parameter(torch.tensor([1.5, 0.5], dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).tanh()) * self.scale[0] + self.scale[1]


PLAN: dict[str, Any] = {"first": ColwiseParallel(), "second": RowwiseParallel()}


def tensor_parallel() -> tuple[nn.Module, bool, int]:
    """Shards, a replicated bias and a plain parameter; all ranks see all data."""
    mesh = init_device_mesh("cpu", (4,))
    return parallelize_module(Scaled(), mesh, copy.deepcopy(PLAN)), False, 1


def hybrid() -> tuple[nn.Module, bool, int]:
    """Shards with replicas of each, one mesh of two dimensions."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    return fully_shard(Scaled(), mesh=mesh), True, 1


def two_meshes() -> tuple[nn.Module, bool, int]:
    """Tensor parallelism and FSDP2: what only one of them shards lies on a mesh of its own."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = parallelize_module(Scaled(), mesh["tensor"], copy.deepcopy(PLAN))
    return fully_shard(model, mesh=mesh["data"]), False, 2


def two_worlds() -> tuple[nn.Module, bool, int]:
    """Replicas and shards of meshes that are parts of the world, each a training of its own."""
    names = ("world", "replicate", "shard")
    mesh = init_device_mesh("cpu", (2, 1, 2), mesh_dim_names=names)
    return fully_shard(Scaled(), mesh=mesh["replicate", "shard"]), False, 1


LAYOUTS: tuple[Callable[[], tuple[nn.Module, bool, int]], ...] = (
    tensor_parallel,
    hybrid,
    two_meshes,
    two_worlds,
)


def four() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for layout in LAYOUTS:
        model, share, meshes = layout()
        optimizer = learner()(model.parameters(), **HYPERS)
        with Counted() as collectives:
            train(model, optimizer, range(STEPS), share)
        found[layout.__name__] = {
            "metrics": optimizer.metrics(),
            "values": values(model),
            "collectives": collectives.count / STEPS == meshes,
        }
    return found


@pytest.fixture(scope="module")
def four_ranks() -> list[dict[str, Any]]:
    return on_ranks(4, four)


@pytest.mark.parametrize("layout", [layout.__name__ for layout in LAYOUTS])
def test_replicas_and_plain_parameters_are_counted_once(
    layout: str, four_ranks: list[dict[str, Any]]
) -> None:
    model = Scaled()
    optimizer = learner()(model.parameters(), **HYPERS)
    train(model, optimizer, range(STEPS), share=False)
    assert optimizer.metrics()["beta1"] != 0.9
    for rank in four_ranks:
        run = rank[layout]
        close(run["metrics"], optimizer.metrics())
        close(run["values"], values(model))
        assert run["collectives"]
        assert run["metrics"] == four_ranks[0][layout]["metrics"]
