"""Rules of matrices against torch.optim and against references written by hand, in float64."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal import common_optimizers

import optdsl

pytestmark = pytest.mark.broad(3)

STEPS = 100
SHAPES = [(4, 6), (6, 4), (3, 3), (1, 5), (5, 1)]
OTHERS = [(3, 4, 5), (2, 2, 2, 3), (7,), ()]
BACKENDS = ["eager", "auto"]


def start(shapes: list[tuple[int, ...]]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, dtype=torch.float64, generator=generator) for s in shapes]


def trained(
    make: Callable[[list[Tensor]], Any], shapes: list[tuple[int, ...]], steps: int = STEPS
) -> list[Tensor]:
    """The parameters after some steps with random gradients."""
    parameters = [torch.nn.Parameter(x.clone()) for x in start(shapes)]
    optimizer = make(parameters)
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=generator)
        optimizer.step()
    return [p.detach() for p in parameters]


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float) -> None:
    for x, y in zip(ours, theirs, strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=tolerance)


def of_torch(name: str) -> list[dict[str, Any]]:
    """The settings with which torch tests one of its optimizers, on the CPU."""
    found = getattr(common_optimizers, f"optim_inputs_func_{name}")(device="cpu", dtype=None)
    return [inputs.kwargs for inputs in found]


# --- Adafactor ------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", of_torch("adafactor"), ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_adafactor_is_that_of_torch(settings: dict[str, Any], backend: str) -> None:
    if isinstance(settings.get("lr"), Tensor):
        settings = settings | {"lr": float(settings["lr"])}
    own = {k: v for k, v in settings.items() if k not in {"eps", "foreach"}}
    eps = settings.get("eps", (None, 1e-3))
    own |= {"eps1": eps[0] or torch.finfo(torch.float64).eps, "eps2": eps[1]}
    cls = optdsl.load("adafactor", backend=backend)
    ours = trained(lambda p: cls(p, **own), SHAPES + OTHERS)
    theirs = trained(lambda p: torch.optim.Adafactor(p, **settings), SHAPES + OTHERS)
    assert_same(ours, theirs, 1e-10)


# --- Muon -----------------------------------------------------------------------------------------


class MuonByHand:
    """The update of torch.optim.Muon, in the precision of the parameters."""

    def __init__(self, parameters: list[Tensor], **settings: Any) -> None:
        self._parameters = parameters
        defaults = inspect.signature(torch.optim.Muon).parameters
        self._options = {k: v.default for k, v in defaults.items()} | settings
        self._options["lr"] = float(self._options["lr"])
        self._buffers = [torch.zeros_like(p) for p in parameters]

    def step(self) -> None:
        o = self._options
        for p, buffer in zip(self._parameters, self._buffers, strict=True):
            assert p.grad is not None
            buffer.lerp_(p.grad, 1 - o["momentum"])
            x = torch.lerp(p.grad, buffer, o["momentum"]) if o["nesterov"] else buffer.clone()
            tall = x.shape[0] > x.shape[1]
            x = x.T if tall else x
            x = x / torch.clamp(torch.linalg.matrix_norm(x), min=o["eps"])
            a, b, c = o["ns_coefficients"]
            for _ in range(o["ns_steps"]):
                gram = torch.einsum("ij,kj->ik", x, x)
                x = a * x + torch.einsum("ij,jk->ik", b * gram + c * gram.matrix_power(2), x)
            x = x.T if tall else x
            ratio = math.sqrt(max(1, p.shape[0] / p.shape[1]))
            if o["adjust_lr_fn"] == "match_rms_adamw":
                ratio = 0.2 * math.sqrt(max(p.shape))
            with torch.no_grad():
                p.mul_(1 - o["lr"] * o["weight_decay"]).sub_(x, alpha=o["lr"] * ratio)


def muon_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of torch.optim.Muon under the names of the rule."""
    own = {k: v for k, v in settings.items() if v is not None}
    if isinstance(own.get("lr"), Tensor):
        own["lr"] = float(own["lr"])
    own |= dict(zip(("ns_a", "ns_b", "ns_c"), own.pop("ns_coefficients", ()), strict=False))
    return own


@pytest.mark.parametrize("settings", of_torch("muon"), ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_muon_is_the_update_of_torch(settings: dict[str, Any], backend: str) -> None:
    cls = optdsl.load("muon", backend=backend)
    ours = trained(lambda p: cls(p, **muon_settings(settings)), SHAPES)
    theirs = trained(lambda p: MuonByHand(p, **settings), SHAPES)
    assert_same(ours, theirs, 1e-10)


@pytest.mark.parametrize("settings", of_torch("muon"), ids=str)
def test_muon_is_that_of_torch_as_far_as_bfloat16_goes(settings: dict[str, Any]) -> None:
    """torch rounds the momentum and all products to eight bits; an update has entries below 1."""
    ours = trained(lambda p: optdsl.load("muon")(p, **muon_settings(settings)), SHAPES, 1)
    theirs = trained(lambda p: torch.optim.Muon(p, **settings), SHAPES, 1)
    lr = muon_settings(settings).get("lr", 1e-3)
    scale = max(math.sqrt(5), 0.2 * math.sqrt(6))
    assert_same(ours, theirs, 0.1 * lr * scale)


def test_other_tensors_get_adamw() -> None:
    cls = optdsl.load("muon")
    ours = trained(lambda p: cls(p, lr=1e-3, lr_ratio=3, adamw_beta2=0.95), OTHERS)
    theirs = trained(
        lambda p: torch.optim.AdamW(p, lr=3e-3, betas=(0.9, 0.95), weight_decay=0.1), OTHERS
    )
    assert_same(ours, theirs, 1e-12)


# --- NorMuon --------------------------------------------------------------------------------------


class NorMuonByHand:
    """Li et al., 2025, algorithm 1, with the scale of Muon's update kept as in section 3."""

    def __init__(self, parameters: list[Tensor], lr: float = 0.02) -> None:
        self._parameters, self._lr = parameters, lr
        self._m = [torch.zeros_like(p) for p in parameters]
        self._v = [torch.zeros(p.shape[0], dtype=p.dtype) for p in parameters]

    def step(self) -> None:
        for p, m, v in zip(self._parameters, self._m, self._v, strict=True):
            assert p.grad is not None
            m.mul_(0.95).add_(p.grad, alpha=0.05)
            x = 0.05 * p.grad + 0.95 * m
            x = x / (x.norm() + 1e-7)
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.775 * gram + 2.0315 * gram @ gram) @ x
            v.mul_(0.95).add_(x.square().mean(1), alpha=0.05)
            u = x / (v.sqrt() + 1e-10)[:, None]
            u = u * (x.norm() / (u.norm() + 1e-10))
            with torch.no_grad():
                p.sub_(u, alpha=self._lr * math.sqrt(max(1, p.shape[0] / p.shape[1])))


@pytest.mark.parametrize("backend", BACKENDS)
def test_normuon_is_its_algorithm(backend: str) -> None:
    cls = optdsl.load("normuon", backend=backend)
    # On the long side the iteration sums in another order, and amplifies the difference.
    assert_same(trained(cls, SHAPES, 30), trained(NorMuonByHand, SHAPES, 30), 1e-9)
