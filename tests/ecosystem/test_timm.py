"""timm: one line registers a class, and `create_optimizer_v2` makes it by name.

timm needs torchvision, whose wheels are made for GPUs: beside a torch for the CPU, their operators
do not load, and the import fails. Nothing here uses them, so it is enough that they are declared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from .common import BACKENDS, TORCH, adamw, bits, close, mada, moved
from .test_page import run


def _declare_operators() -> None:
    """Make torchvision importable where its library of operators does not load."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            torch.library.define(f"torchvision::{name}", schema)
    except ImportError:
        pass


_declare_operators()
timm = pytest.importorskip("timm", reason="timm needs a torchvision: see `make test-ecosystem`")
registry = pytest.importorskip("timm.optim._optim_factory").default_registry

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture
def _registered() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    before = dict(registry._optimizers)
    yield
    registry._optimizers = before


def transformer(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = timm.create_model(
        "vit_tiny_patch16_224",
        pretrained=False,
        img_size=16,
        patch_size=8,
        embed_dim=24,
        depth=2,
        num_heads=2,
        num_classes=3,
    )
    return model.to(dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    dtype = next(model.parameters()).dtype
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 3, 16, 16, generator=generator).to(dtype)
        classes = images.mean(dim=(2, 3)).argmax(dim=1)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), classes).backward()
        optimizer.step()


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize(
    "options", [{}, {"layer_decay": 0.7}, {"filter_bias_and_bn": False}], ids=str
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_registry_makes_what_trains_as_torchs_adamw(
    backend: str, options: dict[str, Any]
) -> None:
    """With timm's groups: decay and none, and a learning rate for each layer."""
    registry.register(timm.optim.OptimInfo("oursw", adamw(backend), has_betas=True))
    models = [transformer(), transformer()]
    made = []
    for model, name in zip(models, ["oursw", "adamw"], strict=True):
        made.append(timm.optim.create_optimizer_v2(model, name, **TORCH, **options))
        train(model, made[-1], range(8))
    close(*models)
    ours, theirs = ([(g["lr"], g["weight_decay"]) for g in o.param_groups] for o in made)
    assert ours == theirs
    assert type(made[0]).__name__ == "AdamW"
    assert made[0].metrics() == {}


@pytest.mark.usefixtures("_registered")
@pytest.mark.parametrize("backend", BACKENDS)
def test_learned_coefficients_resume_to_the_bit(backend: str, tmp_path: Path) -> None:
    registry.register(timm.optim.OptimInfo("mada", mada(backend), has_betas=True))

    def begin() -> tuple[nn.Module, Any, Any]:
        model = transformer(torch.float32)
        optimizer = timm.optim.create_optimizer_v2(model, "mada", lr=1e-2, weight_decay=0.05)
        from timm.scheduler import CosineLRScheduler

        return model, optimizer, CosineLRScheduler(optimizer, t_initial=12, warmup_t=3)

    def go(objects: tuple[nn.Module, Any, Any], steps: range) -> None:
        model, optimizer, schedule = objects
        for step in steps:
            schedule.step(step)
            train(model, optimizer, range(step, step + 1))

    unbroken = begin()
    go(unbroken, range(7))
    torch.save([part.state_dict() for part in unbroken], tmp_path / "state.pt")
    go(unbroken, range(7, 12))
    resumed = begin()
    for part, state in zip(resumed, torch.load(tmp_path / "state.pt"), strict=True):
        part.load_state_dict(state)
    go(resumed, range(7, 12))
    assert bits(resumed[0].state_dict()) == bits(unbroken[0].state_dict())
    assert bits(resumed[1].state_dict()) == bits(unbroken[1].state_dict())
    assert moved(resumed[1])


@pytest.mark.usefixtures("_registered")
def test_the_page() -> None:
    names = run("timm", {"model": transformer(torch.float32)})
    assert type(names["optimizer"]).__name__ == "MADA"
    assert {g["weight_decay"] for g in names["optimizer"].param_groups} == {0.0, 0.05}
    train(names["model"], names["optimizer"], range(3))
