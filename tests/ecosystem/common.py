"""What the tests of the trainers share: rules, a small model, and the bits of an optimizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn

if TYPE_CHECKING:
    from optdsl.runtime.torch_api.optimizer import CompiledOptimizer

# "auto" is C where there is a compiler.
BACKENDS = ("eager", "auto")

# The same numbers by the names of torch and by those of the specification.
TORCH: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
SPEC: dict[str, Any] = {"lr": 1e-2, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def adamw(backend: str = "eager") -> type[CompiledOptimizer]:
    """AdamW, learning nothing: the same as torch's."""
    return optdsl.load("adamw", backend=backend)


def mada(backend: str = "eager") -> type[CompiledOptimizer]:
    """MADA with coefficients that move from the third step on, and remember a momentum."""
    how = Learn("sgd", lr=0.05, momentum=0.9, clip=10, after=2)
    learn = {name: how for name in ("c", "rho", "kappa", "gamma")}
    learn["beta1"] = Learn("sgd", lr=5e-3, clip=10, bounds=(0.5, 0.99), after=2)
    return optdsl.load("mada", learn=learn, backend=backend)


def moved(optimizer: CompiledOptimizer) -> set[str]:
    """The learned coefficients that are no longer where they started."""
    names = [name for name in optimizer.metrics() if "/" not in name]
    starts = {h.name: h.default for h in optimizer.compiled.program.hypers}
    return {name for name in names if float(optimizer.param_groups[0][name]) != starts[name]}


def network(dtype: torch.dtype = torch.float64, seed: int = 0) -> nn.Sequential:
    """A classifier of 6 numbers into 3 classes, with matrices, biases and a norm."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def samples(count: int = 64, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Inputs (count, 6) and classes (count,) that a small network can learn."""
    generator = torch.Generator().manual_seed(7)
    inputs = torch.randn(count, 6, generator=generator, dtype=torch.float64)
    return inputs.to(dtype), inputs[:, :3].argmax(dim=1)


def bits(value: Any) -> Any:
    """A state or a model's weights, comparable to the bit."""
    if isinstance(value, Tensor):
        found = value.detach().cpu()
        return (
            str(found.dtype),
            tuple(found.shape),
            bytes(found.reshape(-1).view(torch.uint8).tolist()).hex(),
        )
    if isinstance(value, dict):
        return {key: bits(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [bits(item) for item in value]
    return value.hex() if isinstance(value, float) else value


def close(one: nn.Module, other: nn.Module, rtol: float = 1e-9) -> None:
    """Check that two models have the same weights, but for the rounding of float64."""
    expected = dict(other.named_parameters())
    for name, parameter in one.named_parameters():
        torch.testing.assert_close(parameter, expected[name], rtol=rtol, atol=1e-12, msg=name)
