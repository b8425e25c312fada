"""Scaled losses: a step with infinite gradients does not happen."""

import pytest
import torch

from .helpers import ORDERS, SPECS, fingerprint, held, learner, loss, parameters, train

pytestmark = pytest.mark.broad(8)


def scaled_step(
    scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, step: int, spoil: bool = False
) -> None:
    optimizer.zero_grad()
    scaler.scale(loss(held(optimizer), step)).backward()
    if spoil:
        gradient = held(optimizer)[-1].grad
        assert gradient is not None
        gradient.fill_(torch.inf)
    scaler.step(optimizer)
    scaler.update()


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", SPECS)
def test_a_skipped_step_leaves_no_trace(spec: str, order: str) -> None:
    """Coefficients, counters and pending tangents included."""
    params = parameters(torch.float32)
    optimizer = learner(spec, order)(params)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    scaled_step(scaler, optimizer, 0, spoil=True)
    assert not optimizer.state
    for step in range(5):
        scaled_step(scaler, optimizer, step)
    before = fingerprint(optimizer)
    scale = scaler.get_scale()
    scaled_step(scaler, optimizer, 5, spoil=True)
    assert fingerprint(optimizer) == before
    assert scaler.get_scale() == scale / 2
    for step in range(5, 7):
        scaled_step(scaler, optimizer, step)
    # A scale that is a power of two changes no bit.
    reference = learner(spec, order)(parameters(torch.float32))
    train(reference, range(7))
    assert fingerprint(optimizer) == fingerprint(reference)


def test_gradients_may_be_unscaled_and_clipped_before() -> None:
    optimizer = learner("mada_legacy")(parameters(torch.float32))
    reference = learner("mada_legacy")(parameters(torch.float32))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    for step in range(4):
        for target in (optimizer, reference):
            target.zero_grad()
            value = loss(held(target), step)
            (scaler.scale(value) if target is optimizer else value).backward()
            if target is optimizer:
                scaler.unscale_(target)
            torch.nn.utils.clip_grad_norm_(held(target), 1.0)
        scaler.step(optimizer)
        scaler.update()
        reference.step()
    assert fingerprint(optimizer) == fingerprint(reference)


@pytest.mark.parametrize("spec", SPECS)
def test_a_step_under_autocast_is_the_same(spec: str) -> None:
    optimizer = learner(spec)(parameters(torch.float32))
    reference = learner(spec)(parameters(torch.float32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        train(optimizer, range(5))
    train(reference, range(5))
    assert fingerprint(optimizer) == fingerprint(reference)
