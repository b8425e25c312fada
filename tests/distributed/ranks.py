"""What the tests share: processes with a real process group, a problem, and learners."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.processes import forking, take

ORDERS = ("overlapped", "exact")
BACKENDS = ("eager", "c")
HYPERS: dict[str, Any] = {"lr": 0.02, "weight_decay": 0.01, "rho": 0.5}


def on_ranks(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function of a module returns on each rank of a new gloo process group."""
    with tempfile.TemporaryDirectory() as folder:
        started(world, folder, function, arguments)
        return [torch.load(Path(folder, f"{rank}.pt")) for rank in range(world)]


def started(
    world: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    join: bool = True,
) -> Any:
    """Start the processes of all ranks, and wait for their ends or return them."""
    method = forking().get_start_method()
    given = (dict(os.environ), world, folder, function, arguments)
    return mp.start_processes(process_of, given, world, join, start_method=method)


def process_of(
    rank: int,
    environment: dict[str, str],
    world: int,
    folder: str,
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
) -> None:
    """What one rank does; its result is in the folder afterwards."""
    take(environment)
    torch.set_num_threads(1)
    store = f"file://{folder}/store"
    dist.init_process_group(
        "gloo", init_method=store, rank=rank, world_size=world, timeout=timedelta(seconds=40)
    )
    result = function(*arguments)
    torch.save(result, Path(folder, f"{rank}.pt"))
    dist.barrier()
    dist.destroy_process_group()


def network() -> nn.Sequential:
    """A small network in double precision; the rows of its tensors are hard to share out."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 1)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Twelve inputs and targets; every step has others."""
    generator = torch.Generator().manual_seed(100 + step)
    x = torch.randn(12, 5, generator=generator, dtype=torch.float64)
    return x, x.sin().sum(1, keepdim=True)


def loss_of(model: nn.Module, step: int, share: bool = True) -> Tensor:
    """The loss on this rank's share of a batch, or on all of it."""
    x, y = batch(step)
    if share and dist.is_initialized():
        rank, world = dist.get_rank(), dist.get_world_size()
        x, y = x.chunk(world)[rank], y.chunk(world)[rank]
    return ((model(x) - y) ** 2).mean()


def learner(backend: str = "c", order: str = "overlapped", **options: Any) -> Any:
    """MADA with coefficients that move visibly, by rules that remember something.

    To be made with `HYPERS`.
    """
    learn = {
        "lr": Learn("sgd", lr=1e-4, momentum=0.9, bounds=(0, 1), after=2, **options),
        # By no rule that scales: the first hyper-gradient of beta1 is zero but for rounding.
        "beta1": Learn("sgd", lr=0.1, momentum=0.5, bounds=(0, 0.99), **options),
        "rho": Learn("sgd", lr=0.1, bounds=(0, 1), **options),
    }
    if options.get("signal") == "cosine":
        del learn["beta1"]  # what is zero but for rounding has any cosine
    return optdsl.load("mada_legacy", learn=learn, backend=backend, order=order)


def train(model: nn.Module, optimizer: Any, steps: Iterable[int], share: bool = True) -> list[Any]:
    """Train; the loss and the coefficients after each step."""
    curve = []
    for step in steps:
        optimizer.zero_grad()
        loss = loss_of(model, step, share)
        loss.backward()
        optimizer.step()
        curve.append((float(loss.detach()), getattr(optimizer, "metrics", dict)()))
    return curve


def whole(x: Any) -> Tensor:
    """All of a tensor, DTensor or not."""
    x = x.detach()
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def values(model: nn.Module) -> list[Tensor]:
    """All parameters, as a whole."""
    return [whole(p).clone() for p in model.parameters()]


def state_of(optimizer: Any) -> list[dict[str, Tensor]]:
    """The states of all parameters, as a whole."""
    held = [p for group in optimizer.param_groups for p in group["params"]]
    return [{k: whole(v).clone() for k, v in optimizer.state[p].items()} for p in held]


def alone(cls: Any, steps: Iterable[int], **hypers: Any) -> tuple[list[Tensor], dict[str, float]]:
    """Parameters and coefficients of a training in this process, on whole batches."""
    model = network()
    optimizer = cls(model.parameters(), **hypers)
    train(model, optimizer, steps, share=False)
    return values(model), optimizer.metrics()


def close(first: Any, second: Any) -> None:
    """Equal but for the rounding of sums in another order."""
    if isinstance(first, dict):
        assert first.keys() == second.keys()
        first, second = list(first.values()), [second[key] for key in first]
    torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-12)
