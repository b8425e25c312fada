"""The contract of torch optimizers, for every specification on every backend.

Where each point of the contract is tested; a star marks what only the eager backend is asked there,
and this file asks of "c" as well:

- groups with values of their own: here; tests/runtime/test_groups.py*; learned for each group:
  tests/contract, the files about scope
- `add_param_group` in mid-training: here; tests/runtime/test_groups.py*
- tensors as learning rates, schedulers: here; torch's own list: test_torch_inputs.py; as torch's
  Adam is driven: tests/runtime/test_use.py*
- step hooks: here; hooks that change gradients: tests/runtime/test_use.py*; hooks of loading and
  saving: tests/runtime/test_loading.py*
- closures: here; tests/runtime/test_use.py*
- `maximize`: here
- named parameters: here; tests/runtime/test_groups.py*
- `set_to_none`: here; tests/runtime/test_use.py*
- unused and frozen parameters, absent gradients: here; tests/runtime/test_groups.py*,
  tests/runtime/test_hypergradients.py*, tests/c/test_battery.py
- empty groups: here; tests/runtime/test_groups.py*
- unknown keywords, values out of bounds: tests/runtime/test_hyperparameters.py (no kernel runs)
- sparse and complex: here; tests/runtime/test_bad_gradients.py*
- deepcopy, pickle, spawn: tests/runtime/test_copying.py*, tests/c/test_checkpoints.py
- `state_dict`, `load_state_dict`, safe loading, dtypes: tests/runtime/test_checkpoint.py*,
  tests/runtime/test_loading.py*, tests/c/test_checkpoints.py
- AMP, clipping: tests/runtime/test_amp.py*
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
from optdsl.ir.domain import Interval
from optdsl.ir.program import Hyper
from optdsl.runtime.optimizer import CompiledOptimizer
from tests.runtime.helpers import bits, fingerprint, held, loss, parameters, train

SPECS = optdsl.list_specs()
BACKENDS = ("eager", "c")
ORDERS = ("overlapped", "exact")
EVERY = [pytest.param(s, b, id=f"{s}-{b}") for s in SPECS for b in BACKENDS]

every = pytest.mark.parametrize(("spec", "backend"), EVERY)


def plain(spec: str, backend: str) -> type[CompiledOptimizer]:
    return optdsl.load(spec, backend=backend, learn=False)


def learner(spec: str, backend: str, order: str = "overlapped") -> type[CompiledOptimizer]:
    """A class that learns what the specification says, or else its learning rate, at once."""
    program = optdsl.load(spec).compiled.program
    learn: dict[str, Learn] = {}
    for learned in program.learned:
        vector = program.simplex_of(learned.hyper)
        if vector is not None:
            learn[vector.name] = Learn("sgd", lr=1e-3)
        else:
            bounds = (learned.bounds.lower, learned.bounds.upper)
            learn[learned.hyper] = Learn("sgd", lr=1e-3, bounds=bounds)
    learn = learn or {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))}
    return optdsl.load(spec, backend=backend, order=order, learn=learn)


def other_value(hyper: Hyper) -> float:
    """A value that is not the default, and that the hyperparameter may have."""
    domain, default = hyper.domain, hyper.default
    if not isinstance(domain, Interval):
        return next(v for v in domain.values if v != default)
    candidates = (0.75 * default, 0.25, 0.5)
    return next(v for v in candidates if v in domain and v != default)


def others(cls: type[CompiledOptimizer]) -> dict[str, float]:
    """Another value for every hyperparameter, weight vectors turned round."""
    program = cls.compiled.program
    values = {h.name: other_value(h) for h in program.hypers}
    for vector in program.simplexes:
        weights = [0.5, *[0.5 / (len(vector.hypers) - 1)] * (len(vector.hypers) - 1)]
        values |= dict(zip(vector.hypers, weights, strict=True))
    if program.name == "SGD":
        values |= {"momentum": 0.9, "dampening": 0.0}  # without which there is no nesterov
    return values


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


# --- learning rates -----------------------------------------------------------------------------


@every
def test_a_tensor_stays_the_learning_rate_and_is_read_at_every_step(
    spec: str, backend: str
) -> None:
    cls = plain(spec, backend)
    rates = [0.05, 0.025, 0.1, 0.0]
    expected = cls(parameters(), lr=1.0)
    first, second = tensor(9.0), tensor(9.0)
    given, in_group = cls(parameters(), lr=first), cls([{"params": parameters(), "lr": second}])
    assert given.param_groups[0]["lr"] is first
    assert in_group.param_groups[0]["lr"] is second
    for step, rate in enumerate(rates):
        expected.param_groups[0]["lr"] = rate
        first.fill_(rate)
        second.fill_(rate)
        for optimizer in (expected, given, in_group):
            train(optimizer, [step])
    assert [bits(p) for p in held(given)] == [bits(p) for p in held(expected)]
    assert [bits(p) for p in held(in_group)] == [bits(p) for p in held(expected)]


def test_a_tensor_survives_checkpoints_and_is_checked() -> None:
    cls = optdsl.load("adam")
    rate = tensor(0.5)
    optimizer, loaded = cls(parameters(), lr=rate), cls(parameters())
    loaded.load_state_dict(optimizer.state_dict())
    assert float(loaded.param_groups[0]["lr"]) == 0.5
    rate.fill_(-1.0)
    before = fingerprint(optimizer)["parameters"]
    with pytest.raises(ValueError, match="lr = -1 is out of bounds"):
        train(optimizer, [0])
    assert fingerprint(optimizer)["parameters"] == before
    learned = optdsl.load("adam", learn={"lr": Learn("sgd", lr=1e-3, bounds=(0, 1))})
    group = learned(parameters(), lr=torch.tensor(0.5)).param_groups[0]
    assert type(group["lr"]) is float  # it is learned: nobody else writes it


def one_cycle(epoch: int, start: float, top: float, end: float, warm: int, last: int) -> float:
    low, high, part = (
        (start, top, epoch / warm) if epoch <= warm else (top, end, (epoch - warm) / (last - warm))
    )
    return high + (low - high) * (1 + math.cos(math.pi * part)) / 2


STEPS = 8
SCHEDULER = torch.optim.lr_scheduler
Maker = Callable[[torch.optim.Optimizer], Any]
# Schedulers over a first rate of 0.04, and by hand the rate of each step.
SCHEDULES: dict[str, tuple[Maker, Callable[[int], float]]] = {
    "LambdaLR": (
        lambda o: SCHEDULER.LambdaLR(o, lambda epoch: 1 / (1 + epoch)),
        lambda n: 0.04 / (1 + n),
    ),
    "MultiplicativeLR": (
        lambda o: SCHEDULER.MultiplicativeLR(o, lambda epoch: 0.5),
        lambda n: 0.04 * 0.5**n,
    ),
    "StepLR": (lambda o: SCHEDULER.StepLR(o, 3, 0.1), lambda n: 0.04 * 0.1 ** (n // 3)),
    "MultiStepLR": (
        lambda o: SCHEDULER.MultiStepLR(o, [2, 5], 0.5),
        lambda n: 0.04 * 0.5 ** ((n >= 2) + (n >= 5)),
    ),
    "LinearLR": (
        lambda o: SCHEDULER.LinearLR(o, 0.25, 1.0, 4),
        lambda n: 0.04 * (0.25 + 0.75 * min(n, 4) / 4),
    ),
    "CosineAnnealingLR": (
        lambda o: SCHEDULER.CosineAnnealingLR(o, STEPS),
        lambda n: 0.04 * (1 + math.cos(math.pi * n / STEPS)) / 2,
    ),
    "OneCycleLR": (
        lambda o: SCHEDULER.OneCycleLR(
            o, 0.1, STEPS, pct_start=0.5, div_factor=4, final_div_factor=5, cycle_momentum=False
        ),
        lambda n: one_cycle(n, 0.025, 0.1, 0.005, STEPS // 2 - 1, STEPS - 1),
    ),
    "ReduceLROnPlateau": (
        lambda o: SCHEDULER.ReduceLROnPlateau(o, factor=0.5, patience=1),
        # The first value is the best one, and every second one after that is one too many.
        lambda n: 0.04 * 0.5 ** max(0, (n - 1) // 2),
    ),
}


def tensor(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("spec", "backend", "kind"),
    [
        *(pytest.param(s, b, tensor, id=f"{s}-{b}-tensor") for s in SPECS for b in BACKENDS),
        *(pytest.param("mada", b, float, id=f"mada-{b}-float") for b in BACKENDS),
    ],
)
def test_schedulers_set_the_rate_of_every_step(
    spec: str, backend: str, name: str, kind: Callable[[float], Any]
) -> None:
    """Against a loop with the rates written by hand; a second group has half of the rate.

    Rates are tensors, which schedulers write into; as numbers tests/runtime/test_use.py drives all.
    """
    cls, (make, by_hand) = plain(spec, backend), SCHEDULES[name]
    params, expected = parameters(), parameters()
    half = 1.0 if name == "OneCycleLR" else 0.5  # which sets the rates itself
    groups = [{"params": params[:1]}, {"params": params[1:], "lr": kind(half * 0.04)}]
    driven = cls(groups, lr=kind(0.04))
    loop = cls([{"params": expected[:1]}, {"params": expected[1:]}])
    scheduler = make(driven)
    for step in range(STEPS):
        groups = list(zip(driven.param_groups, loop.param_groups, (1, half), strict=True))
        for group, own, part in groups:
            rate = float(group["lr"])
            assert rate == pytest.approx(part * by_hand(step), rel=1e-12)
            own["lr"] = rate
        train(driven, [step])
        train(loop, [step])
        scheduler.step(*([1.0] if name == "ReduceLROnPlateau" else []))
    assert [bits(p) for p in params] == [bits(p) for p in expected]
    assert type(driven.param_groups[0]["lr"]) is type(kind(0.04))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("spec", ["adam", "adamw"])
@pytest.mark.parametrize("name", ["OneCycleLR", "CyclicLR"])
def test_schedulers_that_cycle_the_momentum_drive_beta1(spec: str, backend: str, name: str) -> None:
    """With their defaults, as they drive torch's optimizer of the same rule."""
    makers: dict[str, Maker] = {
        "OneCycleLR": lambda o: SCHEDULER.OneCycleLR(o, 0.1, total_steps=STEPS),
        "CyclicLR": lambda o: SCHEDULER.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    }
    theirs = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[spec]
    mine, expected = parameters(), parameters()
    optimizers = [optdsl.load(spec, backend=backend)(mine), theirs(expected)]
    schedulers = [makers[name](o) for o in optimizers]
    seen = set()
    for step in range(STEPS):
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            train(optimizer, [step])
            scheduler.step()
        groups = [o.param_groups[0] for o in optimizers]
        assert groups[0]["betas"] == groups[1]["betas"]
        seen.add(groups[0]["betas"][0])
    assert len(seen) > 3
    torch.testing.assert_close(mine, expected, rtol=1e-11, atol=1e-11)


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
    with pytest.raises(ValueError, match=r"does not take complex parameters; .*view_as_real"):
        cls([nn.Parameter(torch.ones(2, dtype=torch.complex64))])
    for maximize in (False, True):
        params = parameters(shapes=[(3, 2), (2,)])
        optimizer = cls(params, maximize=maximize)
        train(optimizer, range(2))
        before = fingerprint(optimizer)
        params[0].grad = torch.ones(3, 2, dtype=torch.float64).to_sparse()
        with pytest.raises(RuntimeError, match="does not take sparse gradients; "):
            optimizer.step()
        assert fingerprint(optimizer) == before


# --- maximize -----------------------------------------------------------------------------------


def ascend(
    optimizer: torch.optim.Optimizer, steps: range, signs: Callable[[nn.Parameter], float]
) -> None:
    """Train on gradients with signs."""
    for step in steps:
        optimizer.zero_grad()
        loss(held(optimizer), step).backward()
        for parameter in held(optimizer):
            assert parameter.grad is not None
            parameter.grad *= signs(parameter)  # type: ignore[arg-type]
        optimizer.step()


@pytest.mark.parametrize("order", ORDERS)
@every
def test_maximize_does_what_the_negative_gradient_does(spec: str, backend: str, order: str) -> None:
    """To the bit, coefficients and hyper-gradients included; the gradients stay as they are."""
    cls = learner(spec, backend, order)
    up, down = cls(parameters(), maximize=True), cls(parameters())
    ascend(up, range(4), lambda p: 1.0)
    gradients = [bits(p.grad) for p in held(up) if p.grad is not None]
    up.step()
    assert [bits(p.grad) for p in held(up) if p.grad is not None] == gradients
    ascend(down, range(4), lambda p: -1.0)
    down.step()
    assert any(up.metrics().values())
    for part in ("parameters", "state"):
        assert fingerprint(up)[part] == fingerprint(down)[part]
    assert up.metrics() == down.metrics()


@every
def test_groups_may_go_up_and_down(spec: str, backend: str) -> None:
    """As those of an adversary do; and the direction may be turned in mid-training."""
    cls = learner(spec, backend)
    mine, expected = parameters(), parameters()
    mixed = cls([{"params": mine[:1], "maximize": True}, {"params": mine[1:]}])
    signed = cls([{"params": expected[:1]}, {"params": expected[1:]}])
    assert [g["maximize"] for g in mixed.param_groups] == [True, False]
    ascend(mixed, range(3), lambda p: 1.0)
    ascend(signed, range(3), lambda p: -1.0 if p is expected[0] else 1.0)
    for group in mixed.param_groups:
        group["maximize"] = not group["maximize"]
    ascend(mixed, range(3, 6), lambda p: 1.0)
    ascend(signed, range(3, 6), lambda p: 1.0 if p is expected[0] else -1.0)
    assert fingerprint(mixed)["parameters"] == fingerprint(signed)["parameters"]
    assert mixed.metrics() == signed.metrics()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("order", ORDERS)
def test_with_maximize_coefficients_learn_what_raises_the_loss(backend: str, order: str) -> None:
    """On a hill of height -(theta - 3)^2 a rate that is too small grows, and as it would down."""
    learn = {"lr": Learn("sgd", lr=1e-4, bounds=(0, 1))}
    cls = optdsl.load("sgd", backend=backend, order=order, learn=learn)
    rates = []
    for maximize in (False, True):
        parameter = nn.Parameter(torch.zeros(1, dtype=torch.float64))
        optimizer = cls([parameter], lr=0.01, maximize=maximize)
        for _ in range(20):
            optimizer.zero_grad()
            valley = (parameter - 3).square().sum()
            (-valley if maximize else valley).backward()
            before = None if parameter.grad is None else parameter.grad.clone()
            optimizer.step()
            assert before is not None
        rates.append(optimizer.param_groups[0]["lr"])
        # The derivative of what is minimized: it falls where the rate grows.
        assert optimizer.metrics()["hypergradient/lr"] < 0
        assert parameter.item() > 0.5
    assert rates[0] == rates[1] > 0.011


@pytest.mark.parametrize("value", [1, 0.5, "yes", None])
def test_maximize_is_true_or_false(value: Any) -> None:
    cls = optdsl.load("adam")
    with pytest.raises(TypeError, match="Adam: maximize must be True or False, not "):
        cls(parameters(), maximize=value)
    with pytest.raises(TypeError, match="Adam: maximize must be True or False, not "):
        cls([{"params": parameters(), "maximize": value}])


def test_maximize_is_saved_and_a_misspelt_one_is_refused() -> None:
    cls = optdsl.load("adam")
    loaded = cls(parameters())
    loaded.load_state_dict(cls(parameters(), maximize=True).state_dict())
    assert loaded.param_groups[0]["maximize"] is True
    with pytest.raises(TypeError, match="did you mean `maximize`"):
        cls([{"params": parameters(), "maximise": True}])
