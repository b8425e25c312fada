"""Saving and loading: what goes on after is the same to the bit as not stopping."""

import math

import pytest
import torch
from torch import Tensor, nn

import optdsl
from optdsl import Learn

from .helpers import (
    BACKENDS,
    ORDERS,
    SPECS,
    bits,
    fingerprint,
    held,
    learner,
    parameters,
    plain,
    resumed,
    saved,
    train,
)

pytestmark = pytest.mark.broad(10)

STEPS = 8
# Before any step, right after the first, before the learning rate learns, and while it does.
CUTS = (0, 1, 3, 6)


# Each order, and each dtype, on both.
RUNS = [
    ("auto", "overlapped", torch.float64),
    ("auto", "exact", torch.float32),
    ("auto", "overlapped", torch.bfloat16),
    ("auto", "exact", torch.float16),
    ("eager", "exact", torch.float64),
    ("eager", "overlapped", torch.float32),
    ("eager", "exact", torch.bfloat16),
    ("eager", "overlapped", torch.float16),
]


@pytest.mark.parametrize(("backend", "order", "dtype"), RUNS, ids=str)
@pytest.mark.parametrize("spec", SPECS)
def test_a_resumed_run_is_the_same_to_the_bit(
    spec: str, backend: str, order: str, dtype: torch.dtype
) -> None:
    cls = learner(spec, order, backend)
    unbroken = cls(parameters(dtype), lr=0.01, weight_decay=0.01)
    halted = []
    for step in range(STEPS):
        if step in CUTS:
            new = resumed(cls, unbroken)
            assert fingerprint(new) == fingerprint(unbroken)
            halted.append((step, new))
        train(unbroken, [step])
    assert unbroken.metrics()["lr"] != 0.01
    for step, new in halted:
        train(new, range(step, STEPS))
        assert fingerprint(new) == fingerprint(unbroken), f"cut before step {step}"
        assert new.metrics() == unbroken.metrics()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_a_late_group_and_absent_gradients_survive(order: str, backend: str) -> None:
    """Tensors with counters of their own, and one that never had a gradient."""
    cls = learner("mada_legacy", order, backend)
    params = parameters(shapes=[(2,), (3,), (2,)])
    params[1].requires_grad_(False)
    unbroken = cls(params[:2])
    train(unbroken, range(3))
    unbroken.add_param_group({"params": params[2:], "eps": 1e-5})
    train(unbroken, [3])
    new = resumed(cls, unbroken)
    held(new)[1].requires_grad_(False)
    train(unbroken, range(4, 7))
    train(new, range(4, 7))
    assert fingerprint(new) == fingerprint(unbroken)


@pytest.mark.parametrize(
    ("backend", "dtype"), [("auto", torch.bfloat16), ("eager", torch.float16)], ids=str
)
@pytest.mark.parametrize("spec", SPECS)
def test_states_of_half_precision_parameters_are_float32(
    spec: str, backend: str, dtype: torch.dtype
) -> None:
    cls = learner(spec, backend=backend)
    optimizer = cls(parameters(dtype))
    train(optimizer, range(3))
    new = resumed(cls, optimizer)
    kept = []
    for mine, theirs in zip(held(new), held(optimizer), strict=True):
        assert mine.dtype is dtype
        for key, value in new.state[mine].items():
            # Numbers of the host are double, of which compiled code keeps those of a pending step.
            host = key in {"step", "pending/hypers"}
            assert value.dtype is (torch.float64 if host else torch.float32)
            assert bits(value) == bits(optimizer.state[theirs][key])
            kept += [] if host else [value.reshape(-1)]
    # Otherwise the test would not see a cast.
    assert not torch.equal(torch.cat(kept), torch.cat(kept).to(dtype).float())


@pytest.mark.parametrize(
    ("backend", "pending"), [("auto", "pending/hypers"), ("eager", "tangent/lr")]
)
def test_what_is_saved(backend: str, pending: str) -> None:
    learn = {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1))}
    optimizer = optdsl.load("adan", learn=learn, backend=backend)(parameters(shapes=[(2,)]))
    train(optimizer, range(2))
    content = optimizer.state_dict()
    assert set(content["state"][0]) == {"step", "m", "v", "n", "g_prev", pending}
    group = content["param_groups"][0]
    assert {"lr", "hypergradient/lr", "learn/lr/step", "learn/lr/buf"} <= set(group)
    assert group["betas"] == (group["beta1"], group["beta2"], group["beta3"])
    plain_keys = set(group) - {"params", "betas"}
    assert {type(group[key]) for key in plain_keys} <= {float, int, bool}
    assert set(plain("adan", backend)(parameters()).state_dict()["param_groups"][0]) == {
        *("params", "lr", "beta1", "beta2", "beta3", "eps", "weight_decay", "betas", "maximize")
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_loaded_state_is_a_copy(backend: str) -> None:
    cls = learner("adamw", backend=backend)
    source = cls(parameters())
    train(source, range(3))
    content = source.state_dict()
    new = cls([nn.Parameter(p.detach().clone()) for p in held(source)])
    new.load_state_dict(content)
    before = fingerprint(new)
    train(source, range(3, 5))
    assert fingerprint(new) == before
    assert fingerprint(source) != before


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_are_not_finite_are_saved_too(value: float, backend: str) -> None:
    cls = learner("adam", backend=backend)
    optimizer = cls(parameters(shapes=[(3,)]))
    train(optimizer, range(2))
    held(optimizer)[0].grad = torch.tensor([1.0, value, 1.0], dtype=torch.float64)
    optimizer.step()
    new = resumed(cls, optimizer)
    assert fingerprint(new) == fingerprint(optimizer)


def test_an_optimizer_without_steps_has_nothing_but_groups() -> None:
    content = learner("adam")(parameters()).state_dict()
    assert content["state"] == {}
    assert not any(isinstance(v, Tensor) for v in content["param_groups"][0].values())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("flatten", [False, True])
def test_distributed_checkpoints_without_a_process_group(flatten: bool, backend: str) -> None:
    """The state dict by parameter names that torch.distributed.checkpoint saves."""
    from torch.distributed.checkpoint.state_dict import (
        StateDictOptions,
        get_optimizer_state_dict,
        set_optimizer_state_dict,
    )

    options = StateDictOptions(flatten_optimizer_state_dict=flatten)
    cls = learner("mada_legacy", backend=backend)
    models = [nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1)) for _ in range(2)]
    first, second = (cls(m.parameters()) for m in models)
    train(first, range(5))
    models[1].load_state_dict(models[0].state_dict())
    content = get_optimizer_state_dict(models[0], first, options=options)
    set_optimizer_state_dict(models[1], second, saved(content), options=options)
    assert fingerprint(second) == fingerprint(first)
    train(first, range(5, 8))
    train(second, range(5, 8))
    assert fingerprint(second) == fingerprint(first)
