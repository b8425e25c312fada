"""Automatic mixed precision: torch's scaler unscales and skips, and the rule never knows."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn
from tests.runtime.helpers import ORDERS, bits, fingerprint, held, learner, parameters, train

pytestmark = pytest.mark.broad(8)

BACKENDS = ("eager", "auto")
RULES = ("adam", "adan", "lion", "mada_legacy", "mada")


def class_of(rule: str, backend: str, order: str) -> Any:
    learn: Any = {"lr": Learn("sgd", lr=1e-6, momentum=0.9, clip=5, bounds=(0, 1), after=1)}
    if rule == "mada":
        learn = True
    return optdsl.load(rule, backend=backend, order=order, learn=learn)


def model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)).to(dtype)


def batch(step: int, size: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(50 + step)
    return (
        torch.randn(size, 4, generator=generator),
        torch.randn(size, 2, generator=generator),
    )


def loss(net: nn.Module, step: int) -> Tensor:
    x, y = batch(step)
    return nn.functional.mse_loss(net(x), y)


def cast_loss(net: nn.Module, step: int) -> Tensor:
    x, y = batch(step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return nn.functional.mse_loss(net(x), y.bfloat16()).float()


def everything(optimizer: Any) -> Any:
    """What an overflow must leave alone: bits, metrics, and what torch itself keeps."""
    # torch itself adds `differentiable` to the defaults of whatever it loads into.
    defaults = {k: repr(v) for k, v in optimizer.defaults.items() if k != "differentiable"}
    return fingerprint(optimizer), optimizer.metrics(), defaults


@pytest.mark.parametrize("before", [False, True], ids=["by step", "by the user"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", RULES)
def test_an_overflow_leaves_no_trace(rule: str, backend: str, order: str, before: bool) -> None:
    """At the first step, and while a hyper-gradient is pending; whoever unscales."""
    nets = [model(), model()]
    optimizer, reference = (class_of(rule, backend, order)(n.parameters()) for n in nets)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)

    def scaled(step: int, spoiled: float | None = None) -> None:
        optimizer.zero_grad()
        scaler.scale(loss(nets[0], step)).backward()
        if spoiled is not None:
            gradient = held(optimizer)[1].grad
            assert gradient is not None
            gradient[0] = spoiled
        if before:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()

    for step in range(6):
        for value in (torch.inf, -torch.inf, torch.nan) if step in (0, 1, 4) else ():
            kept, scale = everything(optimizer), scaler.get_scale()
            scaled(step, value)
            assert everything(optimizer) == kept
            assert scaler.get_scale() == scale / 2
        scaled(step)
        reference.zero_grad()
        loss(nets[1], step).backward()
        reference.step()
        # The scale is a power of two: hyper-gradients are those of unscaled gradients to the bit.
        assert optimizer.metrics() == reference.metrics()
    assert any(v for k, v in optimizer.metrics().items() if k.startswith("hypergradient/"))
    assert fingerprint(optimizer) == fingerprint(reference)


def test_a_scale_that_is_no_power_of_two_is_taken_out_of_hypergradients() -> None:
    nets = [model(), model()]
    cls = optdsl.load("mada")
    optimizer, reference = (cls(n.parameters()) for n in nets)
    scaler = torch.amp.GradScaler("cpu", init_scale=1000.0)
    for step in range(5):
        for net, target in zip(nets, (optimizer, reference), strict=True):
            target.zero_grad()
            value = loss(net, step)
            (scaler.scale(value) if target is optimizer else value).backward()
        scaler.step(optimizer)
        scaler.update()
        reference.step()
    ours, theirs = optimizer.metrics(), reference.metrics()
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-9)
    assert any(v for k, v in theirs.items() if k.startswith("hypergradient/"))


def test_the_scaler_refuses_closures_and_nothing_happens() -> None:
    """As with every torch optimizer; switched off, it lets them pass."""
    net = model()
    optimizer = optdsl.load("mada")(net.parameters())
    train_once(net, optimizer, 0)
    scaler = torch.amp.GradScaler("cpu")
    loss(net, 1).backward()
    before = everything(optimizer)
    with pytest.raises(RuntimeError, match="Closure use is not currently supported"):
        scaler.step(optimizer, closure=lambda: 0.0)
    assert everything(optimizer) == before
    off = torch.amp.GradScaler("cpu", enabled=False)
    assert off.step(optimizer, closure=lambda: 3.0) == 3.0
    assert everything(optimizer) != before


def train_once(net: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    optimizer.zero_grad()
    loss(net, step).backward()
    optimizer.step()


def test_one_scaler_for_two_optimizers_skips_only_the_one_that_overflows() -> None:
    nets = [model(), model()]
    cls = learner("adamw")
    first, second = (cls(n.parameters()) for n in nets)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(4):
        for net, optimizer in zip(nets, (first, second), strict=True):
            optimizer.zero_grad()
            scaler.scale(loss(net, step)).backward()
        if step == 2:
            gradient = held(first)[0].grad
            assert gradient is not None
            gradient.fill_(torch.inf)
        kept, moved = everything(first), everything(second)
        scaler.step(first)
        scaler.step(second)
        scaler.update()
        assert (everything(first) == kept) == (step == 2)
        assert everything(second) != moved


def test_hooks_and_schedulers_see_no_skipped_step() -> None:
    net = model()
    optimizer = learner("adam")(net.parameters())
    seen: list[int] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(0))
    optimizer.register_step_post_hook(lambda *_: seen.append(1))
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for spoiled in (False, True, False):
        optimizer.zero_grad()
        scaler.scale(loss(net, 0)).backward()
        if spoiled:
            gradient = held(optimizer)[0].grad
            assert gradient is not None
            gradient.fill_(torch.nan)
        scaler.step(optimizer)
        scaler.update()
    assert seen == [0, 1, 0, 1]
    # What torch sets around the step of an optimizer that scales by itself is never set here.
    assert not hasattr(optimizer, "grad_scale")
    assert not hasattr(optimizer, "found_inf")


def test_a_scaler_goes_on_from_a_checkpoint_after_a_skip() -> None:
    nets = [model(), model()]
    cls = learner("mada_legacy")
    optimizer = cls(nets[0].parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)

    def scaled(net: nn.Module, target: Any, by: Any, step: int, spoiled: bool = False) -> None:
        target.zero_grad()
        by.scale(loss(net, step)).backward()
        if spoiled:
            gradient = held(target)[0].grad
            assert gradient is not None
            gradient.fill_(torch.inf)
        by.step(target)
        by.update()

    for step in range(4):
        scaled(nets[0], optimizer, scaler, step, spoiled=step == 3)
    nets[1].load_state_dict(nets[0].state_dict())
    new, other = cls(nets[1].parameters()), torch.amp.GradScaler("cpu")
    new.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    other.load_state_dict(scaler.state_dict())
    for step in range(4, 8):
        scaled(nets[0], optimizer, scaler, step)
        scaled(nets[1], new, other, step)
    assert everything(new) == everything(optimizer)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_bfloat16_autocast_trains_as_torchs_adam_does(backend: str, order: str) -> None:
    """The parameters, their gradients and the states stay float32."""
    nets = [model(), model()]
    optimizer = optdsl.load("adam", backend=backend, order=order)(nets[0].parameters(), lr=0.01)
    reference = torch.optim.Adam(nets[1].parameters(), lr=0.01)
    for step in range(8):
        for net, target in zip(nets, (optimizer, reference), strict=True):
            target.zero_grad()
            cast_loss(net, step).backward()
            target.step()
    for ours, theirs in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-4)
        assert {x.dtype for k, x in optimizer.state[ours].items() if k != "step"} == {torch.float32}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("rule", ["mada", "muon with clip", "shampoo"])
def test_a_step_within_autocast_is_the_step_outside(rule: str, backend: str) -> None:
    """Lightning and others step in the context; no operation of the rule is cast."""
    nets = [model(), model()]
    cls = optdsl.load(rule, backend=backend)
    optimizers = [cls(n.parameters()) for n in nets]
    for step in range(5):
        for net, optimizer in zip(nets, optimizers, strict=True):
            optimizer.zero_grad()
            cast_loss(net, step).backward()
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=net is nets[0]):
                optimizer.step()
    assert fingerprint(optimizers[0]) == fingerprint(optimizers[1])


@pytest.mark.parametrize(("backend", "order"), list(itertools.product(BACKENDS, ORDERS)))
def test_bfloat16_parameters_overflow_without_a_trace(backend: str, order: str) -> None:
    params = parameters(torch.bfloat16)
    optimizer = class_of("mada", backend, order)(params)
    train(optimizer, range(3))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**4)
    before = everything(optimizer)
    optimizer.zero_grad()
    for parameter in params:
        parameter.grad = torch.full_like(parameter, torch.inf)
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    scaler.update()
    assert everything(optimizer) == before
    assert [bits(p) for p in params] == before[0]["parameters"]


def test_half_gradients_are_refused_as_with_torchs_optimizers() -> None:
    """float16 gradients cannot be unscaled: the scaler says so for every optimizer."""
    params = parameters(torch.float16)
    optimizer = learner("adam")(params)
    scaler = torch.amp.GradScaler("cpu")
    for parameter in params:
        parameter.grad = torch.ones_like(parameter)
    scaler.scale(torch.zeros(()))
    with pytest.raises(ValueError, match="FP16 gradients"):
        scaler.step(optimizer)
    assert not optimizer.state
