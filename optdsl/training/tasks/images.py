"""Tasks that learn images: scikit-learn's digits, or images in files of the user's."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optdsl.training.problem import Problem, Sources
from optdsl.training.tasks.base import Task, drawn, initialized, quietly
from optdsl.training.tasks.pictures import Pictures, load_pictures

BATCH = 64
NOISE = 0.25  # standard deviation of the noise in training images, which are few


class ImageTask(Task):
    """Images and their classes."""

    unit = "nats"
    steps, quick_steps, learning_rate = 300, 30, 3e-3

    def model(self, pictures: Pictures) -> nn.Module:
        """Returns a model without its initial weights."""
        raise NotImplementedError

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        pictures = load_pictures(sources.images)
        return labelled(initialized(self.model(pictures), seed, gain=2**0.5), pictures)


class MLPTask(ImageTask):
    """A perceptron with two hidden layers."""

    name = "mlp"
    summary = "a perceptron with two hidden layers on images"

    def model(self, pictures: Pictures) -> nn.Module:
        """See `ImageTask`."""
        return nn.Sequential(
            nn.Flatten(),
            nn.Linear(pictures.pixels, 128),
            nn.ReLU(),
            nn.Linear(128, 128),
            nn.ReLU(),
            nn.Linear(128, pictures.classes),
        )


class CNNTask(ImageTask):
    """A convolutional network without norms."""

    name = "cnn"
    summary = "a network with three convolutions on images"
    steps, quick_steps = 250, 20

    def model(self, pictures: Pictures) -> nn.Module:
        """See `ImageTask`."""
        return nn.Sequential(
            nn.Conv2d(pictures.channels, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1, stride=2),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(128, pictures.classes),
        )


class ResNetTask(ImageTask):
    """A small residual network, with group norms so that it has no state but its weights."""

    name = "resnet"
    summary = "a residual network with six convolutions on images"
    steps, quick_steps = 200, 12

    def model(self, pictures: Pictures) -> nn.Module:
        """See `ImageTask`."""
        return nn.Sequential(
            nn.Conv2d(pictures.channels, 16, 3, padding=1),
            Residual(16, 16, 1),
            Residual(16, 32, 2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, pictures.classes),
        )


class Residual(nn.Module):
    """Two convolutions beside a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        """Creates the layers."""
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.first_norm = nn.GroupNorm(4, outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.second_norm = nn.GroupNorm(4, outputs)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps images to images, both of shape (batch, channels, height, width)."""
        hidden = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(hidden)) + self.shortcut(x))


class LogisticTask(ImageTask):
    """Logistic regression, which is convex."""

    name = "logistic"
    summary = "logistic regression on images (convex)"
    steps, quick_steps, learning_rate = 400, 100, 1e-2

    def model(self, pictures: Pictures) -> nn.Module:
        """See `ImageTask`."""
        return nn.Sequential(nn.Flatten(), nn.Linear(pictures.pixels, pictures.classes))


class AutoencoderTask(ImageTask):
    """An autoencoder with a narrow middle."""

    name = "autoencoder"
    summary = "an autoencoder of images, with eight numbers in its middle"
    unit = "squared error per pixel"
    steps, quick_steps = 400, 50

    def model(self, pictures: Pictures) -> nn.Module:
        """See `ImageTask`."""
        widths = (pictures.pixels, 96, 32, 8, 32, 96, pictures.pixels)
        layers: list[nn.Module] = [nn.Flatten()]
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.Tanh()]
        return nn.Sequential(*layers[:-1])

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        pictures = load_pictures(sources.images)
        model = initialized(self.model(pictures), seed)

        def error(images: Tensor) -> Tensor:
            return F.mse_loss(model(images), images.flatten(1))

        return _problem(model, pictures, lambda x, _: error(x), None)


class DiffusionTask(ImageTask):
    """A small diffusion model: it predicts the noise in an image (Ho et al., 2020)."""

    name = "diffusion"
    summary = "a perceptron that predicts the noise in an image"
    unit = "squared error per pixel"
    steps, quick_steps, learning_rate = 400, 40, 2e-3

    def model(self, pictures: Pictures) -> nn.Module:
        """See `ImageTask`."""
        return nn.Sequential(
            nn.Linear(pictures.pixels + 2, 192),
            nn.SiLU(),
            nn.Linear(192, 192),
            nn.SiLU(),
            nn.Linear(192, pictures.pixels),
        )

    def problem(self, seed: int, sources: Sources) -> Problem:
        """See `Task`."""
        pictures = load_pictures(sources.images)
        model = initialized(self.model(pictures), seed, gain=2**0.5)

        def error(images: Tensor, generator: torch.Generator) -> Tensor:
            clean = images.flatten(1)
            angle = torch.rand((len(clean), 1), generator=generator) * (torch.pi / 2)
            noise = torch.randn(clean.shape, generator=generator)
            mixed = angle.cos() * clean + angle.sin() * noise
            return F.mse_loss(model(torch.cat([mixed, angle.cos(), angle.sin()], 1)), noise)

        def train_loss(generator: torch.Generator) -> Tensor:
            return error(pictures.train[drawn(BATCH, len(pictures.train), generator)], generator)

        def validation_loss() -> float:
            fixed = torch.Generator().manual_seed(0)
            return quietly(lambda: error(pictures.validation, fixed))

        return Problem(model, train_loss, validation_loss, BATCH)


def labelled(model: nn.Module, pictures: Pictures) -> Problem:
    """Returns the problem of telling the classes of images."""
    ceiling = float(torch.tensor(float(pictures.classes)).log())
    return _problem(model, pictures, lambda x, y: F.cross_entropy(model(x), y), ceiling)


def _problem(
    model: nn.Module,
    pictures: Pictures,
    loss: Callable[[Tensor, Tensor], Tensor],
    ceiling: float | None,
) -> Problem:
    def train_loss(generator: torch.Generator) -> Tensor:
        chosen = drawn(BATCH, len(pictures.train), generator)
        images = pictures.train[chosen]
        noise = torch.randn(images.shape, generator=generator)
        return loss(images + NOISE * noise, pictures.train_labels[chosen])

    def validation_loss() -> float:
        return quietly(lambda: loss(pictures.validation, pictures.validation_labels))

    return Problem(model, train_loss, validation_loss, BATCH, ceiling)
