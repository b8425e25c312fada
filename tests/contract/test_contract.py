"""The contract of torch optimizers, for every specification on every backend.

Where each point of the contract is tested; a star marks what is asked there of compiled code only,
and in this package of eager code as well:

- groups with values of their own: here; tests/runtime/test_groups.py*
- `add_param_group` in mid-training: here; tests/runtime/test_groups.py*
- tensors as learning rates, schedulers: test_schedules.py; torch's own list: test_torch_inputs.py;
  as torch's Adam is driven: tests/runtime/test_use.py*
- step hooks: here; hooks that change gradients: tests/runtime/test_use.py*; hooks of loading and
  saving: tests/runtime/test_loading.py*
- closures: here; tests/runtime/test_use.py*
- `maximize`: test_maximize.py
- named parameters: here; tests/runtime/test_groups.py*
- `set_to_none`: here; tests/runtime/test_use.py*
- unused and frozen parameters, absent gradients: here; tests/runtime/test_groups.py*,
  tests/runtime/test_hypergradients.py*, tests/c/test_battery.py
- empty groups: here; tests/runtime/test_groups.py*
- unknown keywords, values out of bounds: tests/runtime/test_hyperparameters.py (no kernel runs)
- sparse and complex: here; tests/runtime/test_bad_gradients.py*
- deepcopy, pickle, spawn: tests/runtime/test_copying.py, tests/c/test_checkpoints.py
- `state_dict`, `load_state_dict`, safe loading, dtypes: tests/runtime/test_checkpoint.py,
  tests/runtime/test_loading.py*, tests/c/test_checkpoints.py
- what a checkpoint says about its rule, migration by name: test_checkpoint_meaning.py
- AMP, accumulation, clipping: test_amp.py, test_loops.py; tests/runtime/test_amp.py*
- the scope and the signal of learning: the tests of `Learn`
- betas, signature, help, repr, imports: test_face.py
- what torch gives its own optimizers, valid and erroneous: test_torch_inputs.py
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import optdsl
from optdsl import Learn
from tests.contract.common import (
    BACKENDS,
    ORDERS,
    every,
    learner,
    other_value,
    others,
    plain,
)
from tests.runtime.helpers import bits, fingerprint, held, loss, parameters, train

pytestmark = pytest.mark.broad(8)

# --- groups -------------------------------------------------------------------------------------


@every
def test_groups_have_a_value_of_their_own_for_every_hyperparameter(spec: str, backend: str) -> None:
    """Coefficients too: two groups of one optimizer do what two optimizers do."""
    cls = plain(spec, backend)
    own = others(cls)
    together, apart = parameters(), parameters()
    train(cls([{"params": together[:1], **own}, {"params": together[1:]}]), range(4))
    one, two = cls(apart[:1], **own), cls(apart[1:])
    for step in range(4):
        one.zero_grad()
        two.zero_grad()
        loss(apart, step).backward()
        one.step()
        two.step()
    assert [bits(p) for p in together] == [bits(p) for p in apart]


@pytest.mark.parametrize("order", ORDERS)
@every
def test_a_group_that_is_added_in_mid_training(spec: str, backend: str, order: str) -> None:
    """Its parameters are as those that were there all the time and had no gradients."""
    cls = learner(spec, backend, order)
    params, waiting = parameters(), parameters()
    late, early = cls(params[:2]), cls([{"params": waiting[:2]}, {"params": waiting[2:]}])
    train(late, range(4))
    for step in range(4):
        early.zero_grad()
        loss(waiting[:2], step).backward()
        early.step()
    late.add_param_group({"params": params[2:]})
    for optimizer in (late, early):
        train(optimizer, range(4, 8))
    assert late.metrics()
    assert fingerprint(late) == fingerprint(early)


@every
def test_empty_groups_change_nothing(spec: str, backend: str) -> None:
    cls = learner(spec, backend)
    optimizer = cls([{"params": []}, {"params": parameters()}, {"params": []}])
    alone = cls(parameters())
    train(optimizer, range(4))
    train(alone, range(4))
    assert fingerprint(optimizer)["parameters"] == fingerprint(alone)["parameters"]
    assert optimizer.metrics() == alone.metrics()


@every
def test_named_parameters(spec: str, backend: str) -> None:
    cls = learner(spec, backend)
    first, second, third = parameters()
    optimizer = cls([("first", first), ("second", second)])
    optimizer.add_param_group({"params": [("third", third)]})
    unnamed = cls(parameters()[:2])
    unnamed.add_param_group({"params": parameters()[2:]})
    for each in (optimizer, unnamed):
        train(each, range(3))
    groups = optimizer.state_dict()["param_groups"]
    assert [g["param_names"] for g in groups] == [["first", "second"], ["third"]]
    assert fingerprint(optimizer)["parameters"] == fingerprint(unnamed)["parameters"]


# --- steps --------------------------------------------------------------------------------------


@every
def test_hooks_fire_once_a_step(spec: str, backend: str) -> None:
    optimizer = learner(spec, backend)(parameters())
    seen: list[str] = []
    note = lambda text: lambda *_: seen.append(text)  # noqa: E731
    optimizer.register_step_pre_hook(note("own pre"))
    optimizer.register_step_post_hook(note("own post"))
    handles = [
        register_optimizer_step_pre_hook(note("pre")),
        register_optimizer_step_post_hook(note("post")),
    ]
    # A scheduler wraps the step, which must not make it two.
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)
    try:
        for step in range(3):
            train(optimizer, [step])
            scheduler.step()
    finally:
        for handle in handles:
            handle.remove()
    assert sorted(seen) == sorted(["own pre", "own post", "pre", "post"] * 3)
    assert {s.split()[-1] for s in seen[:2]} == {"pre"}
    assert [int(s["step"]) for s in optimizer.state.values()] == [3, 3, 3]


@every
def test_gradients_are_those_that_the_closure_leaves(spec: str, backend: str) -> None:
    closed, stepped = learner(spec, backend)(parameters()), learner(spec, backend)(parameters())
    params = held(closed)

    def closure_of(step: int) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            assert torch.is_grad_enabled()
            closed.zero_grad()
            value = loss(params, step)
            value.backward()
            return value

        return closure

    for step in range(4):
        for parameter in params:
            parameter.grad = torch.full_like(parameter, math.nan)  # which the closure replaces
        expected = loss(params, step).item()
        returned = closed.step(closure_of(step))
        assert isinstance(returned, Tensor)
        assert returned.item() == expected
    train(stepped, range(4))
    assert fingerprint(closed) == fingerprint(stepped)
    assert closed.step(lambda: 0.5) == 0.5
    assert closed.step() is None


@pytest.mark.parametrize("backend", BACKENDS)
def test_hooks_may_replace_arguments_and_see_the_step(backend: str) -> None:
    """A pre-hook may give a closure; a post-hook finds parameters and coefficients moved."""
    hooked, stepped = (learner("mada", backend)(parameters()) for _ in range(2))
    params = held(hooked)
    seen: list[list[Any]] = []

    def closure() -> float:
        hooked.zero_grad()
        loss(params, len(seen)).backward()
        return 0.25

    hooked.register_step_pre_hook(lambda optimizer, args, kwargs: ((optimizer, closure), {}))
    hooked.register_step_post_hook(lambda *_: seen.append([bits(p) for p in params]))
    expected = []
    for step in range(3):
        assert hooked.step() == 0.25
        train(stepped, [step])
        expected.append([bits(p) for p in held(stepped)])
    assert seen == expected
    assert hooked.metrics() == stepped.metrics()


@every
def test_zeroed_gradients_do_as_well_as_none(spec: str, backend: str) -> None:
    cls = learner(spec, backend)
    fresh, reused = cls(parameters()), cls(parameters())
    train(fresh, range(4))
    for step in range(4):
        reused.zero_grad(set_to_none=False)
        loss(held(reused), step).backward()
        reused.step()
    assert fingerprint(fresh) == fingerprint(reused)


@every
def test_parameters_without_gradients_get_no_state_and_stay(spec: str, backend: str) -> None:
    cls = learner(spec, backend)
    unused, frozen, used = parameters()
    frozen.requires_grad_(False)
    optimizer = cls([unused, frozen, used])
    before = fingerprint(optimizer)
    optimizer.step()
    assert fingerprint(optimizer) == before
    for step in range(4):
        optimizer.zero_grad()
        loss([used], step).backward()
        optimizer.step()
    assert [bits(p) for p in (unused, frozen)] == before["parameters"][:2]
    assert list(optimizer.state_dict()["state"]) == [2]
    alone = cls(parameters()[2:])
    for step in range(4):
        alone.zero_grad()
        loss(held(alone), step).backward()
        alone.step()
    assert bits(used) == bits(held(alone)[0])
    assert optimizer.metrics() == alone.metrics()


@pytest.mark.parametrize("order", ORDERS)
@every
def test_a_pending_hypergradient_belongs_to_the_scalars_of_its_step(
    spec: str, backend: str, order: str
) -> None:
    """What happens between a step of a parameter and its next gradient does not change it."""
    cls = learner(spec, backend, order)
    learned = {c.name for c in cls.compiled.coefficients}
    changed = {
        h.name: other_value(h)
        for h in cls.compiled.program.hypers
        if h.name not in learned and cls.compiled.program.simplex_of(h.name) is None
    }
    quiet, noisy = cls(parameters()), cls(parameters())
    for optimizer in (quiet, noisy):
        train(optimizer, range(3))
    for _ in range(2):
        # Steps in which no parameter has a gradient, with other scalars.
        noisy.zero_grad()
        noisy.param_groups[0].update(changed)
        noisy.step()
    for optimizer in (quiet, noisy):
        train(optimizer, [3])
    measured = [
        {k: v for k, v in o.metrics().items() if k.startswith("hypergradient/")}
        for o in (quiet, noisy)
    ]
    assert measured[0] == measured[1]
    assert any(measured[0].values())


def test_a_pending_hypergradient_by_hand() -> None:
    """theta' = theta - lr * (g + decay * theta), with another decay and rate in between."""
    text = (
        "optimizer R\nhyper lr = 0.1 in [0, 1]\nhyper decay = 0.5 in [0, 1]\n"
        "theta' = theta - lr * (g + decay * theta)\n"
    )
    learn = {"lr": Learn("sgd", lr=1e-3, bounds=(0, 1))}
    for backend in BACKENDS:
        for order in ORDERS:
            parameter = nn.Parameter(torch.tensor([2.0, -1.0], dtype=torch.float64))
            cls = optdsl.compile(text, backend=backend, order=order, learn=learn)
            optimizer = cls([parameter])
            start = parameter.detach().clone()
            first, second = (torch.tensor(x, dtype=torch.float64) for x in ([1, 3.0], [2, 0.5]))
            parameter.grad = first
            optimizer.step()
            optimizer.zero_grad()
            optimizer.param_groups[0].update(decay=0.25, lr=0.75)
            optimizer.step()
            parameter.grad = second
            optimizer.step()
            expected = -(second @ (first + 0.5 * start)).item()
            assert optimizer.metrics()["hypergradient/lr"] == pytest.approx(expected, rel=1e-14)


@every
def test_sparse_gradients_and_complex_parameters_are_refused(spec: str, backend: str) -> None:
    cls = learner(spec, backend)
    complex_parameter = nn.Parameter(torch.ones(2, dtype=torch.complex64))
    complex_parameter.grad = torch.ones_like(complex_parameter)
    with pytest.raises(ValueError, match=r"cannot step complex parameters; .*view_as_real"):
        cls([complex_parameter]).step()
    for maximize in (False, True):
        params = parameters(shapes=[(3, 2), (2,)])
        optimizer = cls(params, maximize=maximize)
        train(optimizer, range(2))
        before = fingerprint(optimizer)
        params[0].grad = torch.ones(3, 2, dtype=torch.float64).to_sparse()
        with pytest.raises(RuntimeError, match="does not take sparse gradients; "):
            optimizer.step()
        assert fingerprint(optimizer) == before
