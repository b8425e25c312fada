"""Hugging Face's Trainer: `optimizer_cls_and_kwargs=(Class, {...})` and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from .common import BACKENDS, TORCH, adamw, bits, close, mada, moved

transformers = pytest.importorskip("transformers", reason="see `make test-ecosystem`")

Choice = tuple[type[torch.optim.Optimizer], dict[str, Any]]


class Sentences(torch.utils.data.Dataset[dict[str, Tensor]]):
    """Twelve tokens each; the label says whether the first one is large."""

    def __init__(self) -> None:
        self.tokens = torch.randint(32, (48, 12), generator=torch.Generator().manual_seed(3))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = self.tokens[index]
        return {"input_ids": tokens, "labels": (tokens[0] >= 16).long()}


class MatricesOnly(nn.Module):
    """A model of which nothing is exempt from weight decay."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(32, 8)
        self.head = nn.Linear(12 * 8, 2, bias=False)

    def forward(self, input_ids: Tensor, labels: Tensor) -> dict[str, Tensor]:
        logits = self.head(self.tokens(input_ids).flatten(1))
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def bert() -> nn.Module:
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        hidden_dropout_prob=0.1,
    )
    return transformers.BertForSequenceClassification(config)


def matrices_only() -> nn.Module:
    torch.manual_seed(0)
    return MatricesOnly()


def trainer(model: nn.Module, choice: Choice, folder: Path, **options: Any) -> Any:
    arguments = {
        "max_steps": 12,
        "save_steps": 6,
        "logging_steps": 1,
        "per_device_train_batch_size": 8,
        "weight_decay": TORCH["weight_decay"],
        "use_cpu": True,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": 1,
        **options,
    }
    return transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(output_dir=str(folder), **arguments),
        train_dataset=Sentences(),
        optimizer_cls_and_kwargs=choice,
    )


@pytest.mark.parametrize("make_model", [bert, matrices_only])
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_trains_as_with_torchs_adamw(backend: str, make_model: Any, tmp_path: Path) -> None:
    """With a second decay group, which for `matrices_only` is empty."""
    runs = []
    for choice in [(adamw(backend), TORCH), (torch.optim.AdamW, TORCH)]:
        run = trainer(make_model().double(), choice, tmp_path, save_strategy="no")
        run.train()
        runs.append(run)
    ours, theirs = runs
    close(ours.model, theirs.model)
    groups = ours.optimizer.param_groups
    assert [g["weight_decay"] for g in groups] == [TORCH["weight_decay"], 0.0]
    assert (not groups[1]["params"]) == (make_model is matrices_only)
    losses = [[h["loss"] for h in run.state.log_history if "loss" in h] for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize("make_model", [bert, matrices_only])
@pytest.mark.parametrize("backend", BACKENDS)
def test_it_resumes_with_learned_coefficients_to_the_bit(
    backend: str, make_model: Any, tmp_path: Path
) -> None:
    choice = mada(backend), {"lr": 1e-2, "rho": 0.6}
    unbroken = trainer(make_model(), choice, tmp_path)
    unbroken.train()
    resumed = trainer(make_model(), choice, tmp_path)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert resumed.state.global_step == 12
    assert bits(resumed.model.state_dict()) == bits(unbroken.model.state_dict())
    assert bits(resumed.optimizer.state_dict()) == bits(unbroken.optimizer.state_dict())
    assert moved(unbroken.optimizer.optimizer) >= {"rho", "beta1"}


def test_a_fine_tune_with_a_scheduler_bfloat16_and_accumulation_learns(tmp_path: Path) -> None:
    """A newcomer's try: the options of a usual script, and the optimizer's line changed."""
    run = trainer(
        bert(),
        (mada("auto"), {"lr": 5e-3}),
        tmp_path,
        max_steps=30,
        save_strategy="no",
        bf16=True,
        gradient_accumulation_steps=2,
        lr_scheduler_type="cosine",
        warmup_steps=3,
    )
    run.train()
    losses = [h["loss"] for h in run.state.log_history if "loss" in h]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert moved(run.optimizer.optimizer)
