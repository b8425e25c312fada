"""The tasks: their data and their initial weights follow from a seed, and they can be learned."""

import gzip
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from optdsl.training import TrainingError
from optdsl.training.tasks import TASKS, Problem, Sources, find_task
from optdsl.training.tasks.pictures import load_pictures

from .fakes import TEXT


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    pytest.importorskip("sklearn")
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return Sources(text=path)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of small models wait for each other, above all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(problem: Problem, steps: int, learning_rate: float) -> list[float]:
    optimizer = torch.optim.AdamW(problem.model.parameters(), lr=learning_rate)
    generator = torch.Generator().manual_seed(0)
    losses = [problem.validation_loss()]
    for _ in range(steps):
        optimizer.zero_grad()
        loss = problem.train_loss(generator)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return [*losses, problem.validation_loss()]


@pytest.mark.broad(1)
@pytest.mark.parametrize("name", TASKS)
def test_a_task_follows_from_its_seed_and_can_be_learned(name: str, sources: Sources) -> None:
    task = TASKS[name]
    steps = min(task.quick_steps, 12)
    first, again, other = (
        trained(task.problem(seed, sources), steps, task.learning_rate) for seed in (1, 1, 2)
    )
    assert first == again
    assert first[1:-1] != other[1:-1]
    assert first[-1] < first[0]
    assert other[-1] < other[0]


def test_validation_leaves_the_global_generator_and_the_model_alone(sources: Sources) -> None:
    for task in TASKS.values():
        problem = task.problem(0, sources)
        torch.default_generator.manual_seed(3)
        before = torch.default_generator.get_state()
        assert problem.validation_loss() == problem.validation_loss()
        problem.train_loss(torch.Generator().manual_seed(1))
        assert torch.equal(torch.default_generator.get_state(), before), task.name
        assert all(p.grad is None for p in problem.model.parameters())


def test_an_unknown_task_is_refused() -> None:
    with pytest.raises(TrainingError, match="did you mean `resnet`"):
        find_task("resnets")


def test_files_of_cifar_and_of_mnists_format_are_read(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)

    def numbers(count: int) -> bytes:
        return bytes(torch.randint(256, (count,), generator=generator).tolist())

    cifar = tmp_path / "cifar"
    cifar.mkdir()
    records = [bytes([label]) + numbers(3072) for label in range(4)]
    (cifar / "data_batch_1.bin").write_bytes(b"".join(records[:2]))
    (cifar / "data_batch_2.bin").write_bytes(records[2])
    (cifar / "test_batch.bin").write_bytes(records[3])
    found = load_pictures(cifar)
    assert found.train.shape == (3, 3, 32, 32)
    assert found.train_labels.tolist() == [0, 1, 2]
    raw = torch.tensor(list(records[1][1:]), dtype=torch.float32).view(3, 32, 32)
    scale = found.train[1].std() / raw.std()
    torch.testing.assert_close(found.train[1] - found.train[1].mean(), (raw - raw.mean()) * scale)

    mnist = tmp_path / "mnist"
    mnist.mkdir()
    for part, count in (("train", 3), ("t10k", 2)):
        images = struct.pack(">4I", 0x803, count, 28, 28) + numbers(count * 784)
        (mnist / f"{part}-images-idx3-ubyte").write_bytes(images)
        labels = struct.pack(">2I", 0x801, count) + bytes(range(count))
        (mnist / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    assert load_pictures(mnist).validation.shape == (2, 1, 28, 28)
    (mnist / "t10k-labels-idx1-ubyte.gz").write_bytes(b"something else")
    load_pictures.cache_clear()
    with pytest.raises(TrainingError, match="not a file in the format of MNIST"):
        load_pictures(mnist)
    with pytest.raises(TrainingError, match=r"neither data_batch_1\.bin nor"):
        load_pictures(tmp_path)
