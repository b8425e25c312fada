"""The usual loops: gradients added up over small batches, and gradients clipped."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from tests.runtime.helpers import ORDERS, fingerprint, learner

pytestmark = pytest.mark.broad(8)

BACKENDS = ("eager", "auto")
# Ours, torch's, and arguments that both have.
PAIRS: dict[str, tuple[str, Any, dict[str, float]]] = {
    "adam": ("adam", torch.optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
    "adamw": ("adamw", torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "sgd": ("sgd", torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
}
Clip = Callable[[list[Tensor]], Any]
CLIPS: dict[str, Clip] = {
    "norm": lambda ps: nn.utils.clip_grad_norm_(ps, 0.05),
    "norm, one by one": lambda ps: nn.utils.clip_grad_norm_(ps, 0.05, foreach=False),
    "largest": lambda ps: nn.utils.clip_grad_norm_(ps, 0.01, norm_type=float("inf")),
    "value": lambda ps: nn.utils.clip_grad_value_(ps, 0.01),
}


def model() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).double()


def examples(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(70 + step)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return x, torch.randn(12, 2, generator=generator, dtype=torch.float64)


def backward(net: nn.Module, step: int, parts: int = 1) -> None:
    x, y = examples(step)
    for some, wanted in zip(x.chunk(parts), y.chunk(parts), strict=True):
        (nn.functional.mse_loss(net(some), wanted) / parts).backward()


def values(net: nn.Module) -> list[Tensor]:
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("parts", [2, 3, 4])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_small_batches_add_up_to_a_big_one(backend: str, order: str, parts: int) -> None:
    """Parameters, coefficients and hyper-gradients: a step is a step, whatever was added up."""
    nets = [model(), model()]
    cls = optdsl.load("mada", backend=backend, order=order)
    small, big = (cls(n.parameters()) for n in nets)
    for step in range(6):
        for net, optimizer, cut in zip(nets, (small, big), (parts, 1), strict=True):
            backward(net, step, cut)
            optimizer.step()
            optimizer.zero_grad()
    assert any(v for k, v in big.metrics().items() if k.startswith("hypergradient/"))
    assert small.metrics() == pytest.approx(big.metrics(), rel=1e-8, abs=1e-12)
    torch.testing.assert_close(values(nets[0]), values(nets[1]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_accumulation_and_clipping_are_as_with_torchs_own(
    backend: str, clip: str, pair: str
) -> None:
    name, theirs, arguments = PAIRS[pair]
    nets = [model(), model()]
    ours = optdsl.load(name, backend=backend)(nets[0].parameters(), **arguments)
    optimizers = (ours, theirs(nets[1].parameters(), **arguments))
    for step in range(8):
        for net, optimizer in zip(nets, optimizers, strict=True):
            backward(net, step, parts=3)
            CLIPS[clip](list(net.parameters()))
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(values(nets[0]), values(nets[1]), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_hypergradients_are_those_of_the_clipped_gradients(backend: str, order: str) -> None:
    """The same as when the clipped gradients had come from a loss."""
    nets = [model(), model()]
    cls = optdsl.load("mada", backend=backend, order=order)
    clipped, given = (cls(n.parameters()) for n in nets)
    for step in range(6):
        backward(nets[0], step)
        nn.utils.clip_grad_norm_(nets[0].parameters(), 0.05)
        for source, target in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
            assert source.grad is not None
            target.grad = source.grad.clone()
        for optimizer in (clipped, given):
            optimizer.step()
            optimizer.zero_grad()
        assert clipped.metrics() == given.metrics()
    assert fingerprint(clipped) == fingerprint(given)


def test_clipping_before_a_closure_ends() -> None:
    """The way of trainers that step with a closure: zero, backward and clip within."""
    nets = [model(), model()]
    cls = learner("adamw")
    first, second = (cls(n.parameters()) for n in nets)

    def closure(step: int) -> float:
        first.zero_grad()
        backward(nets[0], step, parts=2)
        return float(nn.utils.clip_grad_norm_(nets[0].parameters(), 0.05))

    for step in range(6):
        returned = first.step(lambda step=step: closure(step))  # type: ignore[misc]
        second.zero_grad()
        backward(nets[1], step, parts=2)
        assert returned == float(nn.utils.clip_grad_norm_(nets[1].parameters(), 0.05))
        second.step()
    assert fingerprint(first) == fingerprint(second)


def test_zeroing_in_place_leaves_what_is_pending() -> None:
    """Between steps the old gradients may be overwritten: what is pending is a copy of its own."""
    nets = [model(), model()]
    for backend in BACKENDS:
        cls = optdsl.load("mada", backend=backend)
        first, second = (cls(n.parameters()) for n in nets)
        for step in range(5):
            for net, optimizer in zip(nets, (first, second), strict=True):
                backward(net, step)
                optimizer.step()
            first.zero_grad(set_to_none=False)
            for parameter in nets[0].parameters():
                assert parameter.grad is not None
                parameter.grad.fill_(torch.nan).zero_()
            second.zero_grad()
        assert first.metrics() == second.metrics()
        assert fingerprint(first) == fingerprint(second)


@contextlib.contextmanager
def spoiled(net: nn.Module) -> Iterator[None]:
    handle = next(net.parameters()).register_hook(lambda g: g * torch.inf)
    yield
    handle.remove()


def test_a_loop_may_skip_steps_by_itself() -> None:
    """As loops do that look at the norm of the gradients: a step not taken is none."""
    nets = [model(), model()]
    cls = optdsl.load("mada")
    first, second = (cls(n.parameters()) for n in nets)
    for step in range(6):
        if step in (0, 3):
            with spoiled(nets[0]):
                backward(nets[0], 99)
            norm = nn.utils.clip_grad_norm_(nets[0].parameters(), 1.0)
            assert not norm.isfinite()
            first.zero_grad()
        for net, optimizer in zip(nets, (first, second), strict=True):
            backward(net, step)
            optimizer.step()
            optimizer.zero_grad()
    assert fingerprint(first) == fingerprint(second)
