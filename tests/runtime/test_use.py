"""In a training loop a compiled optimizer behaves as torch.optim.Adam does."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

import optdsl

from .helpers import (
    ORDERS,
    PROBE,
    SPECS,
    bits,
    fingerprint,
    held,
    learner,
    learning,
    loss,
    parameters,
    plain,
    train,
)

pytestmark = pytest.mark.broad(8)


@pytest.mark.parametrize("spec", SPECS)
def test_the_signature_shows_the_hyperparameters(spec: str) -> None:
    cls = optdsl.load(spec)
    first, *hypers = inspect.signature(cls).parameters.values()
    assert first.name == "params"
    assert first.default is inspect.Parameter.empty
    group = cls(parameters()).param_groups[0]
    # Another way to give some of them, what is the whole optimizer's, and hints about computing.
    others = {"betas", "process_group", "foreach", "fused", "capturable", "differentiable"}
    own = [h for h in hypers if h.name not in others]
    assert {h.name: h.default for h in own} == {h.name: group[h.name] for h in own}
    assert {"lr", "weight_decay"} <= {h.name for h in hypers}
    assert all(h.name in str(cls.__doc__) for h in hypers)


@pytest.mark.parametrize("spec", SPECS)
def test_the_same_arguments_give_the_same_class(spec: str) -> None:
    assert optdsl.load(spec) is optdsl.load(spec)
    assert learner(spec) is learner(spec)
    assert len({plain(spec), learner(spec), learner(spec, "overlapped")}) == 3
    assert optdsl.load(spec) is optdsl.load(spec.upper())
    assert optdsl.compile(PROBE) is optdsl.compile(PROBE)


def test_a_file_is_loaded_by_a_string_or_a_path(tmp_path: Path) -> None:
    file = tmp_path / "half.opt"
    file.write_text("optimizer Half\nhyper lr = 0.5\ntheta' = theta - lr * g\n")
    cls = optdsl.load(file)
    assert cls.__name__ == "Half"
    assert optdsl.load(str(file)) is cls
    parameter = nn.Parameter(torch.ones(1))
    parameter.grad = torch.ones(1)
    cls([parameter]).step()
    assert parameter.item() == 0.5


@pytest.mark.parametrize("spec", SPECS)
def test_metrics_are_a_flat_dict_of_floats(spec: str) -> None:
    learned = learning(spec)
    optimizer = learner(spec)(parameters())
    names = {*learned, *(f"hypergradient/{name}" for name in learned)}
    for step in range(3):
        metrics = optimizer.metrics()
        assert set(metrics) == names
        assert {type(v) for v in metrics.values()} == {float}
        train(optimizer, [step])
    assert plain(spec)(parameters()).metrics() == {}


@pytest.mark.filterwarnings("ignore:Using backward\\(\\) with create_graph=True")
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("order", ORDERS)
def test_it_leaves_no_graph(spec: str, order: str) -> None:
    """Neither states nor groups hold on to autograd, even if the gradients carry a graph."""
    params = parameters()
    optimizer = learner(spec, order)(params)
    for step in range(3):
        optimizer.zero_grad()
        loss(params, step).pow(2).backward(create_graph=True)
        assert all(p.grad is not None and p.grad.requires_grad for p in params)
        optimizer.step()
    optimizer.zero_grad()  # a gradient with a graph keeps its parameter alive
    assert all(p.is_leaf and p.grad_fn is None and p.requires_grad for p in params)
    kept = [v for state in optimizer.state.values() for v in state.values()]
    kept += [v for group in optimizer.param_groups for k, v in group.items() if k != "params"]
    tensors = [v for v in kept if isinstance(v, Tensor)]
    assert tensors
    assert all(t.grad_fn is None and not t.requires_grad for t in tensors)


def nodes(root: Tensor) -> int:
    """How many functions the graph of a tensor has."""
    seen: set[Any] = set()
    stack: list[Any] = [root.grad_fn]
    while stack:
        node = stack.pop()
        if node is not None and node not in seen:
            seen.add(node)
            stack += [following for following, _ in node.next_functions]
    return len(seen)


@pytest.mark.parametrize("order", ORDERS)
def test_the_graph_of_the_loss_does_not_grow(order: str) -> None:
    counts = []
    for make in (learner("mada_legacy", order), torch.optim.Adam):
        params = parameters()
        optimizer = make(params)
        train(optimizer, range(4))
        counts.append(nodes(loss(params, 4)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("order", ORDERS)
def test_zeroed_gradients_do_as_well_as_none(spec: str, order: str) -> None:
    """A rule that remembers the gradient must not remember the buffer that is zeroed."""
    fresh, reused = learner(spec, order)(parameters()), learner(spec, order)(parameters())
    train(fresh, range(5))
    buffers: list[Tensor] = []
    for step in range(5):
        reused.zero_grad(set_to_none=False)
        loss(held(reused), step).backward()
        reused.step()
        buffers = buffers or [p.grad for p in held(reused) if p.grad is not None]
    for p, buffer in zip(held(reused), buffers, strict=True):
        assert p.grad is buffer
    assert fingerprint(fresh) == fingerprint(reused)


@pytest.mark.parametrize("spec", SPECS)
def test_a_step_leaves_the_gradients(spec: str) -> None:
    params = parameters()
    optimizer = learner(spec)(params)
    for step in range(3):
        optimizer.zero_grad()
        loss(params, step).backward()
        before = [bits(p.grad) for p in params if p.grad is not None]
        optimizer.step()
        assert [bits(p.grad) for p in params if p.grad is not None] == before


@pytest.mark.parametrize("spec", SPECS)
def test_a_closure_is_evaluated_before_the_gradients_are_read(spec: str) -> None:
    stepped, closed = learner(spec)(parameters()), learner(spec)(parameters())
    params = held(closed)

    def closure_of(step: int) -> Callable[[], Tensor]:
        def closure() -> Tensor:
            closed.zero_grad()
            value = loss(params, step)
            assert value.requires_grad
            value.backward()
            return value

        return closure

    for step in range(4):
        expected = loss(params, step).item()
        returned = closed.step(closure_of(step))
        assert isinstance(returned, Tensor)
        assert returned.item() == expected
    train(stepped, range(4))
    assert fingerprint(closed) == fingerprint(stepped)
    assert closed.step() is None


def test_hooks_fire_once_a_step() -> None:
    cls = learner("adam")
    heirs = [type("Heir", (cls,), {})(parameters()), cls(parameters())]
    for optimizer in [*heirs, type("Younger", (cls,), {})(parameters())]:
        seen: list[str] = []
        optimizer.register_step_pre_hook(lambda *_, seen=seen: seen.append("pre"))
        optimizer.register_step_post_hook(lambda *_, seen=seen: seen.append("post"))
        handles = [
            register_optimizer_step_pre_hook(lambda *_, seen=seen: seen.append("every pre")),
            register_optimizer_step_post_hook(lambda *_, seen=seen: seen.append("every post")),
        ]
        train(optimizer, range(2))
        for handle in handles:
            handle.remove()
        assert sorted(seen[:2]) == ["every pre", "pre"]
        assert sorted(seen[2:4]) == ["every post", "post"]
        assert len(seen) == 8


def test_a_pre_hook_may_change_gradients() -> None:
    hooked, plainly = learner("adan")(parameters()), learner("adan")(parameters())

    def halve(optimizer: torch.optim.Optimizer, *_: object) -> None:
        for p in held(optimizer):
            assert p.grad is not None
            p.grad *= 0.5

    hooked.register_step_pre_hook(halve)
    train(hooked, range(3))
    for step in range(3):
        plainly.zero_grad()
        (loss(held(plainly), step) / 2).backward()
        plainly.step()
    assert fingerprint(hooked) == fingerprint(plainly)


Schedule = Callable[[torch.optim.Optimizer], lr_scheduler.LRScheduler]
SCHEDULES: dict[str, Schedule] = {
    "warm-up": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: min(1.0, epoch / 4)),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=6),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=8, cycle_momentum=False),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.001, 0.1, 3, cycle_momentum=False),
    "sequence": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1), lr_scheduler.ExponentialLR(o, 0.5)], [3]
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("spec", SPECS)
def test_schedulers_drive_the_learning_rate(spec: str, name: str) -> None:
    """As they do for torch.optim.Adam; and every step uses the rate that it finds."""
    driven, by_hand = plain(spec)(parameters(), lr=0.05), plain(spec)(parameters(), lr=0.05)
    reference = torch.optim.Adam(parameters(), lr=0.05)
    schedulers = [SCHEDULES[name](o) for o in (driven, reference)]
    for step in range(8):
        rate = driven.param_groups[0]["lr"]
        assert rate == reference.param_groups[0]["lr"]
        by_hand.param_groups[0]["lr"] = rate
        before = [bits(p) for p in held(driven)]
        train(driven, [step])
        train(by_hand, [step])
        # What averages moves on towards the last point, and LARS by its velocity, which has the
        # rate in it, as in the paper's algorithm 1.
        if rate == 0 and not driven.compiled.evaluates and spec != "lars":
            assert [bits(p) for p in held(driven)] == before
        reference.step()
        for scheduler in schedulers:
            scheduler.step()
    assert fingerprint(driven)["parameters"] == fingerprint(by_hand)["parameters"]
    assert fingerprint(driven)["state"] == fingerprint(by_hand)["state"]


def test_one_cycle_drives_the_momentum_too() -> None:
    mine, theirs = parameters(), parameters()
    optimizers = [
        optdsl.load("sgd")(mine, lr=0.01, momentum=0.9),
        torch.optim.SGD(theirs, lr=0.01, momentum=0.9),
    ]
    schedulers = [lr_scheduler.OneCycleLR(o, 0.02, total_steps=8) for o in optimizers]
    seen = set()
    for step in range(8):
        for optimizer, scheduler in zip(optimizers, schedulers, strict=True):
            train(optimizer, [step])
            scheduler.step()
        seen.add(optimizers[0].param_groups[0]["momentum"])
    assert len(seen) > 3
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_a_scheduler_may_drive_any_hyperparameter() -> None:
    """A new value in the group acts from the next step on."""
    optimizer, reference = optdsl.load("adamw")(parameters()), torch.optim.AdamW(parameters())
    for step in range(4):
        optimizer.param_groups[0]["weight_decay"] = reference.param_groups[0]["weight_decay"] = step
        optimizer.param_groups[0]["beta1"] = 0.5 + step / 10
        reference.param_groups[0]["betas"] = (0.5 + step / 10, 0.999)
        train(optimizer, [step])
        train(reference, [step])
    torch.testing.assert_close(held(optimizer), held(reference), rtol=1e-12, atol=1e-12)


def test_options_of_torch_that_are_off_are_taken_where_a_rule_is_without() -> None:
    for name, option in (("adamw", "amsgrad"), ("adam", "amsgrad"), ("lion", "nesterov")):
        plain, off = (optdsl.load(name)(parameters(), **kw) for kw in ({}, {option: False}))
        for optimizer in (plain, off):
            train(optimizer, range(3))
        assert fingerprint(plain) == fingerprint(off)
        with pytest.raises(TypeError, match=rf"no hyperparameter '{option}': optdsl.load"):
            optdsl.load(name)(parameters(), **{option: True})
    for name, option in (("amsgrad", "amsgrad"), ("adan", "nesterov")):
        with pytest.raises(TypeError, match=f"a rule with {option}"):
            optdsl.load(name)(parameters(), **{option: False})
    assert optdsl.load("sgd")(parameters(), nesterov=False).param_groups[0]["nesterov"] == 0
