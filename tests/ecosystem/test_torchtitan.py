"""torchtitan's container: one optimizer a model part, states by the names of parameters.

Its groups carry `param_names`, `fused` and `foreach`; its checkpoints are flat, and go through
`torch.distributed.checkpoint`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import nn

from .common import BACKENDS, TORCH, adamw, bits, close, mada, moved, samples

titan = pytest.importorskip("torchtitan.components.optimizer", reason="see `make test-ecosystem`")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

IMPLEMENTATIONS = ("fused", "foreach", "for-loop")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


class Part(nn.Module):
    """A stage of a pipeline: its names are its own, as torchtitan's are."""

    def __init__(self, first: bool, dtype: torch.dtype) -> None:
        super().__init__()
        if first:
            self.embed = nn.Linear(6, 8)
            self.norm = nn.LayerNorm(8)
        else:
            self.head = nn.Linear(8, 3)
        self.to(dtype)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x) if hasattr(self, "head") else torch.tanh(self.norm(self.embed(x)))


def parts(dtype: torch.dtype = torch.float64) -> list[nn.Module]:
    torch.manual_seed(0)
    return [Part(True, dtype), Part(False, dtype)]


def container(
    made: Callable[..., torch.optim.Optimizer],
    model_parts: list[nn.Module],
    kwargs: dict[str, Any],
    implementation: str = "for-loop",
    other: tuple[Callable[..., torch.optim.Optimizer], dict[str, Any]] | None = None,
) -> Any:
    """Biases and norms do not decay; they may have another optimizer, too."""

    class Container(titan.OptimizersContainer):
        # The two lines that a training needs: a name, and the class that it stands for.
        @staticmethod
        def _resolve_optimizer_factory(name: str) -> Callable[..., torch.optim.Optimizer]:
            return {"Matrices": made, "Vectors": other[0] if other else made}[name]

    vectors = {**kwargs, "weight_decay": 0.0} if other is None else other[1]
    name = "Matrices" if other is None else "Vectors"
    config = titan.OptimizersContainer.Config(
        param_groups=[
            titan.ParamGroupConfig(
                pattern=r"bias|norm", optimizer_name=name, optimizer_kwargs=vectors
            ),
            titan.ParamGroupConfig(
                pattern=r".*", optimizer_name="Matrices", optimizer_kwargs=kwargs
            ),
        ],
        implementation=implementation,
    )
    return Container(config, model_parts=model_parts)


def train(model_parts: list[nn.Module], optimizers: Any, schedulers: Any, steps: int) -> None:
    dtype = next(model_parts[0].parameters()).dtype
    inputs, classes = samples(dtype=dtype)
    for _ in range(steps):
        hidden = inputs
        for part in model_parts:
            hidden = part(hidden)
        optimizers.zero_grad()
        nn.functional.cross_entropy(hidden, classes).backward()
        optimizers.step()
        schedulers.step()


def schedule(optimizers: Any) -> Any:
    config = titan.LRSchedulersContainer.Config(warmup_steps=3)
    return config.build(optimizers=optimizers, training_steps=12)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_container_trains_as_with_torchs_adamw(backend: str, implementation: str) -> None:
    models = [parts(), parts()]
    ours = container(adamw(backend), models[0], TORCH, implementation)
    theirs = container(torch.optim.AdamW, models[1], TORCH)
    for model_parts, optimizers in zip(models, (ours, theirs), strict=True):
        train(model_parts, optimizers, schedule(optimizers), 12)
    for one, other in zip(*models, strict=True):
        close(one, other)
    assert len(ours.optimizers) == 2
    groups = [g for optimizer in ours for g in optimizer.param_groups]
    assert [g["param_names"] for g in groups] == [
        ["embed.bias", "norm.weight", "norm.bias"],
        ["embed.weight"],
        ["head.bias"],
        ["head.weight"],
    ]
    assert [g["fused"] for g in groups] == 4 * [implementation == "fused"]
    assert [g["foreach"] for g in groups] == 4 * [implementation == "foreach"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_flat_checkpoint_resumes_with_learned_coefficients_to_the_bit(
    backend: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """Each part has an optimizer of its own, and so coefficients of its own."""

    def begin() -> tuple[list[nn.Module], Any, Any]:
        model_parts = parts(dtype)
        optimizers = container(mada(backend), model_parts, {"lr": 1e-2, "rho": 0.6})
        return model_parts, optimizers, schedule(optimizers)

    def state(model_parts: list[nn.Module], optimizers: Any, schedulers: Any) -> dict[str, Any]:
        weights = {k: v for part in model_parts for k, v in part.state_dict().items()}
        return {"model": weights, "optimizer": optimizers, "lr_scheduler": schedulers}

    unbroken = begin()
    train(*unbroken, 7)
    dcp.save(state(*unbroken), checkpoint_id=tmp_path, no_dist=True)
    train(*unbroken, 5)
    resumed = begin()
    dcp.load(state(*resumed), checkpoint_id=tmp_path, no_dist=True)
    train(*resumed, 5)
    for one, other in zip(unbroken[0], resumed[0], strict=True):
        assert bits(one.state_dict()) == bits(other.state_dict())
    assert bits(unbroken[1].state_dict()) == bits(resumed[1].state_dict())
    first, second = unbroken[1].optimizers
    assert moved(first) >= {"rho", "beta1"}
    assert first.metrics()["rho"] != second.metrics()["rho"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_may_share_a_model_with_another_optimizer(backend: str) -> None:
    models = [parts(), parts()]
    ours = container(adamw(backend), models[0], TORCH, other=(torch.optim.AdamW, TORCH))
    theirs = container(torch.optim.AdamW, models[1], TORCH, other=(torch.optim.AdamW, TORCH))
    for model_parts, optimizers in zip(models, (ours, theirs), strict=True):
        train(model_parts, optimizers, schedule(optimizers), 12)
    for one, other in zip(*models, strict=True):
        close(one, other)
    flat = ours.state_dict()
    assert {"state.head.weight.m", "state.head.bias.exp_avg"} <= set(flat)


@pytest.mark.parametrize("rule", [adamw, mada])
@pytest.mark.parametrize("backend", BACKENDS)
def test_to_ask_for_the_state_before_training_changes_nothing(backend: str, rule: Any) -> None:
    """The container takes a step with no gradients to have a state; that step must not count."""
    asked, plain = (
        (model_parts, container(rule(backend), model_parts, {"lr": 1e-2, "weight_decay": 0.1}))
        for model_parts in (parts(torch.float32), parts(torch.float32))
    )
    flat = asked[1].state_dict()
    assert flat["state.head.weight.step"] == 0
    for model_parts, optimizers in (asked, plain):
        train(model_parts, optimizers, schedule(optimizers), 6)
    for one, other in zip(asked[0], plain[0], strict=True):
        assert bits(one.state_dict()) == bits(other.state_dict())
    assert bits(asked[1].state_dict()) == bits(plain[1].state_dict())
