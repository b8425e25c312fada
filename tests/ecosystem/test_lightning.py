"""Lightning: `configure_optimizers` returns ours; every step comes with a closure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .common import BACKENDS, SPEC, TORCH, adamw, bits, close, mada, moved, network, samples

lightning = pytest.importorskip("lightning", reason="see `make test-ecosystem`")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

BATCH = 8
MakeOptimizer = Callable[[Any], torch.optim.Optimizer]


class Classifier(lightning.LightningModule):
    """The module of a tutorial; `closures` counts what `step` was given."""

    def __init__(self, make: MakeOptimizer, dtype: torch.dtype = torch.float64) -> None:
        super().__init__()
        self.model = network(dtype)
        self.make = make
        self.losses: list[float] = []
        self.norms: list[float] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        inputs, classes = batch
        loss = nn.functional.cross_entropy(self.model(inputs), classes)
        self.losses.append(loss.item())
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        # Lightning calls this at the end of the closure, so within `step`.
        self.norms.append(float(nn.utils.get_total_norm(p.grad for p in self.model.parameters())))

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = self.make(self.model.parameters())
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Manual(Classifier):
    """The same with manual optimization."""

    def __init__(self, make: MakeOptimizer) -> None:
        super().__init__(make)
        self.automatic_optimization = False

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        optimizer = self.optimizers()
        loss = super().training_step(batch, index)
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.lr_schedulers().step()


def loader(dtype: torch.dtype = torch.float64) -> torch.utils.data.DataLoader[Any]:
    data = torch.utils.data.TensorDataset(*samples(dtype=dtype))
    return torch.utils.data.DataLoader(data, batch_size=BATCH, num_workers=0)


def fit(module: Classifier, folder: Path, resume: Path | None = None, **options: Any) -> Any:
    settings = {"precision": "64-true", "max_epochs": 3, "enable_checkpointing": False, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        **settings,
    )
    dtype = next(module.parameters()).dtype
    trainer.fit(module, loader(dtype), ckpt_path=resume, weights_only=None)
    return trainer


def plainly(make: MakeOptimizer, dtype: torch.dtype, autocast: bool) -> tuple[nn.Module, Any]:
    """The same training as `fit`, as a plain loop without a closure."""
    model = network(dtype)
    optimizer = make(model.parameters())
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 24)
    for _ in range(3):
        for inputs, classes in loader(dtype):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                loss = nn.functional.cross_entropy(model(inputs), classes)
            loss.backward()
            optimizer.step()
            schedule.step()
    return model, optimizer


@pytest.mark.parametrize("module", [Classifier, Manual])
@pytest.mark.parametrize("backend", BACKENDS)
def test_closures_train_as_torchs_adamw_does(
    backend: str, module: type[Classifier], tmp_path: Path
) -> None:
    ours = module(lambda params: adamw(backend)(params, **SPEC))
    theirs = module(lambda params: torch.optim.AdamW(params, **TORCH))
    fit(ours, tmp_path)
    fit(theirs, tmp_path)
    close(ours, theirs)
    assert ours.losses == pytest.approx(theirs.losses, rel=1e-9)
    # Hooks and gradients are those of the closure.
    assert ours.norms == pytest.approx(theirs.norms, rel=1e-7)
    assert all(ours.norms)
    # And a loop without closures does the same.
    model, _ = plainly(lambda params: torch.optim.AdamW(params, **TORCH), torch.float64, False)
    close(ours.model, model)


@pytest.mark.parametrize("backend", BACKENDS)
def test_clipping_and_accumulation_are_those_of_torchs_adamw(backend: str, tmp_path: Path) -> None:
    options = {"gradient_clip_val": 0.05, "accumulate_grad_batches": 2}
    ours = Classifier(lambda params: adamw(backend)(params, **SPEC))
    theirs = Classifier(lambda params: torch.optim.AdamW(params, **TORCH))
    fit(ours, tmp_path, **options)
    fit(theirs, tmp_path, **options)
    close(ours, theirs)
    assert len(ours.norms) == 12


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_a_precision_is_the_plain_loop_to_the_bit(
    precision: str, backend: str, tmp_path: Path
) -> None:
    def make(params: Any) -> torch.optim.Optimizer:
        return mada(backend)(params, lr=1e-2, rho=0.6)

    module = Classifier(make, torch.float32)
    trainer = fit(module, tmp_path, precision=precision)
    model, optimizer = plainly(make, torch.float32, precision == "bf16-mixed")
    assert bits(module.model.state_dict()) == bits(model.state_dict())
    assert bits(trainer.optimizers[0].state_dict()) == bits(optimizer.state_dict())
    assert moved(optimizer) >= {"rho", "beta1"}
    assert next(module.parameters()).dtype == torch.float32


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_a_checkpoint_resumes_with_learned_coefficients_to_the_bit(
    precision: str, backend: str, tmp_path: Path
) -> None:
    def module() -> Classifier:
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        return Classifier(lambda params: mada(backend)(params, lr=1e-2, rho=0.6), dtype)

    save = lightning.pytorch.callbacks.ModelCheckpoint(
        dirpath=tmp_path, save_top_k=-1, filename="{step}", save_on_train_epoch_end=True
    )
    options = {"precision": precision, "enable_checkpointing": True}
    unbroken = module()
    first = fit(unbroken, tmp_path, callbacks=[save], **options)
    resumed = module()
    second = fit(resumed, tmp_path, resume=tmp_path / "step=8.ckpt", **options)
    assert second.global_step == first.global_step == 24
    assert bits(resumed.state_dict()) == bits(unbroken.state_dict())
    states = [bits(trainer.optimizers[0].state_dict()) for trainer in (first, second)]
    assert states[0] == states[1]
    assert moved(first.optimizers[0]) >= {"rho", "beta1"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_its_wrapper_is_a_subclass_made_on_the_fly(backend: str) -> None:
    from lightning.pytorch.core.optimizer import LightningOptimizer

    cls = mada(backend)
    model = network()
    optimizer = cls(model.parameters(), lr=1e-2)
    wrapped = LightningOptimizer(optimizer)
    assert isinstance(wrapped, cls)
    assert type(wrapped).__name__ == "LightningMADA"
    assert wrapped.metrics() == optimizer.metrics()
    assert wrapped.param_groups is optimizer.param_groups
    assert bits(wrapped.state_dict()) == bits(optimizer.state_dict())
