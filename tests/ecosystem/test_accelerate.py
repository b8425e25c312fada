"""accelerate: `prepare` wraps the optimizer; its state is saved and loaded with everything else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from .common import BACKENDS, TORCH, adamw, bits, close, mada, moved, network, samples

accelerate = pytest.importorskip("accelerate", reason="see `make test-ecosystem`")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

MakeOptimizer = Callable[[Any], torch.optim.Optimizer]
RANKS = 2


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Accelerate's state is one for the whole process."""
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


def loader(dtype: torch.dtype, batch: int = 16) -> torch.utils.data.DataLoader[Any]:
    data = torch.utils.data.TensorDataset(*samples(dtype=dtype))
    return torch.utils.data.DataLoader(data, batch_size=batch)


def prepared(
    accelerator: Any, make: MakeOptimizer, dtype: torch.dtype = torch.float64, batch: int = 16
) -> tuple[Any, ...]:
    """A model, an optimizer, data and a schedule, as `prepare` gives them."""
    model = network(dtype)
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.95)
    found: tuple[Any, ...] = accelerator.prepare(model, optimizer, loader(dtype, batch), schedule)
    return found


def train(accelerator: Any, objects: tuple[Any, ...], epochs: int) -> None:
    model, optimizer, data, schedule = objects
    for _ in range(epochs):
        for inputs, classes in data:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(inputs), classes)
                accelerator.backward(loss)
                if accelerator.sync_gradients:
                    accelerator.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()


def plainly(make: MakeOptimizer, dtype: torch.dtype = torch.float64, epochs: int = 3) -> Any:
    """The same training without accelerate, in one process."""
    model = network(dtype)
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.95)
    for _ in range(epochs):
        for inputs, classes in loader(dtype):
            nn.functional.cross_entropy(model(inputs), classes).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_trains_as_with_torchs_adamw(backend: str) -> None:
    accelerator = accelerate.Accelerator(cpu=True)
    objects = prepared(accelerator, lambda params: adamw(backend)(params, **TORCH))
    train(accelerator, objects, 3)
    close(objects[0], plainly(lambda params: torch.optim.AdamW(params, **TORCH))[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_round_trip_of_its_wrapper_changes_nothing(backend: str, dtype: torch.dtype) -> None:
    """It moves the state to the device, as if loaded: before the first step, or in mid-training."""
    accelerator = accelerate.Accelerator(cpu=True)
    model, optimizer = plainly(lambda params: mada(backend)(params, lr=1e-2, rho=0.6), dtype)
    fresh = mada(backend)(model.parameters(), lr=1e-2, rho=0.6)
    for made in (fresh, optimizer):
        before = bits(made.state_dict())
        wrapped = accelerator.prepare_optimizer(made, device_placement=True)
        assert bits(made.state_dict()) == before
        assert bits(wrapped.state_dict()) == before
        wrapped.train()
        wrapped.eval()
        assert bits(made.state_dict()) == before


@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_saved_state_resumes_with_learned_coefficients_to_the_bit(
    backend: str, precision: str, tmp_path: Path
) -> None:
    def make(params: Any) -> torch.optim.Optimizer:
        return mada(backend)(params, lr=1e-2, rho=0.6)

    options = {"cpu": True, "mixed_precision": precision, "gradient_accumulation_steps": 2}
    accelerator = accelerate.Accelerator(**options)
    unbroken = prepared(accelerator, make, torch.float32)
    train(accelerator, unbroken, 4)
    accelerator.save_state(str(tmp_path))
    train(accelerator, unbroken, 3)
    accelerator.free_memory()
    again = accelerate.Accelerator(**options)
    resumed = prepared(again, make, torch.float32)
    again.load_state(str(tmp_path))
    train(again, resumed, 3)
    assert bits(resumed[0].state_dict()) == bits(unbroken[0].state_dict())
    assert bits(resumed[1].state_dict()) == bits(unbroken[1].state_dict())
    assert moved(resumed[1].optimizer) >= {"rho", "beta1"}


# --- two processes ---------------------------------------------------------------------------

RULES: dict[str, Callable[[str], MakeOptimizer]] = {
    "adamw": lambda backend: lambda params: adamw(backend)(params, **TORCH),
    "mada": lambda backend: lambda params: mada(backend)(params, lr=1e-2, rho=0.6),
}
CASES = [(rule, backend) for rule in RULES for backend in BACKENDS]


def fsdp2(accelerator: Any) -> None:
    """Make an accelerator shard on the CPU, too: of itself it does so on other devices only."""
    kind = accelerate.DistributedType.FSDP
    accelerate.PartialState._shared_state["distributed_type"] = kind
    accelerator.state._shared_state["distributed_type"] = kind
    accelerator.state._shared_state["fsdp_plugin"] = accelerate.FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="size_based_wrap",
        min_num_params=1,
        state_dict_type="SHARDED_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )


def work(rank: int, port: int, how: str, folder: Path) -> None:
    """Train on this rank's half of every batch; save, resume, and write what came out."""
    os.environ |= {
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": str(port),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(RANKS),
    }
    torch.set_num_threads(1)

    def begin(rule: str, backend: str) -> tuple[Any, tuple[Any, ...]]:
        accelerator = accelerate.Accelerator(cpu=True, step_scheduler_with_optimizer=False)
        if how == "fsdp2":
            fsdp2(accelerator)
        return accelerator, prepared(accelerator, RULES[rule](backend), batch=16 // RANKS)

    def found(accelerator: Any, objects: tuple[Any, ...]) -> dict[str, Any]:
        metrics = objects[1].optimizer.metrics()
        return {"model": accelerator.get_state_dict(objects[0]), "metrics": metrics}

    for rule, backend in CASES:
        place = folder / rule / backend
        accelerator, objects = begin(rule, backend)
        sharded = {isinstance(p, DTensor) for g in objects[1].param_groups for p in g["params"]}
        assert sharded == {how == "fsdp2"}
        train(accelerator, objects, 2)
        accelerator.save_state(str(place))
        train(accelerator, objects, 1)
        torch.save(found(accelerator, objects), place / f"unbroken{rank}.pt")
        accelerator.free_memory()
        accelerator, objects = begin(rule, backend)
        accelerator.load_state(str(place))
        train(accelerator, objects, 1)
        torch.save(found(accelerator, objects), place / f"resumed{rank}.pt")
        accelerator.free_memory()
    accelerator.end_training()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize("how", ["ddp", "fsdp2"])
def test_two_processes_train_as_one_does(how: str, tmp_path: Path) -> None:
    """Also after `save_state` and `load_state`; coefficients are the same on both ranks."""
    torch.multiprocessing.spawn(work, (free_port(), how, tmp_path), nprocs=RANKS)
    for rule, backend in CASES:
        model, optimizer = plainly(RULES[rule](backend))
        if rule == "adamw":
            model, _ = plainly(lambda params: torch.optim.AdamW(params, **TORCH))
        expected = model.state_dict()
        found = {
            name: [torch.load(tmp_path / rule / backend / f"{name}{r}.pt") for r in range(RANKS)]
            for name in ("unbroken", "resumed")
        }
        for ranks in found.values():
            weights = ranks[0]["model"]
            for key, value in expected.items():
                torch.testing.assert_close(weights[key], value, rtol=1e-9, atol=1e-12)
            assert ranks[0]["metrics"] == ranks[1]["metrics"]
            assert ranks[0]["metrics"] == pytest.approx(optimizer.metrics(), rel=1e-7, abs=1e-12)
        assert bits(found["resumed"][0]) == bits(found["unbroken"][0])
