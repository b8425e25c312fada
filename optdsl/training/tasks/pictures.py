"""Images with labels: scikit-learn's digits, or the files of CIFAR-10 and Fashion-MNIST."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optdsl.training.config import TrainingError

MOST_VALIDATION = 1000  # images of each evaluation


@dataclass(frozen=True)
class Pictures:
    """Images with mean 0 and standard deviation 1, float32, and their labels, int64.

    Attributes:
        train: Shape (images, channels, height, width).
        train_labels: Shape (images,).
        validation: As `train`.
        validation_labels: As `train_labels`.
        classes: How many labels there are.
    """

    train: Tensor
    train_labels: Tensor
    validation: Tensor
    validation_labels: Tensor
    classes: int

    @property
    def channels(self) -> int:
        """Colours of an image."""
        return self.train.shape[1]

    @property
    def pixels(self) -> int:
        """Numbers of an image."""
        return self.train[0].numel()


@lru_cache(maxsize=2)
def load_pictures(directory: Path | None) -> Pictures:
    """Returns the images in a directory, or scikit-learn's digits if it is None.

    Args:
        directory: With the binary version of CIFAR-10 (`data_batch_1.bin` and so on) or with files
            in the format of MNIST (`train-images-idx3-ubyte`, `train-labels-idx1-ubyte` and
            `t10k-...`, also with the suffix `.gz`), as Fashion-MNIST has them.

    Raises:
        TrainingError: They are not there, or cannot be read, or scikit-learn is not installed.
    """
    if directory is None:
        return _digits()
    if (directory / "data_batch_1.bin").is_file():
        parts = [_cifar(path) for path in sorted(directory.glob("data_batch_*.bin"))]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        return _normalized(images, labels, *_cifar(directory / "test_batch.bin"))
    arrays = []
    for part in ("train", "t10k"):
        for kind, rank in (("images-idx3", 3), ("labels-idx1", 1)):
            arrays.append(_idx(directory, f"{part}-{kind}-ubyte", rank))
    images, labels, tests, test_labels = arrays
    return _normalized(images[:, None], labels, tests[:, None], test_labels)


def _digits() -> Pictures:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError:
        raise TrainingError(
            "the images of digits come with scikit-learn: pip install 'optdsl[study]', "
            "or give a directory of images with --images"
        ) from None
    images, labels = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(images))
    images, labels = images[order].reshape(-1, 1, 8, 8), labels[order]
    split = len(images) * 3 // 4
    return _normalized(images[:split], labels[:split], images[split:], labels[split:])


def _cifar(path: Path) -> tuple[np.ndarray, np.ndarray]:
    records = np.frombuffer(_contents(path), dtype=np.uint8)
    if len(records) == 0 or len(records) % 3073:
        raise TrainingError(f"'{path}' is not a file of CIFAR-10's binary version")
    records = records.reshape(-1, 3073)
    return records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0]


def _idx(directory: Path, name: str, rank: int) -> np.ndarray:
    path = directory / name
    if not path.is_file():
        path = directory / f"{name}.gz"
    if not path.is_file():
        raise TrainingError(
            f"there is neither data_batch_1.bin nor {name} in '{directory}'; give a directory "
            "with the files of CIFAR-10 (binary version) or Fashion-MNIST"
        )
    try:
        data = gzip.decompress(_contents(path)) if path.suffix == ".gz" else _contents(path)
        if struct.unpack(">I", data[:4])[0] != 0x800 + rank:
            raise ValueError
        sizes = struct.unpack(f">{rank}I", data[4 : 4 + 4 * rank])
        return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank).reshape(sizes)
    except (ValueError, OSError, EOFError, struct.error):
        raise TrainingError(f"'{path}' is not a file in the format of MNIST") from None


def _contents(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TrainingError(f"cannot read '{path}': {error.strerror or error}") from None


def _normalized(
    train: np.ndarray, train_labels: np.ndarray, other: np.ndarray, other_labels: np.ndarray
) -> Pictures:
    images, others = (torch.from_numpy(x.astype(np.float32)) for x in (train, other))
    mean, deviation = images.mean(), images.std()
    return Pictures(
        (images - mean) / deviation,
        torch.from_numpy(train_labels.astype(np.int64)),
        (others[:MOST_VALIDATION] - mean) / deviation,
        torch.from_numpy(other_labels.astype(np.int64))[:MOST_VALIDATION],
        int(train_labels.max()) + 1,
    )
