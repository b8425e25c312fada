"""What docs/training.md shows is what runs."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from .common import network, samples

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text()

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")


def run(title: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the snippets of a section after the page's first one, with names that they need."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    section = next(s for s in sections if s.startswith(f"{title}\n"))
    for text in (sections[0], section):
        found = re.findall(r"^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
        assert found
        for block in found:
            exec(textwrap.dedent(block), names)
    return names


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    inputs, classes = samples(dtype=torch.float32)
    loss = nn.functional.cross_entropy(model(inputs), classes)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def learns(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    first = step(model, optimizer)
    assert min(step(model, optimizer) for _ in range(20)) < first


def test_a_plain_loop() -> None:
    names = run("A plain loop", {"model": network(torch.float32)})
    assert [g["weight_decay"] for g in names["optimizer"].param_groups] == [0.1, 0.0]
    assert names["optimizer"].param_groups[0]["beta2"] == 0.95
    learns(names["model"], names["optimizer"])


def test_hugging_face(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="see `make test-ecosystem`")
    from .test_hugging_face import Sentences, bert

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=3, weight_decay=0.1, use_cpu=True, report_to="none"
    )
    given = {"model": bert(), "arguments": arguments, "dataset": Sentences()}
    trainer = run("Hugging Face", given)["trainer"]
    optimizer = trainer.optimizer.optimizer
    assert type(optimizer).__name__ == "MADA"
    assert optimizer.metrics()
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.1, 0.0]
    assert optimizer.param_groups[0]["initial_lr"] == 6e-4


@pytest.fixture
def _fresh() -> Iterator[None]:
    accelerate = pytest.importorskip("accelerate", reason="see `make test-ecosystem`")
    yield
    accelerate.state.AcceleratorState._reset_state(True)
    accelerate.state.GradientState._reset_state()


@pytest.mark.usefixtures("_fresh")
def test_accelerate() -> None:
    data = torch.utils.data.TensorDataset(*samples(dtype=torch.float32))
    loader = torch.utils.data.DataLoader(data)
    names = run("accelerate", {"model": network(torch.float32), "loader": loader})
    assert names["optimizer"].optimizer.metrics()
    learns(names["model"], names["optimizer"])


def test_lightning(tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning", reason="see `make test-ecosystem`")
    names = run("Lightning", {})
    logged = re.findall(r"`(self\.log_dict.*?)`", PAGE)
    assert len(logged) == 1

    class Module(lightning.LightningModule):
        configure_optimizers = names["configure_optimizers"]

        def __init__(self) -> None:
            super().__init__()
            self.model = network(torch.float32)

        def training_step(self, batch: Any, index: int) -> Any:
            exec(logged[0], {"self": self})
            return nn.functional.cross_entropy(self.model(batch[0]), batch[1])

    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    data = torch.utils.data.TensorDataset(*samples(dtype=torch.float32))
    trainer.fit(Module(), torch.utils.data.DataLoader(data, batch_size=8))
    assert {"rho", "hypergradient/rho"} <= set(trainer.logged_metrics)


def test_torchtitan() -> None:
    pytest.importorskip("torchtitan", reason="see `make test-ecosystem`")
    parts = list(network(torch.float32)[:2])
    names = run("torchtitan", {"model_parts": parts})
    made = [type(optimizer).__name__ for optimizer in names["optimizers"]]
    assert made == ["MADA", "MADA"]
    learns(nn.Sequential(*parts), names["optimizers"])


def test_fsdp2() -> None:
    given = {"model": network(torch.float32), "fully_shard": lambda model: model}
    names = run("DDP and FSDP2", given)
    learns(names["model"], names["optimizer"])


def test_loggers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard", reason="see `make test-ecosystem`")
    pytest.importorskip("wandb", reason="see `make test-ecosystem`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    model = network(torch.float32)
    given: dict[str, Any] = {"folder": str(tmp_path), "mode": "disabled", "step": 3}
    import optdsl

    given["optimizer"] = optdsl.load("mada")(model.parameters(), rho=0.625)
    given["loss"] = step(model, given["optimizer"])
    names = run("Loggers", given)
    names["writer"].close()
    written = EventAccumulator(str(tmp_path))
    written.Reload()
    assert written.Scalars("rho")[0].step == 3
    assert written.Scalars("rho")[0].value == 0.625
    assert set(written.Tags()["scalars"]) == set(given["optimizer"].metrics())
